"""torch.onnx.export(dynamo=True) turns our layers into ONNX's own nodes; onnxruntime computes what eager does."""

import pytest
import torch
from helpers import LAYERS, flat, make, random, states

import fusedrnn.onnx

pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="the exported model is run by onnxruntime")

I, H = 4, 6
T_AND_B = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
SIZES = [(5, 3), (7, 2), (9, 6)]
NODE = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU"}
EACH_SLOWLY = [pytest.param(kind, marks=() if kind == "gru" else pytest.mark.slow) for kind in LAYERS]
# The exporter copies tree specs in a way that torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")


class Call(torch.nn.Module):
    """A layer called with everything that ONNX knows: first states and lengths; returns all it returns."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, hx, lengths):
        return flat(self.layer(x, hx, lengths=lengths))


def exported(model, inputs, shapes):
    return torch.onnx.export(
        model.eval(), inputs, dynamo=True, verbose=False, dynamic_shapes=shapes,
        custom_translation_table=fusedrnn.onnx.translations(),
    )  # fmt: skip


def session(program, path):
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, inputs):
    """onnxruntime's outputs; inputs that the graph does not use are left out of it."""
    values = dict(zip([i.name for i in session.get_inputs()], (value.numpy() for value in flat(inputs)), strict=True))
    return [torch.from_numpy(output) for output in session.run(None, values)]


def nodes(program):
    return [node.op_type for node in program.model.graph if node.op_type in NODE.values()]


@pytest.mark.parametrize(
    "bidirectional", [pytest.param(False, id="one direction", marks=pytest.mark.slow), pytest.param(True, id="both")]
)
@pytest.mark.parametrize("kind", [pytest.param("rnn_tanh", marks=pytest.mark.slow), "rnn_relu", "lstm", "gru"])
def test_states_and_lengths_in_every_size(kind, bidirectional, tmp_path):
    layer = make(kind, I, H, num_layers=2, bidirectional=bidirectional, dtype=torch.float32)[0]
    model, rows = Call(layer), 4 if bidirectional else 2

    def inputs(T, B):
        lengths = torch.arange(B) * 2 % (T + 1)  # from 0 to T, in no order
        return random(T, B, I, dtype=torch.float32), states(kind, rows, B, H, dtype=torch.float32), lengths

    of_state = {1: torch.export.Dim.DYNAMIC}
    shapes = (T_AND_B, (of_state, of_state) if kind == "lstm" else of_state, {0: torch.export.Dim.DYNAMIC})
    program = exported(model, inputs(5, 3), shapes)
    assert nodes(program) == [NODE[kind]] * 2
    running = session(program, tmp_path / "model.onnx")
    for size in SIZES:
        given = inputs(*size)
        with torch.no_grad():
            for ours, theirs in zip(model(*given), run(running, given), strict=True):
                torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize("kind", EACH_SLOWLY)
def test_a_plain_layer_without_bias_inside_a_model(kind, tmp_path):
    layer = make(kind, I, H, bias=False, batch_first=True, dtype=torch.float32)[0]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = layer, torch.nn.Linear(H, 2)

        def forward(self, x):
            return self.head(self.layer(x)[0])

    model = Model()
    program = exported(model, (random(3, 5, I, dtype=torch.float32),), (T_AND_B,))
    running = session(program, tmp_path / "model.onnx")
    for size in SIZES:
        x = random(*size, I, dtype=torch.float32)
        with torch.no_grad():
            torch.testing.assert_close(run(running, [x])[0], model(x))


@pytest.mark.parametrize("kind", EACH_SLOWLY)
def test_cells(kind, tmp_path):
    name, extra = LAYERS[kind]
    cell = getattr(fusedrnn, name + "Cell")(I, H, **extra)
    program = exported(cell, (random(3, I, dtype=torch.float32),), ({0: torch.export.Dim.DYNAMIC},))
    running = session(program, tmp_path / "model.onnx")
    for B in (3, 7):
        x = random(B, I, dtype=torch.float32)
        with torch.no_grad():
            for ours, theirs in zip(flat(cell(x)), run(running, [x]), strict=True):
                torch.testing.assert_close(theirs, ours)


def test_translations_that_were_forgotten_can_be_told_from_the_error():
    layer, x = fusedrnn.GRU(I, H).eval(), random(5, 3, I, dtype=torch.float32)
    with pytest.raises(torch.onnx.OnnxExporterError, match="No ONNX function found for .*fusedrnn.layer"):
        torch.onnx.export(layer, (x,), dynamo=True, verbose=False)


class Resetting(Call):
    def forward(self, x, reset):
        return self.layer(x, reset=reset)[0]


class CellStates(Call):
    def forward(self, x):
        return self.layer(x, return_cell_states=True)[2]


class Packed(Call):
    def forward(self, rows, batch_sizes):
        return self.layer(torch.nn.utils.rnn.PackedSequence(rows, batch_sizes))[0].data


@pytest.mark.parametrize(
    "model, inputs, what",
    [
        (fusedrnn.LSTM(I, H, proj_size=3), [(5, 3, I)], "no projection"),
        (Resetting(fusedrnn.GRU(I, H)), [(5, 3, I), torch.zeros(5, 3).bool()], "no resets inside a sequence"),
        (CellStates(fusedrnn.LSTM(I, H)), [(5, 3, I)], "no cell states of every step"),
        (Packed(fusedrnn.GRU(I, H)), [(8, I), torch.tensor([3, 3, 2])], "no packed rows"),
    ],
    ids=["projection", "reset", "cell states", "packed"],
)
def test_what_onnx_lacks_is_refused_with_the_reason(model, inputs, what):
    inputs = tuple(i if isinstance(i, torch.Tensor) else random(*i, dtype=torch.float32) for i in inputs)
    with pytest.raises(torch.onnx.OnnxExporterError, match=f"{what}: export the model without"):
        exported(model, inputs, None)
