"""The report's plots as inline SVG: drawn by matplotlib, coloured by the page.

Matplotlib gets a placeholder colour for each role (ink, grid, series 1 to 5); in the finished SVG
each becomes a CSS variable, so the page's light and dark themes colour the plots too. Text stays
text: it can be searched, and takes the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from lakefeed.bench.verdict import most_words

# Placeholders: colours that occur nowhere else, and the CSS variable that takes each one's place.
INK, GRID, SOFT = "#010101", "#020202", "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005")
_VARIABLES = {
    INK: "--ink",
    GRID: "--line",
    SOFT: "--soft",
    **{colour: f"--s{number}" for number, colour in enumerate(SERIES, 1)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a user's names may hold dollars
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
# Matplotlib's own would write powers as mathematics, which is off.
_FIGURES = StrMethodFormatter("{x:,.10g}")
# A comparison may have more runs than there are colours.
_LINES = ("-", ":")
_NUMBERS = {"lake": 0, "plain": 1, "tfrecord": 2, "webdataset": 3, "mount": 4}


def colour_of(source: str, number: int) -> str:
    """Return the CSS colour of a series, for legends outside a plot."""
    return f"var(--s{_NUMBERS.get(source, number) % len(SERIES) + 1})"


def _drawn(source: str, number: int) -> str:
    return SERIES[_NUMBERS.get(source, number) % len(SERIES)]


def _label(text: str) -> str:
    # What begins with an underscore would have no place in a legend.
    return f" {text}" if text.startswith("_") else text


def timelines(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """AU or compute (dashed: GPU busy) above, MB/s below, over the seconds of each run."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure((8.6, 3.9), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for number, run in enumerate(runs):
            line, colour = run["timeline"], _drawn(run["source"], number)
            busy = [100 * value for value in line["utilisation"]]
            label = _label(run["source"])
            style = _LINES[number // len(SERIES) % len(_LINES)]
            upper.plot(line["seconds"], busy, style, color=colour, linewidth=1.6, label=label)
            gpu = line.get("gpu_busy")
            if gpu:
                busy = [100 * value for value in gpu]
                upper.plot(line["seconds"], busy, "--", color=colour, linewidth=1.2)
            moved = [value / 1e6 for value in line["bytes_per_second"]]
            lower.plot(line["seconds"], moved, style, color=colour, linewidth=1.6)
            lower.fill_between(line["seconds"], moved, color=colour, alpha=0.12, linewidth=0)
        upper.set(ylabel="busy (%)", ylim=(0, 103))
        lower.set(ylabel="MB/s", xlabel="seconds", ylim=(0, None))
        upper.legend(loc="lower right", ncols=3)
        return _svg(figure)


def waits(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """How long the steps waited for their batch: the share of steps in each bin."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure((8.6, 2.7), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(runs)
        for number, run in enumerate(runs):
            counts = run["wait_histogram"]
            shares = [100 * count / max(1, sum(counts)) for count in counts]
            at = [
                bin_number + number * width - 0.4 + width / 2 for bin_number in range(len(counts))
            ]
            colour = _drawn(run["source"], number)
            label = _label(run["source"])
            axes.bar(at, shares, width=width * 0.92, color=colour, label=label)
        edges = runs[0]["wait_edges_seconds"]
        # A bin's upper edge stands at its right side; the last bin is open.
        at = [place + 0.5 for place in range(len(edges) - 2)]
        axes.set_xticks(at, [_short(edge) for edge in edges[1:-1]])
        axes.grid(axis="x", visible=False)
        axes.set(ylabel="steps (%)", xlabel="wait for a batch", xlim=(-0.6, len(edges) - 1.4))
        axes.legend(loc="upper right")
        return _svg(figure)


def sweeps(found: Mapping[str, Mapping[str, Any]], threshold: float, name: str) -> str:
    """AU over the number of accelerators, with the threshold."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure((8.6, 3.0), layout="constrained")
        axes = figure.subplots()
        for number, (source, sweep) in enumerate(found.items()):
            points = sweep["points"]
            at = [point["accelerators"] for point in points]
            busy = [100 * point["utilisation"] for point in points]
            colour = _drawn(source, number)
            label = f"{source}: feeds {most_words(sweep)}"
            axes.plot(at, busy, "o-", color=colour, linewidth=1.8, markersize=5, label=label)
        axes.axhline(100 * threshold, color=SOFT, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"threshold {100 * threshold:.0f} %",
            # Sweeps begin above the line on the left and end below it, or close to 100.
            (1, 100 * threshold),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=SOFT,
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="accelerators", ylabel="AU (%)", ylim=(0, 103))
        axes.legend(loc="lower left")
        return _svg(figure)


def stalls(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Where an average sample's time goes: compute, preparation, fetching."""
    parts = (
        ("compute_share", "compute", SERIES[0]),
        ("prepare_share", "preparation stall", SERIES[2]),
        ("fetch_share", "fetch stall", SERIES[1]),
    )
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure((8.6, 0.9 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        left = [0.0] * len(rows)
        for key, label, colour in parts:
            shares = [100 * row["stalls"][key] for row in rows]
            axes.barh(range(len(rows)), shares, left=left, color=colour, label=label, height=0.62)
            left = [before + share for before, share in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(rows)), [row["source"] for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlim=(0, 100), xlabel="share of a sample's time (%)")
        figure.legend(loc="outside upper right", ncols=3)
        return _svg(figure)


def bars(labels: Sequence[str], values: Sequence[float], unit: str, name: str) -> str:
    """One value for each label, as horizontal bars with their figures."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure((8.6, 0.7 + 0.34 * len(labels)), layout="constrained")
        axes = figure.subplots()
        drawn = axes.barh(range(len(labels)), values, color=SERIES[0], height=0.66)
        axes.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=4, color=INK)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(_FIGURES)
        axes.set(xlabel=unit, xlim=(0, max(values, default=1) * 1.12 or 1))
        return _svg(figure)


def rates(tables: Mapping[str, Mapping[int, float]], unit: str, name: str) -> str:
    """A rate over requests in flight, one line for each size or call; both axes logarithmic."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure((8.6, 3.1), layout="constrained")
        axes = figure.subplots()
        for number, (label, points) in enumerate(tables.items()):
            at = sorted(points)
            colour = SERIES[number % len(SERIES)]
            style = "o-" if number < len(SERIES) else "s--"
            axes.plot(at, [points[c] for c in at], style, color=colour, markersize=4, label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({c for points in tables.values() for c in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        # Between a power of ten and the next there are marks too: a volume may vary by less.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(_FIGURES)
        axes.set(xlabel="requests in flight", ylabel=unit)
        figure.legend(loc="outside right upper")
        return _svg(figure)


def _short(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:g} s"


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, f"var({variable})")
    # The page decides the size; the drawing keeps its proportions.
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" ', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", text, count=1)
    # The namespaces name web addresses; inside an HTML page none is needed.
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("xlink:href", "href")
