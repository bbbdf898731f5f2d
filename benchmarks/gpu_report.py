"""Turns the result of gpu_check into text, what matters most last: ratios, losses, and a verdict on each part."""

from . import timing
from .timing import OURS

COLUMNS = ("torch.nn", f"{OURS} auto", f"{OURS} stepwise", f"{OURS} persistent")
MOST_FAILURES = 40


def show(result):
    """Print the summary: the race as a table, through rich where that is installed, and the rest as lines."""
    rows = race_rows(result["parts"].get("benchmark", {}).get("rows", []))
    if rows:
        title = "median ms; ratio: torch.nn's time over fusedrnn auto's, above 1 fusedrnn is faster"
        print_table(title, ("case", *COLUMNS, "µs/step", "ratio"), rows)
    print("\n".join(lines(result)))


def race_rows(rows):
    """The cells of the table, one row a measurement."""
    table = []
    for row in rows:
        found = row["contenders"]
        times = [cell(found.get(name), row["refused"].get(name.removeprefix(f"{OURS} "))) for name in COLUMNS]
        per_step = found.get(f"{OURS} auto", {}).get("per_step_us")
        table.append([row["case"], *times, *(f"{v:.2f}" if v is not None else "" for v in (per_step, row["ratio"]))])
    return table


def cell(result, refusal):
    if result is None:
        return "refused" if refusal else ""
    return f"{1e3 * result['median_s']:.3f}" if result["right"] else timing.as_text(result)


def print_table(title, columns, rows):
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title, "\t".join(columns), *map("\t".join, rows), sep="\n")
        return
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="red" if row[-1] and float(row[-1]) < 1 else None)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width of its own
    console.print(table)


def lines(result):
    """Everything but the table, line by line."""
    facts, parts = result["environment"], result["parts"]
    told = ("device", "driver_version", "torch", "cuda", "cudnn", "commit")
    said = [", ".join(f"{name} {facts[name]}" for name in told if facts.get(name))]
    for name, part in parts.items():
        if part["status"] != "passed":
            said += [f"{name}: {line}" for line in part.get("output", [])]
    found = parts.get("tests", {})
    failures = found.get("failures", [])
    said += [f"failed: {failure['test']}: {failure['message']}" for failure in failures[:MOST_FAILURES]]
    said += [f"... and {len(failures) - MOST_FAILURES} more"] * (len(failures) > MOST_FAILURES)
    said += [f"did not finish: {name}" for name in found.get("unfinished", [])]
    for tool, record in parts.get("sanitizer", {}).get("tools", {}).items():
        said += [f"{tool}: {line}" for line in record["findings"] if record["status"] == "failed"]
    race = parts.get("benchmark", {}).get("rows", [])
    said += refusals(race) + cuts(race)
    said += timing.verdict({row["case"]: row["ratio"] for row in race if row["ratio"] is not None})
    return said + [verdict(name, part) for name, part in parts.items()]


def refusals(race):
    """Each reason why a strategy did not run, with the number of rows it kept it from."""
    counts = {}
    for row in race:
        for strategy, reason in row["refused"].items():
            if "/" in strategy:
                continue  # a cut that does not fit is nothing amiss
            counts[f"{strategy} refused: {reason}"] = counts.get(f"{strategy} refused: {reason}", 0) + 1
    return [f"{reason} ({count} rows)" for reason, count in counts.items()]


def cuts(race):
    """What a step takes in blocks of how many units, of the rows that were cut so, beside the plan's own choice."""
    said = []
    for row in race:
        found = {name.removeprefix(f"{OURS} "): result.get("per_step_us") for name, result in row["contenders"].items()}
        times = {name.removeprefix("persistent/"): time for name, time in found.items() if "/" in name and time}
        if times and found.get("auto"):
            each = ", ".join(f"{units} units {time:.2f}" for units, time in times.items())
            said.append(f"{row['case']}: µs a step: {each}; auto {found['auto']:.2f}")
    return said


def verdict(name, part):
    """One line of a part: what became of it and how long it took."""
    word = {"passed": "PASS", "failed": "FAIL", "skipped": "SKIP"}[part["status"]]
    more = [part["reason"]] if "reason" in part else []
    if "counts" in part:
        more += [", ".join(f"{count} {outcome}" for outcome, count in part["counts"].items())]
        more += [] if part["complete"] else ["cut short"]
    if part.get("rows"):
        more += [f"{len(part['rows'])} of {part['rows'][0]['rows']} rows"]
    return f"{word} {name} in {part['seconds']:.0f} s" + (f": {'; '.join(more)}" if more else "")
