"""Under autocast every layer and cell computes in autocast's dtype and returns it, but for cells that torch.nn leaves in float32
on the CPU; a GradScaler trains with that."""

import copy

import pytest
import torch
from helpers import CELLS, LAYERS, flat, make, outcome, random, states

T, B, I, H = 6, 3, 4, 8
KEPT = ("lstm", "gru")  # cells that torch.nn leaves in float32 on the CPU, where their state is
LOW = [torch.bfloat16, torch.float16]


def inputs(table, kind, dtype, device):
    leading, of_state = ((B,), (B, H)) if table is CELLS else ((T, B), (1, B, H))
    return random(*leading, I, dtype=dtype, device=device), states(kind, *of_state, dtype=dtype, device=device)


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("table", [LAYERS, CELLS], ids=["layer", "cell"])
@pytest.mark.parametrize("kind", LAYERS)
def test_results_are_of_autocasts_dtype_and_those_of_a_converted_module(kind, table, low, device):
    module = make(kind, I, H, table=table, dtype=torch.float32, device=device)[0]
    if table is CELLS and kind in KEPT and device.type == "cpu":
        pytest.skip("stays in float32")
    x, hx = inputs(table, kind, torch.float32, device)
    converted = copy.deepcopy(module).to(low)
    expected = outcome(converted, x.to(low), tuple(h.to(low) for h in hx) if isinstance(hx, tuple) else hx.to(low))
    with torch.autocast(device.type, low):
        ours = outcome(module, x, hx)
    for name, value in ours.items():
        assert value.dtype == (torch.float32 if name.startswith("d_") else low), name
        torch.testing.assert_close(value.to(low), expected[name])


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, None], ids=["float32", "bfloat16", "no state"])
@pytest.mark.parametrize("of_input", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KEPT)
def test_cells_on_the_cpu_return_the_dtype_that_torchs_return(kind, of_input, given, low):
    ours, torchs, _ = make(kind, I, H, table=CELLS, dtype=torch.float32)
    x, hx = inputs(CELLS, kind, of_input, "cpu")
    if given is not None:
        hx = tuple(h.to(given) for h in hx) if isinstance(hx, tuple) else hx.to(given)
    with torch.autocast("cpu", low):
        mine, theirs = (flat(module(x, None if given is None else hx)) for module in (ours, torchs))
    for own, expected in zip(mine, theirs, strict=True):
        assert own.dtype == expected.dtype
        torch.testing.assert_close(own, expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("kind", KEPT)
def test_a_cell_that_autocast_leaves_alone_computes_as_without_it(kind):
    ours, x, hx = make(kind, I, H, table=CELLS, dtype=torch.float32)[0], *inputs(CELLS, kind, torch.float32, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        inside = outcome(ours, x, hx)
    for name, value in outcome(ours, x, hx).items():
        assert torch.equal(inside[name], value), name


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_are_cast_once_in_a_region(kind, device):
    """As autocast casts them for torch's own operations: steps of a loop do not keep a copy each for the backward."""
    ours, (x, _) = make(kind, I, H, dtype=torch.float32, device=device)[0], inputs(LAYERS, kind, torch.float32, device)
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast(device.type, torch.bfloat16):
        ys = [ours(x)[0] for _ in range(3)]
    recurrent = [t for t in kept.values() if t.shape == ours.weight_hh_l0.shape and t.dtype == torch.bfloat16]
    assert len(recurrent) == 1
    torch.stack(ys).float().sum().backward()
    assert ours.weight_hh_l0.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_takes_every_float_but_leaves_float64(kind, dtype, device):
    module = make(kind, I, H, dtype=dtype, device=device)[0]
    x, hx = inputs(LAYERS, kind, dtype, device)
    with torch.autocast(device.type, torch.bfloat16):
        kept = {value.dtype for value in flat(module(x, hx))}
    assert kept == {torch.float64 if dtype == torch.float64 else torch.bfloat16}


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_can_be_turned_off_inside(kind, device):
    module = make(kind, I, H, dtype=torch.float32, device=device)[0]
    x, hx = inputs(LAYERS, kind, torch.float32, device)
    with torch.autocast(device.type, torch.bfloat16), torch.autocast(device.type, enabled=False):
        inside = flat(module(x, hx))
    for ours, expected in zip(inside, flat(module(x, hx)), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_grad_scaler_trains_in_float16(kind, device):
    """Scaled training in float16 stays near training in float32, and a step with infinite gradients is left out."""
    layers = [make(kind, I, H, dtype=torch.float32, device=device)[0]]
    layers.append(copy.deepcopy(layers[0]))
    x = random(T, B, I, dtype=torch.float32, device=device)
    histories = []
    for layer, enabled in zip(layers, (False, True)):
        optimizer, history = torch.optim.SGD(layer.parameters(), lr=0.5), []
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=enabled)
        for _ in range(20):
            with torch.autocast(device.type, torch.float16, enabled=enabled):
                loss = (layer(x)[0].float() - 0.3).square().mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            history.append(loss.item())
        histories.append(history)
    assert histories[0][-1] < 0.8 * histories[0][0]  # it learns
    assert histories[1] == pytest.approx(histories[0], rel=0.02)
    before = [weight.clone() for weight in layers[1].parameters()]
    optimizer.zero_grad()
    scaler.scale(layers[1](x)[0].sum() * float("inf")).backward()
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == scale / 2
    for weight, old in zip(layers[1].parameters(), before):
        assert torch.equal(weight, old)
