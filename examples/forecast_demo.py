"""Train a forecaster on measured series with torch.nn and with fusedrnn, and compare the two: what `make demo` runs.

Both start from the same weights and see the same batches. Their epochs alternate, so that other load on the machine
affects both alike. The series come with statsmodels: monthly CO2 at Mauna Loa, 1958 to 2001, and yearly sunspot numbers,
1700 to 2008. The end of each series is held out. There, a forecast starts from the true history every few time steps and
continues from its own predictions; its error is shown beside those of naive forecasts.
"""

import argparse
import copy
import functools
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import fusedrnn

try:
    import matplotlib

    matplotlib.use("Agg")  # a file is written, no window opened
    import matplotlib.pyplot as plt
    import statsmodels.api as sm
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ImportError as error:
    sys.exit(f"forecast_demo needs {error.name}. Install what it uses with: pip install statsmodels matplotlib rich")

BATCH, BATCHES = 32, 8  # windows in a batch, batches in an epoch
WARM_UP = 10  # steps at a window's start that the loss leaves out: the model has seen too little to be judged


@dataclass
class Series:
    """A measured series, and how to forecast it. Scaling and training know nothing of the held-out tail."""

    title: str
    unit: str
    years: Tensor
    values: Tensor  # (N,)
    differenced: bool  # what the model sees: changes from step to step, or square roots, both standardised
    held_out: int  # values at the end that training never sees
    window: int  # steps of history that the model reads
    horizon: int  # steps that it rolls out
    season: int  # steps
    noise: float  # added to the inputs in training, against learning a short series by heart

    def __post_init__(self):
        z = self.values.diff(prepend=self.values[:1]) if self.differenced else self.values.sqrt()
        known = z[: -self.held_out]
        self.mean, self.std = known.mean(), known.std()
        self.z = ((z - self.mean) / self.std).float()
        # (horizon, forecasts): which values each forecast has to predict
        self.targets = torch.arange(len(z) - self.held_out, len(z)).view(-1, self.horizon).t()

    def training_windows(self) -> Tensor:
        """Every stretch of `window` known values and the one after: (windows, window + 1)."""
        return self.z[: -self.held_out].unfold(0, self.window + 1, 1)

    def histories(self) -> Tensor:
        """What a model reads before each forecast: (window, forecasts, 1)."""
        return self.z[self.targets[:1] + torch.arange(-self.window, 0)[:, None]].unsqueeze(-1)

    def restore(self, z: Tensor) -> Tensor:
        """Turn what a model predicts, (horizon, forecasts), into the series' unit."""
        plain = z.double() * self.std + self.mean
        return self.values[self.targets[0] - 1] + plain.cumsum(0) if self.differenced else plain.clamp(min=0).square()

    def naive(self) -> dict[str, Tensor]:
        last, season = self.values[self.targets[0] - 1], self.values[self.targets - self.season]
        change = last - self.values[self.targets[0] - 1 - self.season]
        return {
            "the last value": last.expand_as(self.targets),
            "one season ago": season,
            "one season ago, moved to the last value's level": season + change,
        }

    def rms_error(self, forecast: Tensor) -> float:
        return (forecast - self.values[self.targets]).square().mean().sqrt().item()


def co2() -> Series:
    weekly = sm.datasets.co2.load_pandas().data["co2"]
    monthly = weekly.resample("MS").mean().interpolate()  # a few months were not measured
    years = torch.tensor(monthly.index.year + (monthly.index.month - 0.5) / 12)
    values = torch.tensor(monthly.to_numpy())
    title = "CO₂ at Mauna Loa, monthly"
    return Series(title, "ppm", years, values, True, held_out=120, window=96, horizon=12, season=12, noise=0.3)


def sunspots() -> Series:
    data = sm.datasets.sunspots.load_pandas().data
    years, values = torch.tensor(data["YEAR"].to_numpy()), torch.tensor(data["SUNACTIVITY"].to_numpy())
    title = "Sunspot number, yearly"
    return Series(title, "sunspots", years, values, False, held_out=60, window=66, horizon=2, season=11, noise=0.5)


SERIES = {"co2": co2, "sunspots": sunspots}


class Forecaster(nn.Module):
    """The value after each of a sequence: (T, B, 1) -> (T, B, 1), and the state."""

    def __init__(self, cell: str, hidden: int):
        super().__init__()
        self.rnn = getattr(nn, cell.upper())(1, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, state=None):
        y, state = self.rnn(x, state)
        return self.head(y), state

    @torch.no_grad()
    def roll_out(self, history: Tensor, horizon: int) -> Tensor:
        """Predict (horizon, B) values after a history (T, B, 1), each from the predictions before it."""
        z, state = self(history)
        steps = [z[-1:]]
        while len(steps) < horizon:
            z, state = self(steps[-1], state)
            steps.append(z)
        return torch.cat(steps).squeeze(-1)


class Contender:
    """A model, its optimizer, and what its training has shown so far."""

    def __init__(self, model: Forecaster, batches: int):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, batches)
        self.losses, self.seconds = [], []  # one of each an epoch

    def epoch(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        began = time.perf_counter()
        losses = []
        for x, target in batches:
            prediction, _ = self.model(x)
            loss = nn.functional.mse_loss(prediction[WARM_UP:], target[WARM_UP:])
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
        self.losses.append(torch.stack(losses).mean().item())
        self.seconds.append(time.perf_counter() - began)


def draw_batches(series: Series) -> list[tuple[Tensor, Tensor]]:
    """The batches of one epoch: noisy inputs and targets, (window, BATCH, 1) each."""
    windows = series.training_windows()
    picks = [windows[torch.randint(len(windows), (BATCH,))].t().unsqueeze(-1) for _ in range(BATCHES)]
    return [(pick[:-1] + series.noise * torch.randn_like(pick[:-1]), pick[1:]) for pick in picks]


def train(series: Series, cell: str, hidden: int, epochs: int, seed: int, on_epoch) -> dict[str, Contender]:
    torch.manual_seed(seed)
    model = Forecaster(cell, hidden)
    models = {"torch.nn": model, "fusedrnn": fusedrnn.convert(copy.deepcopy(model), report=None)}
    contenders = {name: Contender(model, epochs * BATCHES) for name, model in models.items()}
    for epoch in range(epochs):
        batches = draw_batches(series)
        for name in sorted(contenders, reverse=epoch % 2 == 0):
            contenders[name].epoch(batches)
        on_epoch()
    return contenders


def report(series: Series, contenders: dict[str, Contender], forecasts: dict[str, Tensor], cell: str) -> Table:
    torchs, ours = contenders["torch.nn"], contenders["fusedrnn"]
    apart = max(abs(a - b) for a, b in zip(torchs.losses, ours.losses))
    seconds = {name: statistics.median(contender.seconds) for name, contender in contenders.items()}
    table = Table(title=series.title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("fusedrnn's loss, first and last epoch", f"{ours.losses[0]:.3f}, {ours.losses[-1]:.3f}")
    table.add_row("largest difference between the loss curves", f"{apart:.1e}")
    for name, median in seconds.items():
        table.add_row(f"median time per epoch, {name}.{cell.upper()}", f"{median * 1e3:.1f} ms")
    ratio = seconds["torch.nn"] / seconds["fusedrnn"]
    table.add_row("ratio, above 1 fusedrnn is faster", f"{ratio:.2f}", end_section=True)
    table.add_row(f"RMS error of forecasts of {series.horizon} steps, held-out tail", series.unit)
    for name, forecast in {**forecasts, **{f"naive: {k}": v for k, v in series.naive().items()}}.items():
        table.add_row(f"  {name}", f"{series.rms_error(forecast):.2f}")
    return table


def draw(results: list, cell: str, output: Path) -> None:
    """One row a series: truth and forecasts on the held-out tail, and beside them the loss curves."""
    looks = {
        "torch.nn": {"color": "#f4a259", "linewidth": 4.5, "alpha": 0.85, "zorder": 2},
        "fusedrnn": {"color": "#1d4e89", "linewidth": 1.6, "linestyle": (0, (4, 1.5)), "zorder": 4},
    }
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
    plt.rcParams.update({"grid.alpha": 0.25, "legend.frameon": False, "axes.titlelocation": "left"})
    figure, axes = plt.subplots(
        len(results), 2, figsize=(13, 4.3 * len(results)), width_ratios=(2.6, 1), squeeze=False, layout="constrained"
    )
    for (left, right), (series, contenders, forecasts) in zip(axes, results):
        start = int(series.targets[0, 0])
        shown = slice(max(0, start - series.held_out // 4), None)
        left.axvspan(series.years[start], series.years[-1], color="#000000", alpha=0.04, linewidth=0)
        left.plot(series.years[shown], series.values[shown], color="#222222", linewidth=1.2, marker=".", markersize=4,
                  label="truth", zorder=3)  # fmt: skip
        for name, forecast in forecasts.items():
            error = f"{series.rms_error(forecast):.2f} {series.unit}"
            for k, (steps, values) in enumerate(zip(series.targets.t(), forecast.t())):
                # from the last true value on, so that it shows where each forecast starts
                steps = torch.cat([steps[:1] - 1, steps])
                values = torch.cat([series.values[steps[:1]], values])
                label = f"{name}, RMS error {error}" if k == 0 else None
                left.plot(series.years[steps], values, label=label, **looks[name])
        left.set_title(f"{series.title}: rolled out {series.horizon} steps at a time on the held-out tail (grey)")
        left.set_ylabel(series.unit)
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=3)  # below: the curves fill the frame
        for name, contender in contenders.items():
            right.plot(range(1, len(contender.losses) + 1), contender.losses, label=name, **looks[name])
        right.set(yscale="log", xlabel="epoch")
        right.set_title("training loss")
        right.legend()
    figure.suptitle(f"One {cell.upper()} forecaster, trained with torch.nn and with fusedrnn", fontweight="bold")
    figure.savefig(output, dpi=130)


def parse(arguments=None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if not text.isdigit() or not int(text):
            raise argparse.ArgumentTypeError(f"must be a whole number above 0; got {text!r}")
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", choices=(*SERIES, "both"), default="both")
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="lstm")
    parser.add_argument("--hidden", type=positive, default=128, help="hidden size (default: %(default)s)")
    parser.add_argument("--epochs", type=positive, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("forecast_demo.png"), help="PNG (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.output.suffix.lower() != ".png":
        parser.error(f"--output must end in .png; got {str(options.output)!r}")
    if options.output.is_dir():
        parser.error(f"--output is a folder: {str(options.output)!r}")
    if not -(2**63) <= options.seed < 2**64:
        parser.error(f"--seed must fit into 64 bits; got {options.seed}")
    if not options.output.absolute().parent.is_dir():
        parser.error(f"--output: there is no folder {str(options.output.parent)!r}")
    return options


def main() -> None:
    options = parse()
    console = Console()
    names = list(SERIES) if options.series == "both" else [options.series]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    results = []
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(f"{name}, epochs with both", total=options.epochs) for name in names}
        for name, task in tasks.items():
            series = SERIES[name]()
            advance = functools.partial(progress.advance, task)
            contenders = train(series, options.cell, options.hidden, options.epochs, options.seed, advance)
            histories = series.histories()
            forecasts = {
                who: series.restore(contender.model.roll_out(histories, series.horizon))
                for who, contender in contenders.items()
            }
            results.append((series, contenders, forecasts))
    for series, contenders, forecasts in results:
        console.print(report(series, contenders, forecasts, options.cell))
    draw(results, options.cell, options.output)
    console.print(f"{torch.get_num_threads()} threads; picture written to {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
