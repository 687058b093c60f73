"""What the GPUs did while something trained: sampled beside it, in a thread.

A probe is a plug-in that reads all GPUs of one vendor at once: `NvmlProbe` (NVIDIA; SM utilisation
by GPM on Hopper and newer), `RsmiProbe` (AMD), `NoProbe`. A machine without a GPU
is normal: its samples are empty and its facts say "no GPU" and why. NVML's `utilization.gpu` is the
share of its own sampling period with any kernel running; it says nothing of how full the GPU was,
and MIG partitions do not have it.
"""

from __future__ import annotations

import bisect
import importlib
import importlib.util
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import pynvml

from lakefeed.bench import metrics

# NVML averages utilisation over 1/6 s to 1 s, so more samples would repeat themselves.
SAMPLE_SECONDS = 0.2
_JOIN_SECONDS = 5.0
# An hour of them: 30 MB with eight GPUs. Then every other one goes, and half as many come.
SAMPLES_MAX = 1 << 14


@dataclass(frozen=True, slots=True)
class Reading:
    """One GPU at one moment; None where the hardware or the driver does not say.

    `joules` counts from the driver's start.
    """

    gpu: int
    busy: float | None = None
    sm: float | None = None
    watts: float | None = None
    joules: float | None = None


Sample = tuple[float, list[Reading]]


class Probe(Protocol):
    """Reads all GPUs."""

    @property
    def names(self) -> list[str]:
        """The GPUs by name; empty where there is none."""

    @property
    def why(self) -> str:
        """Why there is none, or ""."""

    def read(self) -> list[Reading]:
        """Return one reading for each GPU."""

    def close(self) -> None:
        """Let go of the driver. Works twice."""


@dataclass(frozen=True, slots=True)
class NoProbe:
    """There is no GPU, or nothing to read it with."""

    why: str
    names: list[str] = field(default_factory=list)

    def read(self) -> list[Reading]:
        """Return nothing."""
        return []

    def close(self) -> None:
        """Nothing to let go of."""


class NvmlProbe:
    """NVIDIA's GPUs through NVML, and GPM where the GPU has it."""

    why = ""

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        self.names = [_text(nvml.nvmlDeviceGetName(handle)) for handle in self._handles]
        self._before: dict[int, Any] = {}
        self._open = True

    def read(self) -> list[Reading]:
        """Return one reading for each GPU; what one refuses is None."""
        return [self._one(number, handle) for number, handle in enumerate(self._handles)]

    def _one(self, number: int, handle: Any) -> Reading:
        nvml = self._nvml
        busy = self._asked(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        watts = self._asked(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
        joules = self._asked(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
        sm = self._asked(lambda: self._sm(number, handle))
        return Reading(number, busy, sm, watts, joules)

    def _asked(self, call: Any) -> float | None:
        try:
            value = call()
        except self._nvml.NVMLError:
            return None
        return None if value is None else float(value)

    def _sm(self, number: int, handle: Any) -> float | None:
        """Return SM utilisation since the reading before; needs two of them."""
        nvml = self._nvml
        if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            return None
        sample = nvml.nvmlGpmSampleAlloc()
        try:
            nvml.nvmlGpmSampleGet(handle, sample)
        except BaseException:
            nvml.nvmlGpmSampleFree(sample)
            raise
        before, self._before[number] = self._before.get(number), sample
        if before is None:
            return None
        try:
            wanted = nvml.c_nvmlGpmMetricsGet_t()
            wanted.version = nvml.NVML_GPM_METRICS_GET_VERSION
            wanted.numMetrics = 1
            wanted.sample1, wanted.sample2 = before, sample
            wanted.metrics[0].metricId = nvml.NVML_GPM_METRIC_SM_UTIL
            return float(nvml.nvmlGpmMetricsGet(wanted).metrics[0].value / 100)
        finally:
            nvml.nvmlGpmSampleFree(before)

    def close(self) -> None:
        """Free the samples and shut NVML down."""
        if self._open:
            self._open = False
            for sample in self._before.values():
                self._nvml.nvmlGpmSampleFree(sample)
            self._nvml.nvmlShutdown()


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
    except pynvml.NVMLError as error:
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
    return NoProbe(f"no GPU ({why})")


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)

    def facts(self, spans: Sequence[tuple[float, float]], samples: int) -> dict[str, Any]:
        """Return busy, SM, power and energy in stretches of time, means over GPUs and time.

        What the GPUs do between the stretches (validation) is not counted; energy is, up to their
        very ends. Without a GPU all are None and `why` says so.
        """
        taken = self._samples
        flat = [
            reading
            for start, end in spans
            for _, readings in taken[
                bisect.bisect_left(taken, start, key=_moment) : bisect.bisect_right(
                    taken, end, key=_moment
                )
            ]
            for reading in readings
        ]
        joules = _joules(taken, spans)
        return {
            "names": list(self._probe.names),
            "why": self._probe.why,
            "busy": _mean([reading.busy for reading in flat]),
            "sm": _mean([reading.sm for reading in flat]),
            "watts": _mean([reading.watts for reading in flat]),
            "joules": joules,
            "joules_per_sample": None
            if joules is None
            else metrics.joules_per_sample(joules, samples),
        }

    def line(self, start: float, seconds: Sequence[float]) -> list[float]:
        """Return GPU busy at each of these moments after `start`: the nearest sample's."""
        taken = self._samples
        if not taken:
            return []
        values = []
        for after in seconds:
            moment = start + after
            at = bisect.bisect_left(taken, moment, key=_moment)
            beside = taken[max(0, at - 1) : at + 1]
            _, nearest = min(beside, key=lambda sample: abs(_moment(sample) - moment))
            values.append(_mean([reading.busy for reading in nearest]) or 0.0)
        return values


def _moment(sample: Sample) -> float:
    return sample[0]


def _joules(taken: Sequence[Sample], spans: Sequence[tuple[float, float]]) -> float | None:
    """Return energy from the counters, or from sampled power where there are none."""
    if len(taken) < 2:
        return None
    total = 0.0
    for gpu in range(len(taken[0][1])):
        counted = [(m, r[gpu].joules) for m, r in taken if r[gpu].joules is not None]
        powered = [(m, r[gpu].watts) for m, r in taken if r[gpu].watts is not None]
        if len(counted) < 2:  # the driver does not count
            if not powered:
                return None
            moments, watts = zip(*powered, strict=True)
            counted = [*zip(moments, metrics.energy(moments, watts), strict=True)]
        moments, joules = zip(*counted, strict=True)
        total += metrics.within(spans, moments, joules)
    return total


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return metrics.mean(known) if known else None


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
