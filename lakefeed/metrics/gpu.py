"""What an accelerator did: Prometheus gauges filled from `bench.gpu` samples.

`lakefeed_gpu_utilization_ratio` is NVML's figure, the share of its sampling period with any kernel
running; it is never an AU. A machine without a GPU has no such series, only `build_info`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from lakefeed import __version__


class GpuMetrics:
    """The gauges of the GPUs of this machine, one series for each `gpu` index."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("gpu",)
        self._utilization = Gauge(
            "lakefeed_gpu_utilization_ratio",
            "Share of NVML's sampling period with any kernel running.",
            labels,
            registry=registry,
        )
        self._sm = Gauge(
            "lakefeed_gpu_sm_utilization_ratio",
            "Share of streaming multiprocessors busy (GPM, Hopper and newer).",
            labels,
            registry=registry,
        )
        self._power = Gauge("lakefeed_gpu_power_watts", "Power drawn.", labels, registry=registry)
        self._energy = Counter(
            "lakefeed_gpu_energy_joules_total",
            "Energy since the sampler started.",
            labels,
            registry=registry,
        )
        Info("lakefeed_build", "The running version.", registry=registry).info(
            {"version": __version__}
        )

    def sampled(
        self, gpu: int, busy: float | None, sm: float | None, watts: float | None, joules: float
    ) -> None:
        """Take over one sample; `joules` is what came in since the sample before."""
        if busy is not None:
            self._utilization.labels(gpu).set(busy)
        if sm is not None:
            self._sm.labels(gpu).set(sm)
        if watts is not None:
            self._power.labels(gpu).set(watts)
        self._energy.labels(gpu).inc(joules)
