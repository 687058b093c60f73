"""The report's plots, as PNG bytes. Colours are the page's own, one for each source of bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lakefeed.demo import accelerators as feeding
from lakefeed.demo.training import Epoch

LAKE = "#0f6e84"
FILES = "#c9762b"
_INK = "#22313a"
# Untyped keys: newer matplotlib stubs list every one they know, older ones take any string.
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa7ad",
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4eaec",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.size": 10,
    "legend.frameon": False,
}
_LABELS_MAX = 30  # more class names than this would overprint each other


def histogram(train: Mapping[str, int], held_out: Mapping[str, int]) -> bytes:
    """Pictures in each class, those held out on top."""
    names = list(train)
    with mpl.rc_context(_STYLE):
        figure = Figure((7.4, 3.0), layout="constrained")
        axes = figure.subplots()
        lower = [train[name] for name in names]
        upper = [held_out.get(name, 0) for name in names]
        at = np.arange(len(names))
        axes.bar(at, lower, color=LAKE, label="training", width=0.72)
        axes.bar(at, upper, bottom=lower, color="#8fc1cc", label="held out", width=0.72)
        axes.set_ylabel("pictures")
        axes.grid(axis="x", visible=False)
        _name_ticks(axes.xaxis, names)
        axes.set_ylim(0, max(np.add(lower, upper)) * 1.22)
        axes.legend(ncols=2, loc="upper right")
        return _png(figure)


def curves(lake: Sequence[Epoch], files: Sequence[Epoch]) -> bytes:
    """Loss and accuracy after each epoch, from the lake and from plain files."""
    with mpl.rc_context(_STYLE):
        figure = Figure((7.4, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        for epochs, colour, name in ((lake, LAKE, "lake"), (files, FILES, "files")):
            at = range(1, len(epochs) + 1)
            left.plot(at, [e.loss for e in epochs], color=colour, label=f"{name}, training")
            held_out = [e.held_out_loss for e in epochs]
            left.plot(at, held_out, "--", color=colour, label=f"{name}, held out")
            right.plot(at, [100 * e.accuracy for e in epochs], color=colour)
            right.plot(at, [100 * e.held_out_accuracy for e in epochs], "--", color=colour)
        left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
        right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(None, 100.5))
        left.legend()
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
        return _png(figure)


def confusion(table: NDArray[np.int64], names: Sequence[str]) -> bytes:
    """How often each true class was taken for each other."""
    with mpl.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure((4.4, 4.1), layout="constrained")
        axes = figure.subplots()
        shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="GnBu", vmin=0, vmax=1)
        if len(names) <= _LABELS_MAX:
            for (row, column), count in np.ndenumerate(table):
                if count:
                    colour = "white" if shares[row, column] > 0.6 else _INK
                    axes.text(column, row, str(count), ha="center", va="center", color=colour)
        axes.set(xlabel="said the model", ylabel="was")
        _name_ticks(axes.xaxis, names)
        _name_ticks(axes.yaxis, names)
        axes.tick_params(length=0)
        return _png(figure)


def accelerators(facts: Sequence[Any]) -> bytes:
    """AU over the number of emulated accelerators, from a lake and from plain files."""
    return feeding.picture(facts, {"lake": LAKE, "plain": FILES}, mpl.rc_context(_STYLE))


def _name_ticks(axis: Any, names: Sequence[str]) -> None:
    if len(names) > _LABELS_MAX:
        axis.set_ticks([])
        return
    slant = 40 if max(map(len, names)) * len(names) > 80 else 0
    axis.set_ticks(range(len(names)), names, rotation=slant, ha="right" if slant else "center")


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=144)
    return out.getvalue()
