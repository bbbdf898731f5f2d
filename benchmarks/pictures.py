"""A result as pictures: `draw(result, folder, stem)` writes what the rows suffice for, returns {title: path}."""

import collections
import math

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import LogNorm  # noqa: E402

from .cases import LAYERS  # noqa: E402
from .timing import OURS  # noqa: E402

FACTOR = "torch.nn's time / fusedrnn's"
COLOURS = {"lstm": "#0072b2", "gru": "#e69f00", "rnn": "#009e73"}  # told apart without red and green
MARKS = {"infer": "o", "train-forward": "v", "backward": "s", "step": "^", "graph": "D"}


def plain(result):
    """The rows of one layer in one direction, with whole sequences."""
    return [r for r in result["results"] if r["layers"] == 1 and not r["bidirectional"] and not r["ragged"]]


def draw(result, folder, stem):
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, title, make in (
        ("heatmap", "Speed-up over batch and sequence length", heatmaps),
        ("hidden", "Speed-up by hidden size", bars),
        ("roofline", "Rate of products against the machine's", roofline),
        ("peaks", "Peak memory of forward and backward", memory),  # "memory" ends the stem of that suite's results
    ):
        figure = make(result) if result["suite"] != "memory" or make is memory else None
        if figure is not None:
            made[title] = folder / f"{stem}-{name}.png"
            figure.savefig(made[title], dpi=110, bbox_inches="tight")
            plt.close(figure)
    return made


def subtitle(result):
    facts = result["environment"]
    where = facts["cpu"] if facts.get("device", "cpu") == "cpu" else facts["device"]
    return f"{where}, {facts['threads']} threads, torch {facts['torch']}, {facts['date'][:10]}"


def present(values, order):
    return [value for value in order if value in values]


def well_covered(rows):
    """The passes, without those that were measured in but a few of the cases: they would be empty pictures."""
    counts = collections.Counter(row["pass"] for row in rows)
    return present({mode for mode, count in counts.items() if 3 * count >= max(counts.values())}, MARKS)


def heatmaps(result):
    """A map for each pass and cell, at the hidden size with most of the combinations of B and T."""
    found = [row for row in plain(result) if "torch.nn" in row["ratios"]]
    points = {}
    for row in found:
        points.setdefault((row["H"], row["dtype"]), set()).add((row["B"], row["T"]))
    if not points or len(max(points.values(), key=len)) < 4:
        return None
    H, dtype = max(points, key=lambda key: len(points[key]))
    rows = [row for row in found if (row["H"], row["dtype"]) == (H, dtype)]
    # a size that hardly any other is combined with would be an empty row or column
    Bs = sorted(B for B in {row["B"] for row in rows} if len({r["T"] for r in rows if r["B"] == B}) > 1)
    Ts = sorted(T for T in {row["T"] for row in rows} if len({r["B"] for r in rows if r["T"] == T}) > 1)
    rows = [row for row in rows if row["B"] in Bs and row["T"] in Ts]
    if not rows:
        return None
    cells, modes = present({r["cell"] for r in rows}, LAYERS), well_covered(rows)
    rows = [row for row in rows if row["pass"] in modes]
    most = max(2.0, *(max(r["ratios"]["torch.nn"], 1 / r["ratios"]["torch.nn"]) for r in rows))
    norm, colours = LogNorm(1 / most, most), plt.get_cmap("RdBu").with_extremes(bad="#dddddd")
    size = (len(cells) * (0.75 * len(Ts) + 1.2) + 1.5, len(modes) * (0.36 * len(Bs) + 1) + 0.6)
    figure, axes = plt.subplots(len(modes), len(cells), figsize=size, squeeze=False, layout="constrained")
    for (i, mode), (j, cell) in ((a, b) for a in enumerate(modes) for b in enumerate(cells)):
        values = [[math.nan] * len(Ts) for _ in Bs]
        for row in rows:
            if (row["cell"], row["pass"]) == (cell, mode):
                values[Bs.index(row["B"])][Ts.index(row["T"])] = row["ratios"]["torch.nn"]
        axis = axes[i][j]
        image = axis.imshow(values, norm=norm, cmap=colours, aspect="auto", origin="lower")
        for b, line in enumerate(values):
            for t, value in enumerate(line):
                dark = value == value and abs(math.log(value)) > 0.62 * math.log(most)
                text = f"{value:.2f}" if value == value else "–"
                axis.text(t, b, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
        axis.set_xticks(range(len(Ts)), Ts)
        axis.set_yticks(range(len(Bs)), Bs)
        axis.set_title(f"{LAYERS[cell]}, {mode}", fontsize=10)
        axis.set_xlabel("sequence length T, steps" if i == len(modes) - 1 else "")
        axis.set_ylabel("batch B, rows" if j == 0 else "")
    bar = figure.colorbar(image, ax=axes, label=f"{FACTOR} (log)", aspect=30, pad=0.02)
    ticks = [t for t in (0.03, 0.1, 0.25, 0.5, 1, 2, 4, 10, 30, 100) if 1 / most <= t <= most]
    bar.set_ticks(ticks, labels=[f"{t:g}×" for t in ticks])
    bar.minorticks_off()
    title = f"Speed-up over torch.nn, H = {H}, {dtype}: blue is faster, red slower, – not measured"
    figure.suptitle(f"{title}\n{subtitle(result)}", fontsize=11)
    return figure


def bars(result):
    """Bars over the hidden sizes, for each pass and each (B, T) that has more than two of them."""
    found = [row for row in plain(result) if "torch.nn" in row["ratios"]]
    groups = {}
    for row in found:
        groups.setdefault((row["B"], row["T"]), set()).add(row["H"])
    # those with most sizes, at most three
    groups = dict(sorted(((k, v) for k, v in groups.items() if len(v) > 2), key=lambda g: (-len(g[1]), g[0]))[:3])
    if not groups:
        return None
    modes = well_covered([row for row in found if (row["B"], row["T"]) in groups])
    size = (5.2 * len(groups), 2.3 * len(modes) + 0.8)
    figure, axes = plt.subplots(len(modes), len(groups), figsize=size, squeeze=False, layout="constrained")
    for (i, mode), (j, (B, T)) in ((a, b) for a in enumerate(modes) for b in enumerate(groups)):
        axis, Hs = axes[i][j], sorted(groups[B, T])
        for k, (cell, colour) in enumerate(COLOURS.items()):
            ratios = {r["H"]: r["ratios"]["torch.nn"] for r in found
                      if (r["cell"], r["pass"], r["B"], r["T"]) == (cell, mode, B, T)}
            places = [Hs.index(H) + 0.27 * (k - 1) for H in ratios]
            drawn = axis.bar(places, [v - 1 for v in ratios.values()], 0.25, bottom=1, color=colour, label=LAYERS[cell])
            axis.bar_label(drawn, [f"{v:.1f}" for v in ratios.values()], fontsize=7, padding=1)
        axis.axhline(1, color="black", linewidth=1)
        axis.set_yscale("log")
        values = [r["ratios"]["torch.nn"] for r in found if r["pass"] == mode and (r["B"], r["T"]) in groups]
        axis.set_ylim(min(0.8, 0.85 * min(values)), 1.5 * max(2, *values))
        ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if axis.get_ylim()[0] <= t <= axis.get_ylim()[1]]
        axis.set_yticks(ticks, [f"{t:g}×" for t in ticks])
        axis.minorticks_off()
        axis.set_xticks(range(len(Hs)), Hs)
        axis.set_title(f"{mode}, B = {B}, T = {T}", fontsize=10)
        axis.set_xlabel("hidden size H, units" if i == len(modes) - 1 else "")
        axis.set_ylabel("speed-up (log)" if j == 0 else "")
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=9, ncols=3, loc="outside lower center")
    figure.suptitle(f"Speed-up over torch.nn ({FACTOR}); 1× is equal\n{subtitle(result)}", fontsize=11)
    return figure


def roofline(result):
    """What each pass achieves, over the products that a step makes of each weight's byte, under the machine's roofs."""
    ceilings = result.get("ceilings")
    rows = [row for row in plain(result) if "median_s" in row["contenders"].get(OURS, {})]
    if not ceilings or not ceilings["read"] or not rows:
        return None
    modes = present({row["pass"] for row in rows}, ("infer", "step", *MARKS))[:2]
    figure, axes = plt.subplots(1, len(modes), figsize=(6.2 * len(modes), 5.4), squeeze=False, layout="constrained")
    bits = {"float64": 8, "float32": 4}
    of = lambda row: 2 * row["B"] / bits.get(row["dtype"], 2)
    ends = [min(map(of, rows)) / 1.6, max(map(of, rows)) * 1.6]
    for axis, mode in zip(axes[0], modes):
        roofs(axis, ceilings, ends)
        for row in rows:
            aside = 1.13 ** (list(COLOURS).index(row["cell"]) - 1)  # so that the cells do not hide one another
            for name, filled in (("torch.nn", False), (OURS, True)):
                median = row["contenders"].get(name, {}).get("median_s")
                if median and row["pass"] == mode:
                    face = COLOURS[row["cell"]] if filled else "none"
                    axis.plot(of(row) * aside, row["flops"] / median / 1e9, "o" if filled else "s", markersize=5,
                              color=COLOURS[row["cell"]], markerfacecolor=face, alpha=0.8)
        axis.set(xscale="log", yscale="log", xlim=ends, title=mode)
        axis.set_xlabel("products of a step per byte of recurrent weights,\nFLOP/byte = 2 · batch / bytes of a number")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("products of the pass / its time, GFLOP/s")
    for cell in present({row["cell"] for row in rows}, LAYERS):
        axis.plot([], [], "o", color=COLOURS[cell], label=f"fusedrnn.{LAYERS[cell]}")
        axis.plot([], [], "s", color=COLOURS[cell], markerfacecolor="none", label=f"torch.nn.{LAYERS[cell]}")
    figure.legend(*axis.get_legend_handles_labels(), fontsize=9, ncols=3, loc="outside lower center")
    peak = f"{ceilings['flops'] / 1e9:.0f} GFLOP/s"
    title = f"Rate of products under the machine's ceilings (flat: large products, {peak})"
    figure.suptitle(f"{title}\n{subtitle(result)}", fontsize=11)
    return figure


def roofs(axis, ceilings, ends):
    """The rate of products that reading weights of some sizes at every step allows."""
    peak, reads = ceilings["flops"] / 1e9, {int(size): rate / 1e9 for size, rate in ceilings["read"].items()}
    sizes = sorted(reads)
    for size, style in zip((sizes[0], sizes[len(sizes) // 2], sizes[-1]), ("-", "--", ":")):
        knee = min(max(peak / reads[size], ends[0]), ends[1])
        name = f"{size >> 20} MB" if size >> 20 else f"{size >> 10} KB"
        rates = [min(peak, x * reads[size]) for x in (ends[0], knee, ends[1])]
        axis.plot([ends[0], knee, ends[1]], rates, style, color="#555555", linewidth=1.2,
                  label=f"weights of {name}, read at {reads[size]:.0f} GB/s")


def memory(result):
    """Peak megabytes over T; only where a result has several T of the same layer."""
    lines = {}
    for row in plain(result):
        if row["pass"] == "step":
            for name in ("torch.nn", OURS):
                peak = row["contenders"].get(name, {}).get("peak_bytes")
                if peak:
                    each = lines.setdefault((row["B"], row["H"]), {})
                    each.setdefault((row["cell"], name), {})[row["T"]] = peak / 1e6
    lines = {key: each for key, each in lines.items() if max(map(len, each.values())) > 2}
    if not lines:
        return None
    (B, H), each = max(lines.items(), key=lambda item: sum(map(len, item[1].values())))
    cells = present({cell for cell, _ in each}, LAYERS)
    size = (4.2 * len(cells), 3.8)
    figure, axes = plt.subplots(1, len(cells), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, cell in zip(axes[0], cells):
        for name, style in (("torch.nn", "o--"), (OURS, "o-")):
            points = dict(sorted(each.get((cell, name), {}).items()))
            axis.plot(points.keys(), points.values(), style, color="black" if name == "torch.nn" else COLOURS[cell],
                      label=name)
            other = each.get((cell, OURS if name == "torch.nn" else "torch.nn"), {})
            for T, peak in points.items():
                above = peak > other.get(T, 0)
                place = {"xytext": (0, 7 if above else -13), "textcoords": "offset points", "ha": "center"}
                axis.annotate(f"{peak:.3g}", (T, peak), fontsize=8, **place)
        axis.set(xscale="log", yscale="log", title=LAYERS[cell], xlabel="sequence length T, steps (log)")
        Ts = sorted({T for (c, _), points in each.items() if c == cell for T in points})
        axis.set_xticks(Ts, Ts)
        axis.minorticks_off()
        axis.margins(0.12, 0.15)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("peak of a step, MB (log)")
    figure.suptitle(f"Peak memory of forward and backward, B = {B}, H = {H}\n{subtitle(result)}", fontsize=11)
    return figure
