"""What GPUs do as Prometheus metrics, for as long as a measurement serves any.

A thread of its own reads a probe of its own: what a report keeps (`gpu.Sampler`) comes more and
more seldom, and a scrape wants what is so now.
"""

from __future__ import annotations

import threading
import time

from lakefeed.bench import gpu, metrics
from lakefeed.bench.gpu_probe import Probe, Reading
from lakefeed.closing import Closing
from lakefeed.metrics.gpu import GpuMetrics

# Prometheus asks every 15 seconds, a person who looks on more often.
READ_SECONDS = 1.0
_JOIN_SECONDS = 5.0


class GpuGauges(Closing):
    """Keeps GPU metrics up to date until `close`."""

    def __init__(self, shown: GpuMetrics, probe: Probe) -> None:
        self._shown = shown
        self._probe = probe
        self._stop = threading.Event()
        self._before: dict[int, tuple[float, Reading]] = {}
        self._thread = threading.Thread(target=self._run, name="lakefeed-gpu-metrics", daemon=True)

    @classmethod
    def start(cls, shown: GpuMetrics) -> GpuGauges:
        """Begin; a machine without a GPU has only the version."""
        gauges = cls(shown, gpu.find())
        if gauges._probe.names:
            gauges._thread.start()
        return gauges

    def _run(self) -> None:
        while True:
            self.read()
            if self._stop.wait(READ_SECONDS):
                return

    def read(self) -> None:
        """Take over what the probe says now."""
        now = time.monotonic()
        for reading in self._probe.read():
            joules = self._joules(now, reading)
            self._shown.sampled(reading.gpu, reading.busy, reading.sm, reading.watts, joules)
            self._before[reading.gpu] = now, reading

    def _joules(self, now: float, reading: Reading) -> float:
        """Return the energy since the reading before: counted, or from power where none counts."""
        then, before = self._before.get(reading.gpu, (now, reading))
        if reading.joules is not None and before.joules is not None:
            return metrics.counted((before.joules, reading.joules))[-1]
        return (now - then) * (reading.watts or 0.0)

    def close(self) -> None:
        """Stop reading. Works twice."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)
        self._probe.close()
