"""A result as tables and lines, which the terminal and the page share."""

from rich.console import Console
from rich.table import Table

from . import timing
from .timing import OURS, RECOMPUTE

HEADER = ("case", "pass", "rival", "rival's ms", f"{OURS}'s ms", "ratio", "of the limit", "peak MB, rival", "peak MB")
HEADER += ("undisturbed", "left out")  # what part of the machine was there in the rounds that count; how many do not
TITLE = "median ms (p10 to p90); ratio: the rival's time over ours, above 1 fusedrnn is faster; * disturbed by others"


def rows(result):
    """[(the cells of HEADER as text, ratio or None)], one for each row and rival."""
    table = []
    for record in result["results"]:
        found = record["contenders"]
        ours = found.get(OURS, {"right": False, "skipped": "not asked for"})
        for rival in [name for name in found if name != OURS] or [OURS]:
            ratio = record["ratios"].get(rival)
            cells = [record["case"], record["pass"], rival, timing.as_text(found[rival]), timing.as_text(ours)]
            cells += ["" if ratio is None else f"{ratio:.2f}" + "*" * timing.disturbed(record)]
            cells += [percent(timing.of_limit(record, OURS) if "p10_s" in ours else None)]
            cells += [megabytes(found[rival].get("peak_bytes")), megabytes(ours.get("peak_bytes"))]
            cells += [percent(record.get("undisturbed")), left_out(found[rival])]
            table.append((cells, ratio))
    return table


def memory_rows(result):
    """[(case, torch.nn's MB, ours, with recompute, how many times as much torch.nn takes as ours)] where known."""
    found = [(record, *peaks(record)) for record in result["results"] if all(peaks(record)[:2])]
    return [
        (f"{record['case']} {record['pass']}", *map(megabytes, (theirs, ours, least)), f"{theirs / ours:.2f}")
        for record, theirs, ours, least in found
    ]


def peaks(record):
    return [record["contenders"].get(name, {}).get("peak_bytes") for name in ("torch.nn", OURS, RECOMPUTE)]


def percent(share):
    return "" if share is None else f"{100 * share:.0f} %"


def left_out(figures):
    """Of all rounds, those that do not count since others had the machine, where there were such."""
    count = figures.get("rounds_left_out")
    return f"{count} of {count + figures['rounds']}" if count else ""


def megabytes(size):
    return "" if size is None else f"{size / 1e6:.3g}"


def ratios_by_rival(result):
    """{rival: {row: ratio}}, of bytes in the suite for memory."""
    found = {}
    for record in result["results"]:
        theirs, ours, _ = peaks(record) if result["suite"] == "memory" else (None,) * 3
        for rival, ratio in ({"torch.nn": theirs / ours} if theirs and ours else record["ratios"]).items():
            found.setdefault(rival, {})[f"{record['case']} {record['pass']}"] = ratio
    return found


def verdicts(result):
    """Geometric mean and losses against each rival, what was wrong, failed or skipped, and how the run ended."""
    said = [f"{rival}: {line}" for rival, each in ratios_by_rival(result).items() for line in timing.verdict(each)]
    disturbed = ["{case} {pass}".format_map(record) for record in result["results"] if timing.disturbed(record)]
    if disturbed:
        share = f"{len(disturbed)} of {len(result['results'])} rows"
        why = f"in which others used the machine to the end ({'; '.join(disturbed)})"
        said.insert(0, f"not to be trusted, means that hold them included: {share}, {why}")
    skipped = {}
    for record in result["results"]:
        for name, figures in record["contenders"].items():
            if "skipped" in figures:
                skipped.setdefault((name, figures["skipped"]), []).append(record)
            elif not figures["right"]:
                said.append(f"{record['case']} {record['pass']}: {name} is not timed: {timing.as_text(figures)}")
    said += [f"{name} skipped in {len(where)} rows: {reason}" for (name, reason), where in skipped.items()]
    return said + ([result["ended"]] if "ended" in result else [])


def ceilings(result):
    """One line of what the machine can do at best, as measured in the run."""
    found = result.get("ceilings")
    if not found:
        return "no ceilings measured"
    read = ", ".join(f"{int(size) / 2**20:g} MB {rate / 1e9:.0f} GB/s" for size, rate in found["read"].items())
    meeting = f"a meeting of {found['threads']} threads {1e6 * found['meeting_s']:.2f} µs"
    if result["environment"]["device"] != "cpu":
        meeting = f"a launch {1e6 * found['meeting_s']:.2f} µs"
    line = f"ceilings: products {found['flops'] / 1e9:.0f} GFLOP/s; reading {read or 'unknown'}; {meeting}"
    if found.get("functions"):
        line += f"; {found['functions'] / 1e9:.1f} sigmoids a ns"
    if found.get("call_s"):
        calls = found["call_s"]
        line += f"; a call {1e6 * calls['infer']:.0f} µs, with gradients {1e6 * calls['step']:.0f}"
    return line


def make_console():
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no width of its own
    return console


def show(result, console):
    """Print the table, the ceilings and the verdicts."""
    if result["suite"] == "memory":
        table = Table(title="peak MB of forward and backward, beyond what was there before")
        for column in ("case", "torch.nn", OURS, RECOMPUTE, "ratio"):
            table.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
        for cells in memory_rows(result):
            table.add_row(*cells, style="red" if float(cells[-1]) < 1 else None)
    else:
        table = Table(title=TITLE)
        for column in HEADER:
            left = column in ("case", "pass", "rival")
            table.add_column(column, justify="left" if left else "right", no_wrap=left)
        for cells, ratio in rows(result):
            table.add_row(*cells, style="yellow" if ratio is None else "red" if ratio < 1 else None)
    console.print(table)
    for line in [ceilings(result), *verdicts(result)]:
        console.print(line, highlight=False, markup=False)
