"""The CUDA plan: what it decides for known devices, none of which has to be here."""

import itertools

import pytest
import torch

import fusedrnn
from fusedrnn import KNOWN_DEVICES, _ops, plan

# name → capability, multiprocessors, shared bytes a block, largest cluster
FIGURES = {name: figures[:4] for name, figures in _ops._C.cuda_devices().items()}
CELLS = list(_ops.CELLS)
HALF = torch.float16


def test_the_table_of_devices():
    assert FIGURES["A100"] == (80, 108, 166912, 0)
    assert FIGURES["H100"] == FIGURES["H200"] == (90, 132, 232448, 16)
    assert FIGURES["B200"][:1] == (100,) and FIGURES["RTX 5090"][0] == 120
    assert {FIGURES[name][0] for name in ("L4", "RTX 4090")} == {89}
    assert all(shared <= 227 * 1024 and capability >= 80 for capability, _, shared, _ in FIGURES.values())


@pytest.mark.parametrize(
    "device, H, scope, slices",
    [
        # w_hh of 128 units fits one multiprocessor, but its threads would have four units each
        *[(device, H, "block", 1) for device in KNOWN_DEVICES for H in (1, 16, 32)],
        ("H100", 64, "cluster", 4),
        ("H100", 128, "cluster", 8),
        ("H100", 256, "cluster", 16),
        ("H100", 512, "cluster", 16),
        ("H100", 1024, "grid", 64),
        ("B200", 256, "cluster", 16),
        ("A100", 64, "block", 1),
        ("A100", 128, "grid", 8),
        ("A100", 512, "grid", 32),
        ("RTX 4090", 256, "grid", 16),
        ("RTX 5090", 256, "cluster", 8),
    ],
)
def test_float16_lstm_spreads_where_that_makes_a_step_shorter(device, H, scope, slices):
    p = plan("lstm", 100, 8, H, dtype=HALF, device=device).forward
    assert (p.strategy, p.scope, p.slices) == ("persistent", scope, slices), p


@pytest.mark.parametrize("units", [16, 32, 64, 128])
def test_a_cut_that_is_asked_for_is_taken(units):
    sizes = {"T": 50, "B": 8, "H": 250, "dtype": HALF, "device": "H100"}
    p = plan("lstm", **sizes, strategy=f"persistent/{units}").forward
    assert (p.strategy, p.units, p.slices) == ("persistent", units, -(-250 // units))
    with fusedrnn.use_strategy(f"persistent/{units}"):
        assert plan("lstm", **sizes).backward.units == units
    if units > 32:
        with pytest.raises(ValueError, match=f"'persistent/{units}' cannot run the .*H = 20 on H100: blocks of {units} units are more"):
            plan("lstm", **(sizes | {"H": 20}), strategy=f"persistent/{units}")


@pytest.mark.parametrize("B, slices", [(64, 8), (128, 8), (256, 4), (512, 2), (1024, 1)])
def test_the_more_sequences_the_fewer_multiprocessors_each_group_has(B, slices):
    p = plan("lstm", 100, B, 128, dtype=HALF, device="H100").forward
    assert p.slices == slices and p.blocks <= 132, p


@pytest.mark.parametrize("device", KNOWN_DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("H", [1, 20, 128, 150, 512, 1000, 2048])
def test_every_plan_covers_the_problem_and_fits_the_device(H, dtype, device):
    _, multiprocessors, shared, cluster = FIGURES[device]
    for cell, B, bidirectional in itertools.product(CELLS, [1, 7, 8, 33, 200, 5000], [False, True]):
        made = plan(cell, 50, B, H, dtype=dtype, bidirectional=bidirectional, device=device)
        for p in (made.forward, made.backward):
            if p.strategy == "stepwise":
                assert p.reason.startswith("not persistent: ") and p.shared_bytes is None
                continue
            assert p.units * p.slices >= H > p.units * (p.slices - 1)
            assert p.batch * p.groups >= B > p.batch * (p.groups - 1) and p.batch % 8 == 0
            assert p.blocks == p.slices * p.groups * (1 + bidirectional)
            assert p.shared_bytes <= shared and p.threads == 256
            assert 0 < p.tiles_in_registers <= p.tiles
            assert p.slices == 1 if p.scope == "block" else p.slices > 1
            assert p.scope != "cluster" or p.slices <= cluster
            # blocks that wait for each other through memory must all be there at once
            assert p.scope != "grid" or p.blocks <= multiprocessors


def test_groups_share_the_multiprocessors_that_slices_leave():
    p = plan("lstm", 50, 64, 1024, dtype=HALF, device="H100").forward
    assert (p.slices, p.groups, p.batch) == (64, 2, 32)


def test_no_more_clusters_than_the_device_holds_at_once():
    """One more, and all would take as long again. A partition of 16 multiprocessors has room for two clusters of eight."""
    sizes = "lstm", 50, 300, 256, 256, 0, 1, "float16", "auto", "H100", 90, 132, 232448, 8
    estimated = _ops._C.cuda_plan(*sizes)["forward"]
    assert (estimated["slices"], estimated["groups"], estimated["batch"]) == (8, 13, 24)
    for at_once, groups, batch in ((20, 19, 16), (10, 10, 32)):
        found = _ops._C.cuda_plan(*sizes, [0, 0, 60, 0, 0, 0, 0, 0, at_once])["forward"]
        assert (found["slices"], found["groups"], found["batch"]) == (8, groups, batch)
    refused = _ops._C.cuda_plan(*sizes, [0, 0, 60, 40, 30, 24, 20, 16, 0])["forward"]
    assert refused["slices"] != 8, "a size that the device refuses is not asked of it"


@pytest.mark.parametrize(
    "given, part",
    [
        ({"dtype": torch.float64}, "float64"),
        ({"proj_size": 3, "dtype": HALF}, "projection"),
        ({"T": 1, "dtype": HALF}, "T = 1"),
        ({"H": 4096, "dtype": HALF}, "multiprocessors"),
        ({"H": 2048, "dtype": torch.float32}, "bytes of shared memory a block, H100 has 232448"),
        ({"H": 1024, "B": 1000, "dtype": HALF}, "sequences a group exceed 64"),
    ],
)
def test_what_is_not_persistent_says_why(given, part):
    p = plan("lstm", **{"T": 50, "B": 8, "H": 64, "device": "H100", **given})
    assert p.forward.strategy == "stepwise" and part in p.forward.reason
    assert part in str(p) and "stepwise" in str(p)


def test_an_older_device_runs_stepwise():
    made = _ops._C.cuda_plan("lstm", 50, 8, 64, 64, 0, 1, "float16", "auto", "V100", 70, 80, 98304, 0)
    assert made["forward"]["strategy"] == "stepwise" and "V100 has capability 70, 80 is needed" in made["forward"]["reason"]


def test_a_strategy_is_asked_for_in_a_call_and_in_a_context():
    sizes = {"T": 50, "B": 8, "H": 64, "dtype": HALF, "device": "H100"}
    assert plan("gru", **sizes).forward.strategy == "persistent"
    assert plan("gru", **sizes, strategy="stepwise").backward.strategy == "stepwise"
    with fusedrnn.use_strategy("stepwise"):
        assert plan("gru", **sizes).forward.strategy == "stepwise"
        assert plan("gru", **sizes, strategy="auto").forward.strategy == "persistent"
    assert plan("gru", **sizes).forward.strategy == "persistent"
    with pytest.raises(ValueError, match="auto, stepwise or persistent; got 'quick'"):
        fusedrnn.use_strategy("quick")
    assert plan("gru", **sizes).forward.strategy == "persistent"
    fusedrnn.use_strategy("stepwise")  # at once, as set_batch_invariant
    try:
        with fusedrnn.use_strategy("auto"):
            assert plan("gru", **sizes).forward.strategy == "persistent"
        assert plan("gru", **sizes).forward.strategy == "stepwise"
    finally:
        fusedrnn.use_strategy("auto")
    with pytest.raises(ValueError, match="auto, stepwise or persistent; got 'quick'"):
        plan("gru", **sizes, strategy="quick")


def test_a_strategy_is_asked_for_no_longer_than_its_context_even_where_that_fails():
    with pytest.raises(ZeroDivisionError), fusedrnn.use_strategy("stepwise"):
        1 / 0
    assert plan("gru", 50, 8, 64, dtype=HALF, device="H100").forward.strategy == "persistent"


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype, each", [(torch.float64, 8), (torch.float32, 4), (HALF, 2)], ids=str)
def test_saved_bytes_are_those_that_are_kept(cell, dtype, each):
    T, B, H = 7, 3, 10
    kept = {"lstm": 4 * each + max(4, each), "gru": 4 * each}.get(cell, 0)  # gates, and c in the arithmetic's type
    assert plan(cell, T, B, H, dtype=dtype, device="A100").saved_bytes == T * B * H * kept
    if cell == "lstm":  # and h before it is projected
        assert plan(cell, T, B, H, proj_size=4, dtype=dtype, device="A100").saved_bytes == T * B * H * (kept + each)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "cell, B, H, dtype", [("lstm", 8, 256, HALF), ("gru", 30, 200, torch.float32), ("rnn_tanh", 200, 512, HALF)]
)
def test_the_workspace_of_blocks_that_meet_in_memory_is_what_they_exchange(cell, B, H, dtype, bidirectional):
    made = plan(cell, 50, B, H, dtype=dtype, bidirectional=bidirectional, device="A100")

    def exchanged(p):  # a group's counter, and two vectors a sequence: tiles of 32 bytes along the depth, and 16 bytes
        assert p.scope == "grid"
        vector = p.tiles * (128 // p.units) * 32 + 16
        return (1 + bidirectional) * p.groups * (2 * p.batch * vector + 4)

    forward, backward = exchanged(made.forward), exchanged(made.backward)
    assert made.workspace_bytes == max(forward, backward)
    assert forward < backward or cell == "rnn_tanh", "h is exchanged forwards, d_u of all gates backwards"


def test_the_workspace_is_that_of_steps_where_the_backward_takes_steps():
    sizes = {"T": 50, "B": 64, "H": 384, "device": "RTX 4090"}
    made, steps = plan("lstm", **sizes), plan("lstm", **sizes, strategy="stepwise")
    assert (made.forward.strategy, made.backward.strategy) == ("persistent", "stepwise")
    assert made.workspace_bytes >= steps.workspace_bytes


def test_unknown_devices_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match=f"one of {', '.join(fusedrnn.KNOWN_DEVICES)}; got 'H900'"):
        plan("lstm", 5, 5, 5, device="H900")
    with pytest.raises(ValueError, match="got 'meta'"):
        plan("lstm", 5, 5, 5, device="meta")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device here.*A100"):
            plan("lstm", 5, 5, 5, device="cuda")


def test_a_printed_plan_names_what_runs():
    p = plan("lstm", 100, 16, 512, dtype=HALF, device="H100")
    text = str(p)
    for part in ("H100", "forward: persistent", "backward: persistent", f"{p.forward.shared_bytes:,}", "a cluster", f"{p.saved_bytes:,}"):
        assert part in text
