"""Reinforcement learning: a whole rollout in one call, although episodes begin inside it.

A rollout has T time steps of B environments. An environment whose episode ends begins the next one with a zero state.
torch.nn's layers cannot do that inside a sequence, so programs loop over the time steps and zero the state in between.
With `reset=`, which marks where episodes start, one call does it: the results are the same, and no gradient flows from an
episode into the one before.
"""

import argparse
import time

import torch
from torch import Tensor, nn

import fusedrnn


def step_by_step(rnn: nn.LSTM, x: Tensor, starts: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    """The usual loop: zero the state of environments that start an episode, then run one time step."""
    outputs = []
    for x_t, start in zip(x, starts):
        keep = (~start).to(x.dtype)[:, None]
        y, state = rnn(x_t.unsqueeze(0), tuple(s * keep for s in state))
        outputs.append(y)
    return torch.cat(outputs)


def in_one_call(rnn: fusedrnn.LSTM, x: Tensor, starts: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    return rnn(x, state, reset=starts)[0]


def run(policy, rnn: nn.LSTM, *rollout) -> tuple[Tensor, list[Tensor], float]:
    """Outputs, gradients of the weights, and seconds of one forward and backward, after a warm-up."""
    for _ in range(2):
        began = time.perf_counter()
        y = policy(rnn, *rollout)
        grads = torch.autograd.grad(y.square().mean(), list(rnn.parameters()))
        seconds = time.perf_counter() - began
    return y.detach(), list(grads), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=128, help="time steps of the rollout (default: %(default)s)")
    parser.add_argument("--envs", type=int, default=128, help="environments (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)

    x = torch.randn(args.steps, args.envs, 32)  # (T, B, I): observations
    # starts[t] is true where the observation at t is an episode's first: the done flag of step t - 1.
    starts = torch.rand(args.steps, args.envs) < 0.03
    state = tuple(torch.randn(1, args.envs, args.hidden) for _ in range(2))  # left over from the rollout before

    ours = fusedrnn.LSTM(32, args.hidden)
    torchs = nn.LSTM(32, args.hidden)
    torchs.load_state_dict(ours.state_dict())

    print(f"{args.steps} steps, {args.envs} environments, {int(starts.sum())} episode starts inside the rollout")
    y_loop, grads_loop, t_torchs = run(step_by_step, torchs, x, starts, state)
    _, _, t_ours = run(step_by_step, ours, x, starts, state)
    y, grads, t_call = run(in_one_call, ours, x, starts, state)

    print("largest difference between one call and torch.nn's loop")
    print(f"  outputs   {(y - y_loop).abs().max():.1e}")
    print(f"  gradients {max((a - b).abs().max() for a, b in zip(grads, grads_loop)):.1e}")
    print(f"forward and backward, timed once on {torch.get_num_threads()} threads")
    print(f"  torch.nn.LSTM, a loop over steps   {t_torchs * 1e3:8.1f} ms")
    print(f"  fusedrnn.LSTM, a loop over steps   {t_ours * 1e3:8.1f} ms")
    print(f"  fusedrnn.LSTM, one call with reset {t_call * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
