"""A result as one HTML file that needs no other: what was found, the losses, the pictures, every row, the method."""

import base64
from html import escape

from . import machine, tables
from .timing import CALM, OURS, RECOMPUTE

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
td, th { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
.loss td { background: #fde2dd } .odd td { background: #fff5cc }
img { max-width: 100% } pre { background: #f5f5f5; padding: .8rem; overflow-x: auto } h2 { margin-top: 2.2rem }"""

METHOD = f"""\
<p>Each contender's outputs and gradients are compared with torch.nn's in float64 first, and what is wrong is not
timed. Contenders warm up and then take turns, round by round, on the CPU each in a process of its own. Figures are
medians with the tenth and the ninetieth percentile. On CUDA times come from events, with inputs rotated through more
memory than the L2 cache holds (up to 512 copies; a captured graph keeps its one), and cuDNN runs at the same
precision, TF32 as the environment says. What compiling takes is not counted. The ratio is a rival's time over
{OURS}'s, in the median of the rounds: above 1, {OURS} is faster. Rounds do not count, as far as there are enough
others, in which a contender waited for a processor, or before or after which a loop in registers ran below its best
speed, so that less than {100 * CALM:.0f} % of the machine was there.</p>
<p>Peak memory is what a pass holds at most beyond what was there before it: on the CPU the running sum of what torch's
allocator gives and takes back, on CUDA torch's own peak. Scratch memory inside oneDNN and MKL is not seen.</p>"""


def table(header, lines):
    """Rows of (cells, class of the row or an empty text)."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f'<tr class="{kind}">' + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>\n"
        for cells, kind in lines
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def found(result):
    """Geometric mean and losses against every rival, and what else there is to say."""
    return "".join(f"<p>{escape(line)}</p>" for line in tables.verdicts(result))


def losses(result):
    each = [(rival, name, ratio) for rival, rows in tables.ratios_by_rival(result).items()
            for name, ratio in rows.items() if ratio < 1]
    if not each:
        return "<p>No losses.</p>"
    rows = [((name, rival, f"{ratio:.2f}"), "loss") for rival, name, ratio in sorted(each, key=lambda row: row[2])]
    return table(("row", "rival", "ratio"), rows)


def page(result, pictures):
    """The file's text; `pictures` is {title: path of a PNG}."""
    inlined = "".join(
        f"<h2>{escape(title)}</h2>"
        f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
        for title, path in pictures.items()
    )
    rows = table(tables.HEADER, [
        (cells, "odd" if ratio is None else "loss" if ratio < 1 else "") for cells, ratio in tables.rows(result)
    ])
    if result["suite"] == "memory":
        rows = table(("case", "torch.nn, MB", f"{OURS}, MB", f"{RECOMPUTE}, MB", "ratio"), [
            (cells, "loss" if float(cells[-1]) < 1 else "") for cells in tables.memory_rows(result)
        ])
    title = "Peak MB of forward and backward" if result["suite"] == "memory" else tables.TITLE
    facts = table(("environment", ""), [((k, v), "") for k, v in result["environment"].items() if v is not None])
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>fusedrnn: benchmark</title><style>{STYLE}</style>
<h1>fusedrnn: benchmark, suite {escape(result["suite"])}</h1>
{found(result)}
<h2>Losses</h2>
{losses(result)}
{inlined}
<h2>Every row</h2>
<p>{escape(title)}. “Of the limit” is how near {OURS} comes to the machine's ceilings, see below; “undisturbed” what
part of the machine was there in the rounds that count, in the median, and “left out” how many rounds do not.</p>
{rows}
<h2>Method</h2>
{METHOD}
<h2>The limit</h2>
<p>{escape(tables.ceilings(result))}</p>
<pre>{escape(machine.__doc__)}</pre>
{facts}
</html>
"""
