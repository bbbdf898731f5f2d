"""Which rows became slower than noise explains, between two results: `python -m benchmarks --compare OLD.json`.

Rows are paired by case and pass. What slowed down the other contenders of a row as well, which took turns with ours,
is the machine's doing, so the old figures are first scaled by how much slower the slowest of those became. A row is
slower where then even the new p10 lies above the old p90 and the new median is more than 1.25 of the old one; all rows
together are where the geometric mean of their medians' ratios is more than 1.08. Between runs of the same code on a
shared two-core machine, unscaled medians put 4 and 7 of 68 rows wrong, and this rule none. Whether the machines are alike
is for the reader to judge; what differs of them is said.
"""

import json
import statistics

from .timing import OURS

SLOWER, ALL_SLOWER = 1.25, 1.08
TELLING = ("device", "cpu", "cores", "threads", "torch")  # of the environment
NEEDED = {"environment", "suite", "results"}, {"cpu", "threads", "torch", "date"}  # of a result, of its environment
OF_ROWS = {"case", "pass", "contenders", "ratios", "limit_s", "flops"}
OF_ROWS |= {"cell", "B", "T", "H", "layers", "bidirectional", "dtype", "ragged"}


class BadResult(ValueError):
    """The file is no result of this benchmark."""


def read(path):
    """The result in a file. Raises BadResult with one line of reason."""
    try:
        result = json.loads(path.read_text())
        keys = [(NEEDED[0], result), (NEEDED[1], result["environment"]), *((OF_ROWS, row) for row in result["results"])]
        if not all(needed <= found.keys() for needed, found in keys):
            raise KeyError
        keyed(result)
        return result
    except OSError as error:
        raise BadResult(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadResult(f"{path} is no result of this benchmark") from None


def keyed(result):
    """{case and pass: the figures of all who were timed} of the rows in which we were."""
    rows = {}
    for row in result["results"]:
        timed = {name: figures for name, figures in row["contenders"].items() if "median_s" in figures}
        if OURS in timed:
            rows[f"{row['case']} {row['pass']}"] = timed
    return rows


def change(old, new):
    """Of a row: (new median / old, the same without the machine's share, whether the deciles are apart without it)."""
    drifts = [new[name]["median_s"] / old[name]["median_s"] for name in new if name != OURS and name in old]
    was, now = old[OURS], new[OURS]
    plain = now["median_s"] / was["median_s"]
    if plain > 1:
        drift = max([1, *drifts])
        return plain, max(1, plain / drift), now["p10_s"] / drift > was["p90_s"]
    drift = min([1, *drifts])
    return plain, min(1, plain / drift), now["p90_s"] / drift < was["p10_s"]


def compare(old, new):
    """{paired, together, slower: [(row, ratio)], faster: likewise, lost: rows that ran and do not any more, differs}."""
    before, after = keyed(old), keyed(new)
    changes = {name: change(before[name], after[name]) for name in after if name in before}
    tried = {f"{row['case']} {row['pass']}" for row in new["results"]}
    facts = [(name, old["environment"].get(name), new["environment"].get(name)) for name in TELLING]
    own = [own for _, own, _ in changes.values()]
    return {
        "paired": len(changes),
        "together": statistics.geometric_mean(own) if own else 1,
        "slower": [(name, plain) for name, (plain, own, apart) in changes.items() if apart and own > SLOWER],
        "faster": [(name, plain) for name, (plain, own, apart) in changes.items() if apart and own < 1 / SLOWER],
        "lost": [name for name in before if name in tried and name not in after],
        "differs": [f"{name}: {was} then, {now} now" for name, was, now in facts if was is not None and was != now],
    }


def lines(verdict):
    """What is said of a comparison."""
    said = [f"not the same machine or versions: {line}" for line in verdict["differs"]]
    for word in ("slower", "faster"):
        said += [f"{word}: {name}, {ratio:.2f} of the old median" for name, ratio in verdict[word]]
    said += [f"does not run any more: {name}" for name in verdict["lost"]]
    if not verdict["paired"]:
        return [*said, "no row is in both results: nothing to compare"]
    counts = ", ".join(f"{len(verdict[word])} {word}" for word in ("slower", "faster"))
    return [
        *said,
        f"compared {verdict['paired']} rows: {counts} (deciles apart and medians over {SLOWER:.2f} apart, beyond what the "
        f"other contenders' changed); all together {verdict['together']:.2f} of the old time (at most {ALL_SLOWER:.2f})",
    ]


def passes(verdict):
    return not verdict["slower"] and not verdict["lost"] and verdict["together"] <= ALL_SLOWER
