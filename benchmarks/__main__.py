"""Is fusedrnn faster than torch.nn at your sizes? `python -m benchmarks`: a table, pictures and a page to read.

Exit status: 0, or 1 where --compare finds something slower or where fusedrnn is wrong or fails, 2 for input that makes
no sense or where a package is missing, 130 after Ctrl-C.
"""

import argparse
import itertools
import math
import re
import sys
from pathlib import Path

from . import missing

try:
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from fusedrnn.info import facts

    from . import gate, machine, page, pictures, runner, suites, tables
    from .cases import CONTENDERS, LAYERS, PASSES, RAGGED, too_large
    from .timing import OURS, ROOT, unwritable
except ImportError as error:  # for --help as well
    missing(error, "python -m benchmarks", 'pip install --no-build-isolation -e ".[bench]"')

OUT = ROOT / "benchmarks" / "out"


def size(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0; got {text!r}")
    return int(text)


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0; got {text!r}")
    return value


def some(allowed):
    def chosen(text):
        unknown = [name for name in text.split(",") if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"knows {', '.join(allowed)}; got {', '.join(map(repr, unknown))}")
        return text.split(",")

    return chosen


def sizes(text):
    return [size(part) for part in text.split(",")]


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")  # one line, without the usage


def parse(arguments):
    parser = Parser(
        prog="python -m benchmarks",
        description=__doc__.split("`")[0].strip(),
        epilog="Any of --batch, --seq-len, --hidden, --layers, --bidirectional and --ragged asks for the grid of all "
        "combinations instead of a suite. Lists are separated by commas or spaces.",
    )
    several = lambda name, kind, **more: parser.add_argument(name, nargs="+", type=kind, **more)
    says = "a few sizes (quick), many (full), peak memory, or what calls, cells, resets and unequal rows cost"
    parser.add_argument("--suite", choices=suites.SUITES, default="quick", help=f"{says}; %(default)s if omitted")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="%(default)s if omitted")
    several("--cells", some(LAYERS), default=[list(LAYERS)], metavar=",".join(LAYERS), help="all of them if omitted")
    says = "inference, the halves of a training step, the whole, or the whole as a CUDA graph; the suite's if omitted"
    several("--passes", some(PASSES), metavar=",".join(PASSES), help=says)
    several("--contenders", some(CONTENDERS), metavar="NAME", help=f"of {', '.join(CONTENDERS)}")
    for name, letter, usual in (("batch", "B", 32), ("seq-len", "T", 128), ("hidden", "H", 256), ("layers", "L", 1)):
        several(f"--{name}", sizes, metavar=letter, help=f"{usual} in a grid if omitted")
    parser.add_argument("--bidirectional", action="store_true", help="layers that run in both directions")
    says = "rows of unequal length, given packed or with their lengths; both if nothing follows"
    parser.add_argument("--ragged", nargs="*", type=some(RAGGED), metavar=",".join(RAGGED), help=says)
    dtypes = "float32", "float64", "bfloat16", "float16"
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="%(default)s if omitted")
    parser.add_argument("--tf32", action="store_true", help="let float32 products on CUDA, of all contenders, use TF32")
    parser.add_argument("--threads", type=size, help="torch's default if omitted")
    parser.add_argument("--rounds", type=size, help="samples of each contender, instead of as many as the time allows")
    says = "for all rows, and up to half as much to measure disturbed ones again; by default the suite's"
    parser.add_argument("--budget", type=seconds, metavar="SECONDS", help=says)
    parser.add_argument("--output", type=Path, metavar="DIR", help="benchmarks/out if omitted, and OLD.json's folder for a report")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="fail where a row became slower than there")
    parser.add_argument("--report", type=Path, metavar="OLD.json", help="measure nothing, make the report of this anew")
    options = parser.parse_args(arguments)
    if options.ragged == []:
        options.ragged = [RAGGED]
    for name in ("cells", "passes", "contenders", "batch", "seq_len", "hidden", "layers", "ragged"):
        given = getattr(options, name)
        setattr(options, name, given and list(dict.fromkeys(itertools.chain(*given))))
    check(options, parser)
    return options


def check(options, parser):
    """Refuse what cannot run, with one line."""
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"no CUDA device: torch {torch.__version__} finds none")
    if options.device == "cuda" and facts()["cuda"] == "none":
        parser.error("this build of fusedrnn is for the CPU alone: python -m fusedrnn info")
    if options.device != "cuda" and "graph" in (options.passes or ()):
        parser.error("the pass graph needs --device cuda")
    reason = next(filter(None, (too_large(case) for case, *_ in suites.select(options)[0])), None)
    if reason:
        parser.error(reason)
    if options.output and options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder; {options.output} is a file")


def measured(options, folder, console, command):
    """Run what the options ask for behind a progress bar; return the result and where it lies."""
    rows, budget = suites.select(options)
    facts = machine.environment(options.device, command)
    if options.device == "cpu" and facts["load"] and facts["load"] > facts["cores"] / 2:
        console.print(f"the machine is busy (load {facts['load']} on {facts['cores']} cores): expect noise")
    stem = f"{options.device}-{options.suite}-{re.sub('[-:]', '', facts['date'][:19]).replace('T', '-')}"
    path = folder / f"{stem}.json"
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left:"
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("measuring the machine's ceilings", total=len(rows))
        found = machine.ceilings(options.dtype, options.device)
        watch = lambda row, done: progress.update(task, description=f"{row:<44}", completed=done)
        return runner.run(rows, budget, facts, found, path, options, watch), path


def report(result, folder, stem, written, console):
    """Everything that is made from a result: tables here, pictures and a page in the folder; and say what was written."""
    tables.show(result, console)
    made = pictures.draw(result, folder, stem)
    html = folder / f"{stem}.html"
    html.write_text(page.page(result, made), encoding="utf-8")
    for file in (*written, html, *made.values()):
        console.print(f"written to {file}", highlight=False, soft_wrap=True)


def sound(result):
    """Whether ours is right and runs in every row."""
    found = [row["contenders"][OURS] for row in result["results"] if OURS in row["contenders"]]
    return all(figures["right"] for figures in found)


def main(arguments=None):
    options = parse(arguments)
    console = tables.make_console()
    try:
        old = gate.read(options.compare) if options.compare else None
        result, path = (gate.read(options.report), options.report) if options.report else (None, None)
    except gate.BadResult as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2
    folder = options.output or (path.parent if path else OUT)
    refused = unwritable(folder / "page.html")
    if refused:
        print(f"python -m benchmarks: {folder} cannot be written to: {refused}", file=sys.stderr)
        return 2
    if options.threads:
        torch.set_num_threads(options.threads)
    if result is None:
        given = [str(text) for text in (sys.argv[1:] if arguments is None else arguments)]
        aside = argparse.ArgumentParser(add_help=False)
        aside.add_argument("--output")  # where a result lies is no part of what it is
        _, given = aside.parse_known_args(given)
        torch.backends.cuda.matmul.allow_tf32 = options.tf32
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=options.tf32):
                result, path = measured(options, folder, console, " ".join(["python -m benchmarks", *given]))
        except KeyboardInterrupt:
            return 130  # before the first row
    report(result, folder, path.stem, [path] * (options.report is None), console)
    fine = sound(result)
    if old:
        verdict = gate.compare(old, result)
        for line in gate.lines(verdict):
            console.print(line, highlight=False, markup=False)
        if not verdict["paired"] and not verdict["lost"]:
            return 2  # two results of different cases
        fine &= gate.passes(verdict)
    return 130 if result.get("interrupted") else int(not fine)


if __name__ == "__main__":
    sys.exit(main())
