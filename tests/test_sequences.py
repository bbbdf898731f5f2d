"""Lengths, resets, cell states and T = 0: the modules against torch.nn run piece by piece."""

import pytest
import torch
from alone import Alone, alone
from helpers import DTYPES, LAYERS, doubled, flat, make, named, outcome, random, states
from ragged import LENGTHS, OPTIONS, RESET, SHAPES, B, H, I, T, given_on
from tolerances import assert_all_close, assert_close

from fusedrnn import functional

# --- the modules against torch.nn, each row and each segment run alone ---------------------------------------------


@pytest.mark.parametrize("given", ["hx", "zeros"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_piece_is_as_if_run_alone(kind, option, shape, given, device):
    ours, torchs, _ = make(kind, I, H, device=device, **SHAPES[shape])
    x = random(T, B, I, device=device)
    LD = ours.num_layers * (1 + ours.bidirectional)
    hx = states(kind, LD, B, H, device=device) if given == "hx" else None
    expected = outcome(Alone(torchs), x, hx, **given_on(device, option))
    assert_all_close(outcome(ours, x, hx, **given_on(device, option)), expected, expected)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_batch_first_takes_lengths_and_reset_in_its_own_layout(kind, option, device):
    ours, torchs, _ = make(kind, I, H, bidirectional=True, device=device)
    x, hx, given = random(T, B, I, device=device), states(kind, 2, B, H, device=device), given_on(device, option)
    y, last = alone(torchs, x, hx, **given)
    ours.batch_first = True
    if "reset" in given:
        given["reset"] = given["reset"].t()
    outputs = ours(x.transpose(0, 1), hx, **given)
    for mine, theirs in zip(flat(outputs), flat((y.transpose(0, 1), last))):
        assert_close(mine, theirs, theirs, option)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("length", [4, 0, torch.tensor(3)], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_unbatched_input_takes_one_length_and_a_flat_reset(kind, length, batch_first, device):
    ours, torchs, _ = make(kind, I, H, bidirectional=True, device=device)
    x, hx = random(T, I, device=device), states(kind, 2, H, device=device)
    reset = RESET[:, 0].to(device)
    batched = tuple(s.unsqueeze(1) for s in hx) if kind == "lstm" else hx.unsqueeze(1)
    expected = flat(alone(torchs, x.unsqueeze(1), batched, lengths=[int(length)], reset=reset.unsqueeze(1)))
    ours.batch_first = batch_first
    for mine, theirs in zip(flat(ours(x, hx, lengths=length, reset=reset)), expected):
        assert_close(mine, theirs.squeeze(1), theirs.squeeze(1), "output")


@pytest.mark.parametrize("form", ["list", "tuple", "int64", "int32", "uint8", "device", "strided"])
def test_lengths_come_in_any_form(form, device):
    ours, torchs, _ = make("gru", I, H, bidirectional=True, device=device)
    x = random(T, B, I, device=device)
    lengths = {
        "list": LENGTHS,
        "tuple": tuple(LENGTHS),
        "int64": torch.tensor(LENGTHS),
        "int32": torch.tensor(LENGTHS, dtype=torch.int32),
        "uint8": torch.tensor(LENGTHS, dtype=torch.uint8),
        "device": torch.tensor(LENGTHS, device=device),
        "strided": torch.tensor(LENGTHS).repeat_interleave(2)[::2],
    }[form]
    for mine, theirs in zip(ours(x, lengths=lengths), alone(torchs, x, lengths=LENGTHS)):
        assert_close(mine, theirs, theirs, form)


@pytest.mark.parametrize("option", [{"lengths": [T] * B}, {"reset": torch.zeros(T, B, dtype=torch.bool)}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_full_lengths_and_an_empty_reset_change_nothing(kind, option, device):
    ours, _, _ = make(kind, I, H, bidirectional=True, device=device)
    x = random(T, B, I, device=device)
    option = {key: value.to(device) if key == "reset" else value for key, value in option.items()}
    expected = outcome(ours, x)
    assert_all_close(outcome(ours, x, **option), expected, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_padding_does_not_matter_even_when_it_is_not_a_number(kind, device):
    ours, _, _ = make(kind, I, H, num_layers=2, bidirectional=True, device=device)
    x = random(T, B, I, device=device)
    padding = torch.arange(T, device=device).unsqueeze(1) >= torch.tensor(LENGTHS, device=device)
    expected = outcome(ours, x, lengths=LENGTHS)
    mine = outcome(ours, x.masked_fill(padding.unsqueeze(-1), torch.nan), lengths=LENGTHS)
    for name in expected:
        assert torch.equal(mine[name], expected[name]), name
    assert (mine["y"][padding] == 0).all() and (mine["d_x"][padding] == 0).all()
    assert (mine["d_x"][~padding] != 0).any()


@pytest.mark.parametrize("kind", LAYERS)
def test_no_gradient_crosses_a_reset(kind, device):
    ours, _, _ = make(kind, I, H, bidirectional=True, device=device)
    x = random(T, B, I, device=device).requires_grad_()
    reset = torch.zeros(T, B, dtype=torch.bool, device=device)
    reset[3] = True
    y, _ = ours(x, reset=reset)
    (d_x,) = torch.autograd.grad(y[3:].sum(), x, retain_graph=True)
    assert (d_x[:3] == 0).all() and (d_x[3:].abs().amax(-1) > 0).any()
    (d_x,) = torch.autograd.grad(y[:3].sum(), x)
    assert (d_x[3:] == 0).all() and (d_x[:3].abs().amax(-1) > 0).any()


@pytest.mark.parametrize("reset_to", ["zeros", "hx"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_first_state_has_a_gradient_only_where_it_is_used(kind, reset_to, device):
    ours, _, _ = make(kind, I, H, device=device)
    x, hx = random(T, B, I, device=device), states(kind, 1, B, H, device=device)
    reset = torch.zeros(T, B, dtype=torch.bool, device=device)
    reset[0, 1] = True
    d_h_0 = outcome(ours, x, hx, reset=reset, reset_to=reset_to)["d_h_0"]
    assert (d_h_0[0, 0] != 0).any()
    assert (d_h_0[0, 1] != 0).any() == (reset_to == "hx")


# --- cell states and T = 0 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["time first", "batch first", "unbatched"])
def test_cell_states_are_those_of_shorter_runs(layout, device):
    ours, torchs, _ = make("lstm", I, H, num_layers=2, bidirectional=True, device=device)
    x = random(T, B, I, device=device)
    ours.batch_first = layout == "batch first"
    given = {"time first": x, "batch first": x.transpose(0, 1), "unbatched": x[:, 0]}[layout]
    y, _, c = ours(given, return_cell_states=True)
    assert c.dtype == y.dtype
    c = {"time first": c, "batch first": c.transpose(0, 1), "unbatched": c.unsqueeze(1)}[layout]
    # The last layer alone, fed with the first layer's output, from either end.
    first, last = torch.nn.LSTM(I, H, bidirectional=True).to(x), torch.nn.LSTM(2 * H, H, bidirectional=True).to(x)
    for layer, module in enumerate((first, last)):
        for name, parameter in module.named_parameters():
            parameter.data = getattr(torchs, name.replace("_l0", f"_l{layer}")).data
    between = first(x)[0]
    for t in range(T):
        expected = torch.cat([last(between[: t + 1])[1][1][0], last(between[t:])[1][1][1]], -1)
        expected = expected[:1] if layout == "unbatched" else expected
        assert_close(c[t], expected, expected, f"c[{t}]")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loss_on_cell_states_alone_has_gradients(dtype, device):
    ours, torchs, exact = make("lstm", I, H, dtype=dtype, device=device)
    x, hx = random(T, B, I, dtype=dtype, device=device), states("lstm", 1, B, H, dtype=dtype, device=device)

    class Steps(torch.nn.Module):
        """torch.nn.LSTM one step at a time, keeping c."""

        def __init__(self, lstm):
            super().__init__()
            self.__dict__["lstm"] = lstm
            self.zero_grad, self.named_parameters = lstm.zero_grad, lstm.named_parameters

        def forward(self, x, hx, **_):
            ys, cs = [], []
            for x_t in x.split(1):
                y, hx = self.lstm(x_t, hx)
                ys.append(y)
                cs.append(hx[1])
            return torch.cat(ys), hx, torch.cat(cs)

    assert_all_close(
        outcome(ours, x, hx, used={"c"}, return_cell_states=True),
        outcome(Steps(torchs), x, hx, used={"c"}),
        outcome(Steps(exact), doubled(x), doubled(hx), used={"c"}),
    )


@pytest.mark.parametrize("given", ["hx", "zeros"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_no_steps_leave_the_first_state(kind, shape, given, device):
    ours, _, _ = make(kind, I, H, device=device, **SHAPES[shape])
    D = 1 + ours.bidirectional
    LD = ours.num_layers * D
    hx = states(kind, LD, B, H, device=device) if given == "hx" else None
    results = outcome(ours, random(0, B, I, device=device), hx)
    assert results["y"].shape == (0, B, D * H)
    for i, state in enumerate(flat(hx)):
        assert torch.equal(results[("h_n", "c_n")[i]], state)
        assert (results[("d_h_0", "d_c_0")[i]] != 0).any()
    if given == "zeros":
        assert torch.equal(results["h_n"], torch.zeros(LD, B, H, dtype=torch.float64, device=device))
    for name in dict(ours.named_parameters()):
        assert torch.equal(results[f"d_{name}"], torch.zeros_like(results[f"d_{name}"]))


@pytest.mark.parametrize("batch_first", [False, True])
def test_no_steps_with_every_option(batch_first, device):
    ours, _, _ = make("lstm", I, H, batch_first=batch_first, device=device)
    x, reset = random(0, B, I, device=device), torch.zeros(0, B, dtype=torch.bool, device=device)
    x, reset = (x.transpose(0, 1), reset.t()) if batch_first else (x, reset)
    outputs = named(ours(x, lengths=[0] * B, reset=reset, return_cell_states=True))
    assert outputs["y"].shape == outputs["c"].shape == ((B, 0, H) if batch_first else (0, B, H))
    assert outputs["h_n"].shape == outputs["c_n"].shape == (1, B, H)


@pytest.mark.parametrize("form", ["list", "NumPy"])
@pytest.mark.parametrize("shape", ["time first", "batch first", "one sequence"])
def test_lengths_and_resets_may_be_lists_or_arrays(shape, form, device):
    ours = make("gru", I, H, batch_first=shape == "batch first", device=device)[0]
    x, lengths, reset = random(4, 3, I, device=device), torch.tensor([4, 0, 3]), torch.arange(12).view(4, 3) % 5 == 0
    if shape == "batch first":
        x, reset = x.transpose(0, 1), reset.t()
    if shape == "one sequence":
        x, lengths, reset = x[:, 0], lengths[2], reset[:, 0]
    as_given = (lambda t: t.tolist()) if form == "list" else (lambda t: t.numpy())
    expected = ours(x, lengths=lengths, reset=reset.to(device))
    assert all(map(torch.equal, flat(ours(x, lengths=as_given(lengths), reset=as_given(reset))), flat(expected)))
    if shape == "time first":
        weights = ours._weights()
        found = functional.gru(x, weights, lengths=as_given(lengths), reset=as_given(reset))
        assert all(map(torch.equal, flat(found), flat(expected)))
    if shape != "time first":  # of no steps, a list has no room for the rows there
        empty, nothing = (x[:0], []) if shape == "one sequence" else (x[:, :0], [[]] * 3)
        assert ours(empty, reset=nothing)[0].numel() == 0


@pytest.mark.parametrize("lengths", [[], (), torch.zeros(0, dtype=torch.int64)], ids=str)
def test_no_sequences_have_no_lengths(lengths, device):
    ours, _, _ = make("gru", I, H, device=device)
    y, h_n = ours(random(T, 0, I, device=device), lengths=lengths)
    assert y.shape == (T, 0, H) and h_n.shape == (1, 0, H)


@pytest.mark.parametrize("by", ["torch", "NumPy"])
@pytest.mark.parametrize("kind", LAYERS)
def test_buffers_of_lengths_and_resets_may_be_filled_anew_before_the_backward(kind, by, device):
    ours, _, _ = make(kind, I, H, bidirectional=True, device=device)
    x, results = random(7, B, I, device=device).requires_grad_(), []
    for changes in (False, True):
        lengths, reset = torch.arange(B) % 8, torch.arange(7 * B).view(7, B) % 3 == 0
        if by == "torch":  # on the device, where such buffers are kept
            lengths, reset = lengths.to(device), reset.to(device)
        y = ours(x, lengths=lengths, reset=reset if by == "torch" else reset.to(device))[0]
        if changes and by == "torch":
            lengths.fill_(3), reset.logical_not_()
        elif changes:  # no version counter shows it
            lengths.numpy()[:] = 3
            reset.numpy()[:] = ~reset.numpy()
        results.append(torch.autograd.grad(y.square().sum(), [x, *ours.parameters()]))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
