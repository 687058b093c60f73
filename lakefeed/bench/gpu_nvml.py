"""NVIDIA's GPUs through NVML: busy, power, energy, and SM utilisation by GPM (Hopper and newer).

A GPU that is cut into MIG instances is read by its instances: NVML tells neither busy nor power of
them, GPM their SM utilisation. What one GPU refuses, or one that is lost, costs the others nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml
from pynvml import NVMLError

from lakefeed.bench.gpu_probe import Reading

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Device:
    """A GPU, or one MIG instance `part` of the GPU `whole`."""

    name: str
    handle: Any
    whole: Any
    part: int | None = None


class NvmlProbe:
    """Reads every GPU that NVML shows; NVMLError where it shows none for an error of its own."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._open = True
        self._before: dict[int, Any] = {}
        self.why = ""
        try:
            self._devices = list(self._found(pynvml.nvmlDeviceGetCount()))
        except BaseException:
            self.close()
            raise
        self.names = [device.name for device in self._devices]

    def _found(self, count: int) -> Iterator[_Device]:
        lost = []
        for number in range(count):
            try:
                whole = pynvml.nvmlDeviceGetHandleByIndex(number)
                yield from _parts(whole) or [_Device(_name(whole), whole, whole)]
            except NVMLError as error:
                lost.append(f"GPU {number}: {error}")
        self.why = ", ".join(lost)

    def read(self) -> list[Reading]:
        """Return one reading for each GPU; what one refuses is None."""
        return [self._one(number, device) for number, device in enumerate(self._devices)]

    def _one(self, number: int, device: _Device) -> Reading:
        handle = device.handle
        return Reading(
            number,
            busy=_asked(lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)),
            sm=_asked(self._sm, number, device),
            watts=_asked(lambda: float(pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3)),
            joules=_asked(lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)),
            own=_asked(_is_own, handle) or False,
        )

    def _sm(self, number: int, device: _Device) -> float | None:
        """Return SM utilisation since the reading before; needs two of them."""
        if not pynvml.nvmlGpmQueryDeviceSupport(device.whole).isSupportedDevice:
            return None
        sample = pynvml.nvmlGpmSampleAlloc()
        try:
            if device.part is None:
                pynvml.nvmlGpmSampleGet(device.whole, sample)
            else:
                pynvml.nvmlGpmMigSampleGet(device.whole, device.part, sample)
        except BaseException:
            pynvml.nvmlGpmSampleFree(sample)
            raise
        before, self._before[number] = self._before.get(number), sample
        if before is None:
            return None
        try:
            return _between(before, sample)
        finally:
            pynvml.nvmlGpmSampleFree(before)

    def close(self) -> None:
        """Free the samples and shut NVML down, as far as it lets. Works twice."""
        if self._open:
            self._open = False
            for sample in self._before.values():
                _asked(pynvml.nvmlGpmSampleFree, sample)
            _asked(pynvml.nvmlShutdown)


def _asked(call: Callable[..., T], *about: Any) -> T | None:
    try:
        return call(*about)
    except NVMLError:
        return None


def _parts(whole: Any) -> list[_Device]:
    """Return the MIG instances of a GPU, as far as this process may see them."""
    mode = _asked(pynvml.nvmlDeviceGetMigMode, whole)
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return []
    parts = []
    for at in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        # Their numbers have gaps.
        handle = _asked(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, at)
        if handle is not None:
            part = pynvml.nvmlDeviceGetGpuInstanceId(handle)
            parts.append(_Device(_name(handle), handle, whole, part))
    return parts


def _name(handle: Any) -> str:
    name = pynvml.nvmlDeviceGetName(handle)
    return name.decode() if isinstance(name, bytes) else str(name)


def _is_own(handle: Any) -> bool:
    """Tell whether this process computes on a GPU; a container's process may not be told so."""
    # Without its version an older driver ends in an error that is no NVMLError.
    running = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    return os.getpid() in {process.pid for process in running}


def _between(before: Any, after: Any) -> float | None:
    """Return SM utilisation between two samples; None where the GPU does not have the figure."""
    wanted = pynvml.c_nvmlGpmMetricsGet_t()
    wanted.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    wanted.numMetrics = 1
    wanted.sample1, wanted.sample2 = before, after
    wanted.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
    metric = pynvml.nvmlGpmMetricsGet(wanted).metrics[0]
    # The call may succeed where its metric does not.
    if metric.nvmlReturn != pynvml.NVML_SUCCESS or not math.isfinite(metric.value):
        return None
    return float(metric.value / 100)
