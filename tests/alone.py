"""What lengths and resets mean: a torch.nn layer that runs every piece of every sequence alone."""

import torch
from helpers import flat


def segments(length, reset):
    """The bounds of the pieces into which reset cuts the first `length` steps."""
    cuts = [t for t in range(1, length) if reset[t]]
    return list(zip([0, *cuts], [*cuts, length])) if length else []


def alone(module, x, hx=None, lengths=None, reset=None, reset_to="zeros"):
    """What a torch.nn layer gives, each segment of each row run alone: no lengths and no resets anywhere."""
    (T, B, _), LD, D = x.shape, module.num_layers * (1 + module.bidirectional), 1 + module.bidirectional
    lengths = [T] * B if lengths is None else lengths
    first = [x.new_zeros(LD, B, module.hidden_size) for _ in range(2 if module.mode == "LSTM" else 1)] if hx is None else flat(hx)
    forward = (torch.arange(LD, device=x.device) % D == 0).view(LD, 1, 1)
    rows, last = [], []
    for b in range(B):
        own = [state[:, b : b + 1] for state in first]
        again = own if reset_to == "hx" else [torch.zeros_like(state) for state in own]
        marks = [False] * T if reset is None else reset[:, b].tolist()
        pieces, ends = [], own
        bounds = segments(lengths[b], marks)
        for start, stop in bounds:
            # A forward direction enters the first piece, a reverse one the last, with the given state.
            fresh_forward, fresh_reverse = start > 0 or marks[0], stop < lengths[b]
            fresh = forward & fresh_forward | ~forward & fresh_reverse
            entering = [torch.where(fresh, a, o) for a, o in zip(again, own)]
            y, left = module(x[start:stop, b : b + 1], tuple(entering) if len(entering) > 1 else entering[0])
            pieces.append(y)
            left = flat(left)
            # ... and leaves the sequence through the last piece, a reverse one through the first.
            ends = left if start == 0 else [torch.where(forward, now, end) for now, end in zip(left, ends)]
        pieces.append(x.new_zeros(T - lengths[b], 1, D * module.hidden_size))
        rows.append(torch.cat(pieces))
        last.append(ends)
    last = [torch.cat(state, 1) for state in zip(*last)]
    return torch.cat(rows, 1), tuple(last) if len(last) > 1 else last[0]


class Alone(torch.nn.Module):
    """A torch.nn layer that runs piece by piece, with the parameters' names of the layer."""

    def __init__(self, layer):
        super().__init__()
        self.__dict__["layer"] = layer

    def forward(self, x, hx=None, **given):
        return alone(self.layer, x, hx, **given)

    def zero_grad(self):
        self.layer.zero_grad()

    def named_parameters(self):
        return self.layer.named_parameters()
