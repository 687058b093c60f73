"""Looks at a running measurement: Prometheus gauges and a live plot on the terminal.

A look is called with the live numbers of every rank (`steps.LIVE`), twice a second, by the process
that gathers results. It only reads; a plot that cannot keep up slows nobody down.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TextIO

import plotext
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.live import Live
from rich.text import Text

from lakefeed.bench.gpu_gauges import GpuGauges
from lakefeed.bench.steps import LIVE
from lakefeed.metrics.bench import BenchMetrics, Endpoint
from lakefeed.metrics.gpu import GpuMetrics

Look = Callable[[list[list[float]]], object]
POINTS_MAX = 240
PLOT_LINES = 12


class Difference:
    """What happened between two looks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._then = clock()
        self._before = [0.0] * len(LIVE)

    def since(self, lives: Sequence[Sequence[float]]) -> tuple[dict[str, float], float]:
        """Return sums over ranks since the last call, and the seconds since then."""
        now = self._clock()
        seconds, self._then = now - self._then, now
        sums = [sum(column) for column in zip(*lives, strict=True)]
        moved = {
            name: one - other for name, one, other in zip(LIVE, sums, self._before, strict=True)
        }
        self._before = sums
        return {**moved, "accelerators": float(len(lives))}, seconds


class Gauges:
    """Prometheus metrics over HTTP while a measurement runs."""

    def __init__(self, registry: CollectorRegistry, endpoint: Endpoint, gpus: GpuGauges) -> None:
        self._metrics = BenchMetrics(registry)
        self._endpoint = endpoint
        self._gpus = gpus

    @classmethod
    def serve(cls, port: int) -> Gauges:
        """Start serving on this machine; port 0 takes a free one."""
        registry = CollectorRegistry()
        return cls(registry, Endpoint(registry, port), GpuGauges.start(GpuMetrics(registry)))

    @property
    def address(self) -> str:
        """Where they are."""
        return self._endpoint.address

    def look(self, source: str, accelerators: int) -> Look:
        """Return a look that fills the metrics of one run."""
        difference = Difference()

        def look(lives: list[list[float]]) -> None:
            self._metrics.advance(source, *difference.since(lives))

        return look

    def close(self) -> None:
        """Stop serving."""
        self._endpoint.close()
        self._gpus.close()


class Screen:
    """A plot of AU and MB/s, drawn anew twice a second."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @classmethod
    def on(cls, stream: TextIO) -> Screen:
        """Take over the lower part of a terminal."""
        live = Live(console=Console(file=stream, highlight=False), refresh_per_second=4)
        live.start()
        return cls(live)

    def look(self, source: str, accelerators: int) -> Look:
        """Return a look that draws one run."""
        difference = Difference()
        busy: deque[float] = deque(maxlen=POINTS_MAX)
        moved: deque[float] = deque(maxlen=POINTS_MAX)
        began = time.monotonic()

        def look(lives: list[list[float]]) -> None:
            happened, seconds = difference.since(lives)
            if seconds <= 0:
                return
            share = happened["compute_seconds"] / seconds / accelerators
            busy.append(100 * min(1.0, max(0.0, share)))
            moved.append(happened["bytes"] / seconds / 1e6)
            steps = sum(live[0] for live in lives)
            title = (
                f"{source}: {accelerators} accelerators, {steps:,.0f} steps, "
                f"AU {busy[-1]:.0f} %, {moved[-1]:,.0f} MB/s, {time.monotonic() - began:.0f} s"
            )
            width = self._live.console.width
            self._live.update(Text.from_ansi(title + "\n" + plot(busy, moved, width)))

        return look

    def close(self) -> None:
        """Give the terminal back; the last picture stays."""
        self._live.stop()


def plot(busy: Sequence[float], moved: Sequence[float], width: int) -> str:
    """Return two plots side by side as lines of text."""
    # After a plot its last part is the active figure; clearing that alone would divide it again.
    plotext.main()
    plotext.clear_figure()
    plotext.subplots(1, 2)
    plotext.plot_size(max(40, width), PLOT_LINES)
    for column, (values, title, top) in enumerate(
        ((busy, "AU %", 100.0), (moved, "MB/s", None)), 1
    ):
        part = plotext.subplot(1, column)
        part.plot_size(max(20, width // 2), PLOT_LINES)
        part.theme("clear")
        part.title(title)
        part.plot(list(values) or [0.0], marker="braille")
        part.ylim(0, top if top is not None else max(1.0, *values) * 1.1 if values else 1.0)
    return str(plotext.build())
