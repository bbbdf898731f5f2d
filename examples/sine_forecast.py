"""Forecast a noisy sine from sliding windows, then continue from its own predictions (a roll-out).

An LSTM reads a window of past values and predicts the next one. In the roll-out each prediction is appended to the
window and the oldest value dropped, so that after one window's length the model sees only its own predictions. The
printed error is measured against the noise-free continuation, which was not used in training.
"""

import argparse
import math

import torch
from torch import Tensor, nn

import fusedrnn

PERIOD = 25.0
NOISE = 0.05


class Forecaster(nn.Module):
    """The value after each window: (B, window) -> (B,)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.rnn = fusedrnn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, window: Tensor) -> Tensor:
        y, _ = self.rnn(window.unsqueeze(-1))
        return self.head(y[:, -1]).squeeze(-1)


@torch.no_grad()
def roll_out(model: Forecaster, window: Tensor, steps: int) -> Tensor:
    """Predict `steps` values after a window (window,), each from the predictions before it."""
    values = window
    for _ in range(steps):
        values = torch.cat([values, model(values[-len(window) :].unsqueeze(0))])
    return values[len(window) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps (default: %(default)s)")
    parser.add_argument("--window", type=int, default=40, help="values the model sees (default: %(default)s)")
    parser.add_argument("--horizon", type=int, default=100, help="values to roll out (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)

    past = 1000
    clean = torch.sin(2 * math.pi / PERIOD * torch.arange(past + args.horizon))
    series = clean[:past] + NOISE * torch.randn(past)
    windows = series.unfold(0, args.window + 1, 1)  # (past - window, window + 1): each window and the value after it

    model = Forecaster(hidden=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)  # small steps at the end
    for step in range(args.steps):
        batch = windows[torch.randint(len(windows), (64,))]
        loss = nn.functional.mse_loss(model(batch[:, :-1]), batch[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step == 0 or (step + 1) % max(1, args.steps // 5) == 0:
            print(f"step {step + 1:4d}  loss {loss.item():.5f}")

    truth = clean[past:]
    forecast = roll_out(model, series[-args.window :], args.horizon)
    rms = (forecast - truth).square().mean().sqrt()
    print(f"roll-out over {args.horizon} steps: RMS error {rms:.3f}")
    print(f"for scale: {truth.square().mean().sqrt():.3f} for always saying 0; the noise in the data is {NOISE}")


if __name__ == "__main__":
    main()
