"""Truncated back-propagation: train on an endless stream in chunks, with the state carried and detached.

The model must repeat its input with a delay. It is trained chunk by chunk: gradients stop at the chunk's start, which
bounds memory and time of a training step, but the state is carried on. A second run starts every chunk from a zero
state: at the beginning of a chunk it cannot know what came before, and its larger error shows what the carried state is worth.
"""

import argparse

import torch
from torch import nn

import fusedrnn

DELAY = 4
STREAMS = 32


def train(carry: bool, steps: int, chunk: int) -> float:
    """Train on `steps` chunks and return the mean error of the last tenth of them."""
    torch.manual_seed(0)
    rnn = fusedrnn.GRU(1, 48)
    head = nn.Linear(48, 1)
    parameters = [*rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)

    past = torch.zeros(DELAY, STREAMS, 1)  # the stream's last values, which the targets of the next chunk begin with
    state = None
    losses = []
    for step in range(steps):
        x = torch.rand(chunk, STREAMS, 1) * 2 - 1  # the stream goes on: (T, B, 1)
        target = torch.cat([past, x])[:chunk]
        past = torch.cat([past, x])[chunk:]

        y, state = rnn(x, state)
        loss = nn.functional.mse_loss(head(y), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state = state.detach() if carry else None  # an LSTM's state is a pair: tuple(s.detach() for s in state)

        losses.append(loss.item())
        if step == 0 or (step + 1) % max(1, steps // 5) == 0:
            print(f"  chunk {step + 1:4d}  loss {losses[-1]:.4f}")
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="chunks to train on (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=16, help="time steps in a chunk (default: %(default)s)")
    args = parser.parse_args()
    if args.chunk <= DELAY:
        parser.error(f"--chunk must be above the delay, {DELAY}, or no gradient reaches what is to be remembered")

    print("state carried from chunk to chunk")
    carried = train(True, args.steps, args.chunk)
    print("state zero at every chunk's start")
    fresh = train(False, args.steps, args.chunk)
    print(f"mean squared error at the end: {carried:.4f} carried, {fresh:.4f} from zeros")
    # A uniform value in [-1, 1] has variance 1/3, and the first DELAY targets of a chunk lie before its start.
    print(f"the best possible without the past: {DELAY / args.chunk / 3:.4f}")


if __name__ == "__main__":
    main()
