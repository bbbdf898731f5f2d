"""Which rows became slower than noise explains, between two results: `python -m benchmarks --compare OLD.json`.

A row is slower where both hold: even the new p10 lies above the old p90, and the new median is more than 1.10 of the
old one. Rows are paired by case and pass, and only ours count. Whether the machines are alike is for the reader to
judge; what differs of them is said.
"""

import json

from .timing import OURS

SLOWER = 1.10
TELLING = ("device", "cpu", "cores", "threads", "torch")  # of the environment


class BadResult(ValueError):
    """The file is no result of this benchmark."""


def read(path):
    """The result in a file. Raises BadResult with one line of reason."""
    try:
        result = json.loads(path.read_text())
        keyed(result)
        return result
    except OSError as error:
        raise BadResult(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadResult(f"{path} is no result of this benchmark") from None


def keyed(result):
    """{case and pass: our figures} of the rows in which we were timed."""
    rows = {f"{row['case']} {row['pass']}": row["contenders"].get(OURS, {}) for row in result["results"]}
    return {name: figures for name, figures in rows.items() if "median_s" in figures}


def compare(old, new):
    """{paired, slower: [(row, ratio)], faster: likewise, lost: rows that ran and do not any more, differs: lines}."""
    before, after = keyed(old), keyed(new)
    pairs = {name: (before[name], after[name]) for name in after if name in before}
    ratios = {name: n["median_s"] / o["median_s"] for name, (o, n) in pairs.items()}
    tried = {f"{row['case']} {row['pass']}" for row in new["results"]}
    facts = [(name, old["environment"].get(name), new["environment"].get(name)) for name in TELLING]
    return {
        "paired": len(pairs),
        "slower": [(k, ratios[k]) for k, (o, n) in pairs.items() if n["p10_s"] > o["p90_s"] and ratios[k] > SLOWER],
        "faster": [(k, ratios[k]) for k, (o, n) in pairs.items() if n["p90_s"] < o["p10_s"] and ratios[k] < 1 / SLOWER],
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
    return [*said, f"compared {verdict['paired']} rows: {counts} (deciles apart and medians over {SLOWER:.2f} apart)"]


def passes(verdict):
    return not verdict["slower"] and not verdict["lost"]
