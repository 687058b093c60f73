"""A running measurement as Prometheus metrics: progress, AU and throughput of each source."""

from __future__ import annotations

import os
import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from lakefeed.errors import Invalid


class BenchMetrics:
    """The metrics of `lakefeed bench` and `lakefeed.monitor`, labelled by source."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("source",)
        self._utilization = Gauge(
            "lakefeed_bench_accelerator_utilization_ratio",
            "Compute time / wall time over the last second, all accelerators (AU).",
            labels,
            registry=registry,
        )
        self._stall = Gauge(
            "lakefeed_bench_stall_ratio",
            "Share of time that accelerators waited for batches, over the last second.",
            labels,
            registry=registry,
        )
        self._accelerators = Gauge(
            "lakefeed_bench_accelerators", "Accelerators that train.", labels, registry=registry
        )
        self._steps = Counter(
            "lakefeed_bench_steps_total", "Steps of all accelerators.", labels, registry=registry
        )
        self._samples = Counter(
            "lakefeed_bench_samples_total", "Samples delivered.", labels, registry=registry
        )
        self._bytes = Counter(
            "lakefeed_bench_sample_bytes_total",
            "Sample bytes delivered.",
            labels,
            registry=registry,
        )
        self._read_bytes = Counter(
            "lakefeed_bench_read_bytes_total",
            "Bytes read from the volume.",
            labels,
            registry=registry,
        )

    def advance(self, source: str, moved: dict[str, float], seconds: float) -> None:
        """Take over what happened in `seconds`: `steps.LIVE` by name, and `accelerators`."""
        count = max(1.0, moved["accelerators"])
        self._accelerators.labels(source).set(count)
        self._steps.labels(source).inc(max(0.0, moved["steps"]))
        self._samples.labels(source).inc(max(0.0, moved["samples"]))
        self._bytes.labels(source).inc(max(0.0, moved["bytes"]))
        self._read_bytes.labels(source).inc(max(0.0, moved["read_bytes"]))
        if seconds > 0:
            busy = moved["compute_seconds"] / seconds / count
            self._utilization.labels(source).set(min(1.0, max(0.0, busy)))
            waited = moved["wait_seconds"] / seconds / count
            self._stall.labels(source).set(min(1.0, max(0.0, waited)))


class Endpoint:
    """`/metrics` of one registry over HTTP, on this machine only; Invalid for a taken port."""

    def __init__(self, registry: CollectorRegistry, port: int) -> None:
        self._server: WSGIServer
        self._thread: threading.Thread
        try:
            self._server, self._thread = start_http_server(port, "127.0.0.1", registry)
        except OSError as error:
            found = os.strerror(error.errno or 0).lower()
            hint = "take another one; 0 takes a free one"
            raise Invalid(
                f"metrics port {port}", expected="a free port", found=found, hint=hint
            ) from error

    @property
    def address(self) -> str:
        """Where to point Prometheus at."""
        return f"http://127.0.0.1:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
