"""Run a recurrent layer step by step: a cell with the layer's weights gives the layer's results.

Train with the layer, which is fast because it sees whole sequences; run inference with the cell, which takes one time
step per call and keeps only its state. Here an LSTM and an LSTMCell share their parameters, so that their gradients can
be compared. At the end the cell follows a stream of single samples, without a batch.
"""

import argparse
import time

import torch

import fusedrnn


def cell_of(layer: fusedrnn.LSTM) -> fusedrnn.LSTMCell:
    """A cell that shares the parameters of the layer's first (here its only) level."""
    cell = fusedrnn.LSTMCell(layer.input_size, layer.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(layer, f"{name}_l0"))
    return cell


def gradients(loss: torch.Tensor, layer: fusedrnn.LSTM) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(layer.parameters())))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="length of the sequence (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=64, help="hidden size (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)

    layer = fusedrnn.LSTM(input_size=8, hidden_size=args.hidden)
    cell = cell_of(layer)
    x = torch.randn(args.steps, 4, 8)  # (T, B, I)

    y, (h_n, c_n) = layer(x)

    state = None  # zeros
    outputs = []
    for x_t in x:
        state = cell(x_t, state)
        outputs.append(state[0])
    y_steps = torch.stack(outputs)

    print(f"largest difference between layer and cell over {args.steps} steps")
    print(f"  output    {difference(y, y_steps):.1e}")
    print(f"  state     {max(difference(h_n[0], state[0]), difference(c_n[0], state[1])):.1e}")
    pairs = zip(gradients(y.square().mean(), layer), gradients(y_steps.square().mean(), layer))
    print(f"  gradients {max(difference(a, b) for a, b in pairs):.1e}")

    # Streaming: samples (I,) arrive one at a time, and the answer to each is due before the next.
    stream = iter(x[:, 0])
    state = None
    began = time.perf_counter()
    with torch.inference_mode():
        for sample in stream:
            state = cell(sample, state)
    microseconds = (time.perf_counter() - began) / args.steps * 1e6
    apart = difference(state[0], h_n[0, 0])
    print(f"streaming: {microseconds:.0f} µs a sample, last state {apart:.1e} from the layer's")


if __name__ == "__main__":
    main()
