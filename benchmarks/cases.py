"""The layers that are compared: torch.nn's, ours with the same weights, and torch.nn's in float64 for the truth."""

import copy
import dataclasses

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fusedrnn

from .timing import OURS

LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
PASSES = ("train", "infer")


@dataclasses.dataclass(frozen=True)
class Case:
    """The layer and the batch of one comparison; the input is as wide as the state."""

    cell: str
    B: int
    T: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    dtype: str = "float32"
    ragged: bool = False  # rows of unequal length, drawn evenly from 1 to T

    def __str__(self):
        name = f"{self.cell} B={self.B} T={self.T} H={self.H}" + f" L={self.layers}" * (self.layers > 1)
        name += " bi" * self.bidirectional + " ragged" * self.ragged
        return name + f" {self.dtype}" * (self.dtype != "float32")


def contenders(case, mode, device="cpu"):
    """Return {name: pass} of the same layer on the same data, with torch.nn's in float64 on the CPU as "exact".

    A pass is a function of nothing that returns y, zero in the padding, and in training the gradients of x and of
    every weight. The first contender is the one whose rounding errors ours are held against. Weights and data do not
    depend on the dtype, so neither does the truth.
    """
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    make = getattr(torch.nn, LAYERS[case.cell])
    true = make(case.H, case.H, case.layers, bidirectional=case.bidirectional).train(mode == "train")
    with torch.no_grad():
        for weight in true.parameters():
            weight.copy_(in_every_dtype(weight))
    theirs = copy.deepcopy(true).to(device, dtype)
    theirs.flatten_parameters()
    ours = fusedrnn.convert(copy.deepcopy(theirs), report=None)
    x = in_every_dtype(torch.randn(case.T, case.B, case.H))
    d_y = in_every_dtype(torch.randn(case.T, case.B, (1 + case.bidirectional) * case.H))
    lengths = padding = None
    if case.ragged:
        lengths = torch.randint(1, case.T + 1, (case.B,))
        padding = (torch.arange(case.T)[:, None] >= lengths)[..., None]
        d_y = d_y.masked_fill(padding, 0)  # no loss looks at the padding

    def run(layer, packed):
        like = next(layer.parameters())
        x_, d_y_ = x.to(like).requires_grad_(mode == "train"), d_y.to(like)

        def forward():
            if packed:
                rows = pack_padded_sequence(x_, lengths, enforce_sorted=False)
                return pad_packed_sequence(layer(rows)[0], total_length=case.T)[0]
            return layer(x_)[0]

        def infer():
            with torch.no_grad():
                return [forward()]

        def train():
            y = forward()
            return [y, *torch.autograd.grad(y, [x_, *layer.parameters()], d_y_)]

        return train if mode == "train" else infer

    exact = run(true.double(), case.ragged)
    if not case.ragged:
        passes = {"torch.nn": run(theirs, False)}
    else:
        passes = {"torch.nn packed": run(theirs, True)}
        if not case.bidirectional:  # a reverse direction that starts in the padding computes something else
            padded, mask = run(theirs, False), padding.to(device)
            passes["torch.nn padded"] = lambda: [(out := padded())[0].masked_fill(mask, 0), *out[1:]]
    return {**passes, OURS: run(ours, case.ragged), "exact": exact}


def in_every_dtype(tensor):
    """The nearest values that float16 and bfloat16 hold alike, in float32."""
    return tensor.bfloat16().half().float()
