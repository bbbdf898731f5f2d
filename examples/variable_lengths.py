"""Sequences of different lengths without sorting, packing and unpacking: `lengths=`.

Input and output are padded batches. Each sequence ends at its own length: its final states are those of its last valid
step, and the reverse direction starts at that step. Outputs past the end are zero, and the padding gets no gradient.
Lengths may be a list or a tensor on any device, in any order, and may be 0. The results are compared with torch.nn's for
packed input.
"""

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fusedrnn


def with_lengths(rnn: fusedrnn.LSTM, x: Tensor, lengths: Tensor):
    return rnn(x, lengths=lengths)


def with_packing(rnn: nn.LSTM, x: Tensor, lengths: Tensor):
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    y, states = rnn(packed)
    y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    return y, states


def run(way, rnn: nn.LSTM, x: Tensor, lengths: Tensor):
    """Output, states and gradients, and seconds of one forward and backward, after a warm-up."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        began = time.perf_counter()
        y, (h_n, c_n) = way(rnn, x, lengths)
        loss = y.square().mean() + h_n.square().mean() + c_n.square().mean()
        grads = torch.autograd.grad(loss, [x, *rnn.parameters()])
        seconds = time.perf_counter() - began
    return {"output": [y], "states": [h_n, c_n], "gradients": grads}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="time steps of the longest sequence (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences in the batch (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="hidden size (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)

    ours = fusedrnn.LSTM(16, args.hidden, batch_first=True, bidirectional=True)
    torchs = nn.LSTM(16, args.hidden, batch_first=True, bidirectional=True)
    torchs.load_state_dict(ours.state_dict())

    lengths = torch.randint(1, args.steps + 1, (args.batch,))
    x = torch.randn(args.batch, args.steps, 16)  # (B, T, I); what stands in the padding does not matter
    print(f"{args.batch} sequences of {lengths.min()} to {lengths.max()} steps, both directions")

    packed, t_packed = run(with_packing, torchs, x, lengths)
    ragged, t_ragged = run(with_lengths, ours, x, lengths)
    print("largest difference between lengths= and torch.nn with packing")
    for name in packed:
        print(f"  {name:9} {max((a - b).abs().max() for a, b in zip(packed[name], ragged[name])):.1e}")
    print(f"forward and backward, timed once on {torch.get_num_threads()} threads")
    print(f"  torch.nn.LSTM, pack and unpack {t_packed * 1e3:8.1f} ms")
    print(f"  fusedrnn.LSTM, lengths=        {t_ragged * 1e3:8.1f} ms")

    lengths[0] = 0  # an empty row, which packing refuses
    y, (h_n, _) = ours(x, lengths=lengths)
    print(f"a row of length 0: output and state are zero: {not y[0].any() and not h_n[:, 0].any()}")


if __name__ == "__main__":
    main()
