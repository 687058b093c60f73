"""Who is how fast, as a picture: a panel for each cell that README shows, a dot for each loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.peers.report import LIMIT, PLAIN, Figures, measured

SHOWN = ("warm/tiny", "cold/tiny", "nas/tiny", "warm/img", "cold/img", "nas/img")
WORDS = {"tiny": "files of 2 to 6 KiB", "img": "pictures of 110 kB", "warm": "in memory",
         "cold": "cold disk", "nas": "filer, simulated"}  # fmt: skip
OURS, PLAINLY, OTHERS = "#1769c4", "#d1660f", "#6f7782"


def draw(document: dict[str, Any], target: Path) -> None:
    """Save the picture of a result; cells that it lacks are left out."""
    cells = {name: document["cells"][name] for name in SHOWN if name in document["cells"]}
    columns = min(len(cells), 3)
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.6 * rows), dpi=80, layout="constrained")
    for place, (cell, figures) in enumerate(cells.items(), 1):
        _panel(figure.add_subplot(rows, columns, place), cell, figures)
    figure.suptitle(
        "samples/s on two processors (logarithmic): lakefeed blue, plain files orange, others grey;"
        " dashed: a bare preadv of the same bytes",
        fontsize=10,
    )
    figure.savefig(target, metadata={"Software": None})


def _panel(axes: Axes, cell: str, figures: Figures) -> None:
    speeds = sorted(
        (facts["samples_per_second"], name) for name, facts in measured(figures) if name != LIMIT
    )
    colours = [_colour(name) for _, name in speeds]
    values = [value for value, _ in speeds]
    axes.set_xscale("log")
    axes.scatter(values, range(len(speeds)), c=colours, s=22, zorder=3)
    axes.hlines(range(len(speeds)), min(values) / 2, values, colors=colours, linewidth=0.8)
    axes.axvline(figures[LIMIT]["samples_per_second"], color="black", linestyle="--", linewidth=0.9)
    axes.set_yticks(range(len(speeds)), [name for _, name in speeds], fontsize=7)
    for label, colour in zip(axes.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    axes.set_xlim(left=min(values) / 2)
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    place, kind = cell.split("/")
    axes.set_title(f"{WORDS[kind]}, {WORDS[place]}", fontsize=9)


def _colour(name: str) -> str:
    if name.startswith("lakefeed"):
        return OURS
    return PLAINLY if name in PLAIN else OTHERS
