"""What the GPUs did while something trained: sampled beside it, in a thread.

A probe is a plug-in that reads all GPUs of one vendor at once: `NvmlProbe` (NVIDIA; `gpu_nvml`),
`RsmiProbe` (AMD), `NoProbe`. A machine without a GPU is normal: its samples are empty and its facts
say "no GPU" and why. Where the driver tells on which GPUs this process computes, the facts are
theirs alone: on a machine of eight, seven may be idle or somebody else's.
"""

from __future__ import annotations

import bisect
import importlib
import importlib.util
import threading
import time
from collections.abc import Sequence, Set
from operator import itemgetter
from typing import Any

from pynvml import NVMLError

from lakefeed.bench import metrics
from lakefeed.bench.gpu_nvml import NvmlProbe
from lakefeed.bench.gpu_probe import NoProbe, Probe, Reading

# NVML averages utilisation over 1/6 s to 1 s, so more samples would repeat themselves.
SAMPLE_SECONDS = 0.2
_JOIN_SECONDS = 5.0
# An hour of them: 30 MB with eight GPUs. Then every other one goes, and half as many come.
SAMPLES_MAX = 1 << 14

Sample = tuple[float, list[Reading]]


class RsmiProbe:
    """AMD's GPUs through ROCm SMI (`pip install pyrsmi`), which says -1 where it cannot tell."""

    why = ""

    def __init__(self, rocml: Any) -> None:
        self._rocml = rocml
        rocml.smi_initialize()
        self._count = int(rocml.smi_get_device_count())
        self.names = [str(rocml.smi_get_device_name(number)) for number in range(self._count)]
        self._open = True

    def read(self) -> list[Reading]:
        """Return busy share and power of each GPU."""
        rocml = self._rocml
        return [
            Reading(
                number,
                busy=_known(rocml.smi_get_device_utilization(number), 100),
                watts=_known(rocml.smi_get_device_average_power(number)),
            )
            for number in range(self._count)
        ]

    def close(self) -> None:
        """Shut ROCm SMI down."""
        if self._open:
            self._open = False
            self._rocml.smi_shutdown()


def _known(value: float, unit: int = 1) -> float | None:
    return None if value < 0 else value / unit


def find() -> Probe:
    """Return the probe of this machine's GPUs; `NoProbe` where there is none."""
    why = "NVML is there and finds none"
    try:
        probe: Probe = NvmlProbe()
    except NVMLError as error:
        if importlib.util.find_spec("pyrsmi") is None:
            return NoProbe(f"no GPU ({error})")
        try:
            probe = RsmiProbe(importlib.import_module("pyrsmi.rocml"))
        except Exception as other:  # noqa: BLE001 - it has no error of its own for "none here"
            return NoProbe(f"no GPU ({error}; pyrsmi: {other})")
        why = f"{error}; pyrsmi finds none"
    if probe.names:
        return probe
    probe.close()
    return NoProbe(f"no GPU ({probe.why or why})")


def left_out(probe: Probe) -> list[str]:
    """Return a note on GPUs that cannot be read beside others that can; else nothing."""
    return [f"GPUs left out, they cannot be read: {probe.why}"] if probe.names and probe.why else []


class Sampler:
    """Reads a probe again and again between `with` and its end, the less often the longer.

    It has the samples of the one `before` it, too, which must have ended. `_samples` is changed by
    the thread only, which adds to it or puts a thinner one in its place.
    """

    def __init__(
        self, probe: Probe, seconds: float = SAMPLE_SECONDS, before: Sampler | None = None
    ) -> None:
        self._probe = probe
        self._seconds: float = seconds if before is None else before._seconds
        self._stop = threading.Event()
        self._samples: list[Sample] = [] if before is None else [*before._samples]
        self._thread = threading.Thread(target=self._run, name="lakefeed-bench-gpu", daemon=True)

    def _run(self) -> None:
        while True:
            readings = self._probe.read()
            self._samples.append((time.monotonic(), readings))
            if len(self._samples) >= SAMPLES_MAX:
                self._samples, self._seconds = self._samples[::2], self._seconds * 2
            if self._stop.wait(self._seconds):
                return

    def __enter__(self) -> Sampler:
        if self._probe.names:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)

    def facts(self, spans: Sequence[tuple[float, float]], samples: int) -> dict[str, Any]:
        """Return busy, SM, power and energy in stretches of time, means over GPUs and time.

        The GPUs are those on which this process computes; all, where nobody tells. What they do
        between the stretches (validation) is not counted; energy is, up to their very ends. Without
        a GPU all are None and `why` says so.
        """
        taken, used = self._samples, self._used()
        flat = [
            reading
            for start, end in spans
            for _, readings in taken[
                bisect.bisect_left(taken, start, key=_moment) : bisect.bisect_right(
                    taken, end, key=_moment
                )
            ]
            for reading in readings
            if reading.gpu in used
        ]
        joules = _joules(taken, spans, used)
        return {
            "names": [name for at, name in enumerate(self._probe.names) if at in used],
            "there": len(self._probe.names),
            "why": self._probe.why,
            "busy": _mean([reading.busy for reading in flat]),
            "sm": _mean([reading.sm for reading in flat]),
            "watts": _mean([reading.watts for reading in flat]),
            "joules": joules,
            "joules_per_sample": None
            if joules is None
            else metrics.joules_per_sample(joules, samples),
        }

    def _used(self) -> Set[int]:
        """Return the GPUs on which this process was seen to compute, or all."""
        readings = [reading for _, readings in self._samples for reading in readings]
        own = {one.gpu for one in readings if one.own}
        return own or {one.gpu for one in readings} or set(range(len(self._probe.names)))

    def line(self, start: float, seconds: Sequence[float]) -> list[float]:
        """Return GPU busy at each of these moments after `start`: the nearest sample that has it;
        nothing where none has."""
        used = self._used()
        means = [
            (moment, _mean([one.busy for one in readings if one.gpu in used]))
            for moment, readings in self._samples
        ]
        known = [(moment, busy) for moment, busy in means if busy is not None]
        if not known:
            return []
        values = []
        for after in seconds:
            moment = start + after
            at = bisect.bisect_left(known, moment, key=itemgetter(0))
            beside = known[max(0, at - 1) : at + 1]
            values.append(min(beside, key=lambda one: abs(one[0] - moment))[1])
        return values


def _moment(sample: Sample) -> float:
    return sample[0]


def _joules(
    taken: Sequence[Sample], spans: Sequence[tuple[float, float]], used: Set[int]
) -> float | None:
    """Return energy from the counters, or from sampled power where there are none."""
    if len(taken) < 2:
        return None
    total = 0.0
    for gpu in used:
        own = [(moment, one) for moment, readings in taken for one in readings if one.gpu == gpu]
        counted = [(moment, one.joules) for moment, one in own if one.joules is not None]
        powered = [(moment, one.watts) for moment, one in own if one.watts is not None]
        if len(counted) < 2:  # the driver does not count
            if not powered:
                return None
            moments, watts = zip(*powered, strict=True)
            totals = metrics.energy(moments, watts)
        else:
            moments, joules = zip(*counted, strict=True)
            totals = metrics.counted(joules)
        total += metrics.within(spans, moments, totals)
    return total


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return metrics.mean(known) if known else None
