"""Other ways to run the same layer, each optional: a compiled loop over torch.nn's cells, and public libraries.

A library that is not installed is skipped by name. The adapters bring torch.nn's weights into the layout of the
library and its gradients back, so that it is verified like everything else: an adapter that misreads a library makes
it wrong, and what is wrong is not timed. "compiled" is always there; the others are `haste_pytorch`, `flashrnn` and
`torchrl`, of which the first two need CUDA.
"""

import importlib
import importlib.util

import torch

LONGEST_UNROLLED = 16  # steps of a compiled loop: torch.compile unrolls it, and compiling takes a minute for a hundred
MODULES = {"haste": "haste_pytorch", "flashrnn": "flashrnn", "torchrl": "torchrl"}


class Unsupported(ValueError):
    """The peer does not have such a layer, or is not installed."""


def build(name, case, layer):
    """Return (module, forward, its parameters[, gradients → in torch.nn's layout]) of a peer for torch.nn's `layer`."""
    if name in MODULES and importlib.util.find_spec(MODULES[name]) is None:
        raise Unsupported(f"{MODULES[name]} is not installed")
    if case.layers > 1 or case.bidirectional or case.ragged or case.form:
        raise Unsupported("one layer, one direction and whole rows only")
    return PEERS[name](case, layer)


class Loop(torch.nn.Module):
    """torch.nn's cell in a Python loop over the steps."""

    def __init__(self, case, layer):
        super().__init__()
        kind = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell, "rnn": torch.nn.RNNCell}[case.cell]
        weight = layer.weight_ih_l0
        self.cell = kind(case.H, case.H, device=weight.device, dtype=weight.dtype)
        self.cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
        self.keeps_cell = case.cell == "lstm"

    def forward(self, x):
        state = x.new_zeros(x.shape[1], self.cell.hidden_size)
        state = (state, state) if self.keeps_cell else state
        steps = []
        for x_t in x.unbind(0):
            state = self.cell(x_t, state)
            steps.append(state[0] if self.keeps_cell else state)
        return torch.stack(steps)


def compiled(case, layer):
    if case.T > LONGEST_UNROLLED:
        raise Unsupported(f"T = {case.T} is too long to unroll; at most {LONGEST_UNROLLED}")
    torch._dynamo.reset()  # or the sizes of earlier cases would make this one's dynamic
    importlib.import_module("torch._inductor.config").compile_threads = 1  # starting its pool takes longer than compiling
    loop = Loop(case, layer)
    return loop, torch.compile(loop, dynamic=False), list(loop.parameters())


def torchrl(case, layer):
    if case.cell == "rnn":
        raise Unsupported("no such cell")
    kind = getattr(importlib.import_module("torchrl.modules"), case.cell.upper())
    theirs = kind(case.H, case.H, batch_first=True).to(layer.weight_ih_l0)
    theirs.load_state_dict(layer.state_dict())
    forward = lambda x: theirs(x.transpose(0, 1))[0].transpose(0, 1)
    return theirs, forward, [theirs.get_parameter(name) for name, _ in layer.named_parameters()]


def reorder(weight, gates):
    """The rows of a weight or bias with its gates in another order."""
    chunks = weight.chunk(len(gates))
    return torch.cat([chunks[gate] for gate in gates])


def haste(case, layer):
    """haste's gates are i, g, f, o and z, r, g, its weights transposed, and its LSTM has one bias for torch's two."""
    if case.cell == "rnn" or layer.weight_ih_l0.device.type != "cuda":
        raise Unsupported("LSTM and GRU on CUDA only")
    theirs = getattr(importlib.import_module("haste_pytorch"), case.cell.upper())(case.H, case.H)
    theirs.to(layer.weight_ih_l0)
    order = (0, 2, 1, 3) if case.cell == "lstm" else (1, 0, 2)  # its own inverse
    w_ih, w_hh, b_ih, b_hh = (reorder(weight.detach(), order) for weight in layer.parameters())
    values = [w_ih.T, w_hh.T, b_ih + b_hh] if case.cell == "lstm" else [w_ih.T, w_hh.T, b_ih, b_hh]
    names = ["kernel", "recurrent_kernel", "bias", "recurrent_bias"][: len(values)]
    parameters = [theirs.get_parameter(name) for name in names]
    for parameter, value in zip(parameters, values):
        parameter.data.copy_(value)

    def as_torch(gradients):
        weights, biases = [g.T for g in gradients[:2]], gradients[2:]
        return [reorder(g, order) for g in (*weights, *(biases * 2)[:2])]

    return theirs, lambda x: theirs(x)[0], parameters, as_torch


class Flash(torch.nn.Module):
    """FlashRNN with one head; it computes the recurrence, and a linear layer before it the input's part."""

    def __init__(self, case, layer):
        super().__init__()
        self.run, self.function = importlib.import_module("flashrnn").flashrnn, case.cell.replace("rnn", "elman")
        self.H, self.gates = case.H, layer.weight_hh_l0.shape[0] // case.H
        w_ih, w_hh, b_ih, b_hh = (weight.detach().clone() for weight in layer.parameters())
        self.w = torch.nn.Parameter(w_ih)
        self.r = torch.nn.Parameter(w_hh.view(self.gates, 1, case.H, case.H))
        self.b = torch.nn.Parameter((b_ih + b_hh).view(self.gates, 1, case.H))

    def forward(self, x):
        wx = torch.nn.functional.linear(x.transpose(0, 1), self.w).unflatten(2, (self.gates, 1, self.H))
        states, _ = self.run(wx, self.r, self.b, function=self.function)
        return states[0].flatten(2).transpose(0, 1)

    def as_torch(self, gradients):
        w, r, b = gradients
        return [w, r.reshape(-1, self.H), b.reshape(-1), b.reshape(-1)]


def flashrnn(case, layer):
    if case.cell == "gru" or layer.weight_ih_l0.device.type != "cuda":
        raise Unsupported("LSTM and Elman RNN on CUDA only: its GRU adds up other products")
    theirs = Flash(case, layer)
    return theirs, theirs, [theirs.w, theirs.r, theirs.b], theirs.as_torch


PEERS = {"compiled": compiled, "haste": haste, "flashrnn": flashrnn, "torchrl": torchrl}
