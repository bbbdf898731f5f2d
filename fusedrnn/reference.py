"""One recurrent layer, step by step, in plain differentiable torch operations.

Computes what `torch.ops.fusedrnn.layer` computes, from the same arguments. It is the oracle of the tests and, because it can
be differentiated any number of times, the basis of the op's double backward. It checks no arguments and favours clarity
over speed. Sums are computed in float32, or in float64 for float64 input.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from ._ops import roles

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


# A cell takes the pre-activations of the input side and of the hidden side, (B, G*H) each, and its state.


def rnn_tanh(gx: Tensor, gh: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tanh(gx + gh), c


def rnn_relu(gx: Tensor, gh: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.relu(gx + gh), c


def lstm(gx: Tensor, gh: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (gx + gh).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(gx: Tensor, gh: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    x_r, x_z, x_n = gx.chunk(3, -1)
    h_r, h_z, h_n = gh.chunk(3, -1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)  # b_hn stays inside r * (...)
    return n + z * (h - n), c


CELLS = {"rnn_tanh": rnn_tanh, "rnn_relu": rnn_relu, "lstm": lstm, "gru": gru}


def layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    cell: str,
    reverse: list[bool],
    reset_to_hx: bool,
    cell_states: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run one layer in all its directions and return (y, h_n, c_n, c).

    x: (T, B, I), or (N, I) with batch_sizes — input sequence
    h_0: (D, B, P) — initial state, None for zeros; P is H without projection
    c_0: (D, B, H) — initial cell state of an LSTM, None for zeros
    weights: D tensors each, in torch.nn's layout — w_ih, w_hh, b_ih and b_hh or neither, w_hr or not, one after the other
    batch_sizes: (T,) int64 on the CPU — rows of a packed x at each time step
    lengths: (B,) integer — time steps of each sequence of a padded x
    reset: (T, B), or (N,) when packed, bool — where true, the state is reset before that step
    cell: one of CELLS
    reverse: D bools — which directions run from the end
    reset_to_hx: whether the state is reset to h_0, c_0 instead of zeros
    cell_states: whether to return the cell states of all time steps

    Returns y (T, B, D*P), h_n (D, B, P), c_n (D, B, H), c (T, B, D*H) float32 or float64; what a cell
    does not have, or was not asked for, has shape (0,).
    Source: the formulas in the documentation of torch.nn.RNN, torch.nn.LSTM and torch.nn.GRU.
    """
    dtype = x.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    D, H = len(reverse), weights[0].size(0) // GATES[cell]
    by_role = roles(weights, D)
    P = by_role[1][0].size(1)

    rows = None
    if batch_sizes is not None:
        rows = packed_rows(batch_sizes.to(x.device))
        T, B = batch_sizes.size(0), int(batch_sizes[0]) if batch_sizes.numel() else 0
        lengths = (batch_sizes.unsqueeze(1) > torch.arange(B)).sum(0)
        x = x.new_zeros(T, B, x.size(-1)).index_put(rows, x)
        if reset is not None:
            reset = reset.new_zeros(T, B).index_put(rows, reset)
    T, B, _ = x.shape

    alive = None
    if lengths is not None:
        alive = torch.arange(T, device=x.device).unsqueeze(1) < lengths.to(x.device)
        x = torch.where(alive.unsqueeze(-1), x, 0)  # 0 * NaN would carry padding into the weights' gradients
        if reset is not None:
            reset = reset & alive

    zeros = x.new_zeros(D, B, max(P, H), dtype=wide)
    h_0 = zeros[..., :P] if h_0 is None else h_0.to(wide)
    c_0 = zeros[..., :H] if c_0 is None else c_0.to(wide)

    runs = []
    for d in range(D):
        own = [w[d].to(wide) if w else None for w in by_role]
        runs.append(direction(x.to(wide), h_0[d], c_0[d], *own, alive, reset, cell, reverse[d], reset_to_hx))
    ys, h_ns, c_ns, cs = zip(*runs)
    y, h_n, c_n, c = torch.cat(ys, -1), torch.stack(h_ns), torch.stack(c_ns), torch.cat(cs, -1)
    if rows is not None:
        y, c = y[rows], c[rows]
    if cell != "lstm":
        c_n = c.new_empty(0)
    if cell != "lstm" or not cell_states:
        c = c.new_empty(0)
    return y.to(dtype), h_n.to(dtype), c_n.to(dtype), c


def direction(x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, w_hr, alive, reset, cell, reverse, reset_to_hx):
    """Run one direction: (T, B, I) → y (T, B, P), h_n (B, P), c_n (B, H), c (T, B, H)."""
    T, step = x.size(0), CELLS[cell]
    gx = linear(x, w_ih, b_ih)
    # All at once: the gradient of gx[t] by itself is as large as that of all (double backward of a GRU, B=32 T=100 H=128: 423 ms,
    # so 150).
    steps = gx.unbind()
    h, c = h_0, c_0
    h_cut, c_cut = (h_0, c_0) if reset_to_hx else (torch.zeros_like(h_0), torch.zeros_like(c_0))
    ys, cs = [None] * T, [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        # A cut before step t lies behind step t for a forward direction and behind step t-1 for a reverse one.
        cut = t + 1 if reverse else t
        if reset is not None and cut < T:
            again = reset[cut].unsqueeze(-1)
            h, c = torch.where(again, h_cut, h), torch.where(again, c_cut, c)
        gh = linear(h, w_hh, b_hh)
        h_t, c_t = step(steps[t], gh, h, c)
        if w_hr is not None:
            h_t = linear(h_t, w_hr)
        if alive is None:
            h, c, ys[t], cs[t] = h_t, c_t, h_t, c_t
        else:
            lives = alive[t].unsqueeze(-1)
            h, c = torch.where(lives, h_t, h), torch.where(lives, c_t, c)
            ys[t], cs[t] = torch.where(lives, h_t, 0), torch.where(lives, c_t, 0)
    if T == 0:
        empty = gx.sum(-1, keepdim=True)  # and in the graph, as an output should be
        return empty.expand(-1, -1, h.size(-1)), h, c, empty.expand(-1, -1, c.size(-1))
    return torch.stack(ys), h, c, torch.stack(cs)


def packed_rows(batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Time step and batch index of every row of a PackedSequence: two (N,) int64 tensors."""
    steps = torch.repeat_interleave(torch.arange(batch_sizes.size(0), device=batch_sizes.device), batch_sizes)
    first = batch_sizes.cumsum(0) - batch_sizes
    return steps, torch.arange(steps.size(0), device=steps.device) - first[steps]
