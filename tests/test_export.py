"""Programs saved by torch.export and by AOTInductor run in another process, in other sizes, as eager does here."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import LAYERS, flat, make, random, states
from torch.nn.utils.rnn import PackedSequence

ROOT = Path(__file__).parents[1]
I, H = 4, 6
SIZES = [(5, 3), (7, 2), (9, 6)]
DYNAMIC = torch.export.Dim.DYNAMIC

# What a fresh process does with a saved program: it knows nothing but the file, the inputs and our library.
LOAD = {
    "export": "torch.export.load(program).module()",
    "aoti": "torch._inductor.aoti_load_package(program)",
}
RUN = """
import sys
import torch
import fusedrnn  # registers the operators that the program calls
program, inputs, outputs = sys.argv[1:]
module = {load}
with torch.no_grad():
    torch.save([torch.utils._pytree.tree_leaves(module(*given)) for given in torch.load(inputs)], outputs)
"""


class Call(torch.nn.Module):
    """A layer called with first states and, by name, what else it takes; returns all it returns."""

    def __init__(self, layer, option):
        super().__init__()
        self.layer, self.option = layer, option

    def forward(self, x, hx, given):
        return flat(self.layer(x, hx, **({} if self.option is None else {self.option: given})))


def inputs_of(kind, option, T, B, device, P=None):
    """Inputs of Call, the last of them unused without an option."""
    given = {
        "lengths": lambda: torch.arange(B, device=device) * 2 % (T + 1),  # from 0 to T, in no order
        "reset": lambda: random(T, B, device=device) > 0.5,
        None: lambda: torch.zeros(1, device=device),
    }[option]()
    dtype = torch.float32
    hx = states(kind, 4, B, H, P=P, dtype=dtype, device=device)
    return random(T, B, I, dtype=dtype, device=device), hx, given


def exported(kind, option, device, **kwargs):
    """A model of two layers in both directions, its exported program and inputs of every size."""
    layer = make(kind, I, H, num_layers=2, bidirectional=True, dtype=torch.float32, device=device, **kwargs)[0]
    model = Call(layer, option).eval()
    inputs = [inputs_of(kind, option, *size, device, kwargs.get("proj_size")) for size in SIZES]
    of_state = {1: DYNAMIC}
    of_given = {"lengths": {0: DYNAMIC}, "reset": {0: DYNAMIC, 1: DYNAMIC}, None: None}[option]
    shapes = ({0: DYNAMIC, 1: DYNAMIC}, (of_state, of_state) if kind == "lstm" else of_state, of_given)
    with torch.no_grad():
        return model, torch.export.export(model, inputs[0], dynamic_shapes=shapes), inputs


def run_elsewhere(how, program, inputs, folder):
    torch.save(inputs, folder / "inputs.pt")
    command = [sys.executable, "-c", RUN.format(load=LOAD[how]), program, folder / "inputs.pt", folder / "outputs.pt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "outputs.pt")


def assert_as_eager(model, inputs, outputs):
    assert len(outputs) == len(SIZES)
    for given, out in zip(inputs, outputs):
        with torch.no_grad():
            for ours, theirs in zip(model(*given), out, strict=True):
                torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize("option", [None, "lengths", "reset"], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_an_exported_program_with_states_takes_other_sizes(kind, option, device):
    model, program, inputs = exported(kind, option, device)
    assert_as_eager(model, inputs, [flat(program.module()(*given)) for given in inputs])


class CallPacked(torch.nn.Module):
    """A layer called with the parts of a PackedSequence; returns all it returns, without the rest of the packing."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, rows, batch_sizes, hx):
        y, last = self.layer(PackedSequence(rows, batch_sizes), hx)
        return [y.data, *flat(last)]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind, kwargs", [("gru", {}), ("lstm", {"proj_size": 3})])
def test_packed_rows_with_first_states_take_other_sizes(kind, kwargs, strict, device):
    layer = make(kind, I, H, num_layers=2, bidirectional=True, dtype=torch.float32, device=device, **kwargs)[0]
    model, inputs = CallPacked(layer).eval(), []
    for sizes in ([3, 2, 1], [5, 5, 2, 1], [2]):
        hx = states(kind, 4, sizes[0], H, P=kwargs.get("proj_size"), dtype=torch.float32, device=device)
        inputs.append((random(sum(sizes), I, dtype=torch.float32, device=device), torch.tensor(sizes), hx))
    of_state = {1: DYNAMIC}
    shapes = ({0: DYNAMIC}, {0: DYNAMIC}, (of_state, of_state) if kind == "lstm" else of_state)
    program = torch.export.export(model, inputs[0], dynamic_shapes=shapes, strict=strict).module()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for given in inputs:
        expected = model(*given)
        for found in (program(*given), compiled(*given)):
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other)
    rows, batch_sizes, hx = inputs[0]
    with pytest.raises((RuntimeError, ValueError), match="h_0 must be"):
        program(rows, batch_sizes, inputs[1][2])


@pytest.mark.parametrize(
    "kind, option",
    [
        ("lstm", "lengths"),
        pytest.param("gru", "reset", marks=pytest.mark.slow),
        pytest.param("rnn_tanh", None, marks=pytest.mark.slow),
    ],
)
def test_a_saved_program_runs_in_a_fresh_process(kind, option, device, tmp_path):
    model, program, inputs = exported(kind, option, device)
    torch.export.save(program, tmp_path / "program.pt2")
    assert_as_eager(model, inputs, run_elsewhere("export", tmp_path / "program.pt2", inputs, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, option, kwargs",
    [
        pytest.param("lstm", "lengths", {"proj_size": 3}, id="lstm, projection, lengths"),
        pytest.param("gru", "reset", {"bias": False}, id="gru, no bias, reset"),
    ],
)
def test_an_aot_inductor_package_runs_in_a_fresh_process(kind, option, kwargs, device, tmp_path):
    model, program, inputs = exported(kind, option, device, **kwargs)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
    assert_as_eager(model, inputs, run_elsewhere("aoti", package, inputs, tmp_path))
