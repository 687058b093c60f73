"""The metrics of feeds: what a `Feed` tells its observer, as Prometheus counters and histograms.

    with Feed("/mnt/lake", options=FeedOptions(observer=loader_metrics())) as feed, serve(9466):
        ...

All feeds of a process share one set (`loader_metrics()` returns it), because Prometheus wants each
name once. With `PROMETHEUS_MULTIPROC_DIR` set before the program starts, prometheus_client keeps
the values in files of that directory, and `exporter.serve` in any one process adds up those of all:
loader workers included, dead ones too. Gauges are then the sum or the most of the live processes,
the epoch that of the last batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from lakefeed.errors import needing
from lakefeed.forking import new_lock

with needing("metrics", __name__):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a page cache's microseconds to a filer that has gone away.
_BUCKETS = (1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

REGISTRY = CollectorRegistry()


class LoaderMetrics:
    """An observer for feeds. Safe for threads, as prometheus_client is; the lock guards the sums
    that the two ratios are made of."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._lock = new_lock()
        self._wait_seconds = self._all_seconds = 0.0
        self._sample_bytes = self._read_bytes = 0
        self._declare_loader(registry)
        self._declare_reads(registry)

    def __reduce__(self) -> tuple[Callable[[], LoaderMetrics], tuple[()]]:
        # What is sent to another process is that process's set, which shares values with this one.
        return loader_metrics, ()

    def _declare_loader(self, registry: CollectorRegistry) -> None:
        self._samples = Counter("lakefeed_loader_samples_total", "Samples handed to the training.",
                                registry=registry)  # fmt: skip
        self._bytes = Counter("lakefeed_loader_bytes_total", "Bytes of those samples.",
                              registry=registry)  # fmt: skip
        self._wait = Histogram("lakefeed_loader_wait_seconds", "Time a step waited for its batch.",
                               registry=registry, buckets=_BUCKETS)  # fmt: skip
        self._step = Histogram("lakefeed_loader_step_seconds",
                               "Time between taking a batch and asking for the next one.",
                               registry=registry, buckets=_BUCKETS)  # fmt: skip
        self._stage = Histogram("lakefeed_loader_stage_seconds", "Workers' time by stage.",
                                ["stage"], registry=registry, buckets=_BUCKETS)  # fmt: skip
        self._retries = Counter("lakefeed_loader_retries_total", "Reads done once more.",
                                ["reason"], registry=registry)  # fmt: skip
        self._corrupt = Counter("lakefeed_loader_corrupt_samples_total",
                                "Damaged samples left out.", registry=registry)  # fmt: skip
        self._queue = Gauge("lakefeed_loader_queue_depth", "Batches ready or under way.",
                            registry=registry, multiprocess_mode="livesum")  # fmt: skip
        self._inflight = Gauge("lakefeed_loader_inflight_reads", "Groups of reads under way.",
                               registry=registry, multiprocess_mode="livesum")  # fmt: skip
        self._epoch = Gauge("lakefeed_loader_epoch", "The epoch of the last batch.",
                            registry=registry, multiprocess_mode="mostrecent")  # fmt: skip
        self._stall = Gauge("lakefeed_loader_stall_ratio", "Share of the time spent waiting.",
                            registry=registry, multiprocess_mode="livemax")  # fmt: skip

    def _declare_reads(self, registry: CollectorRegistry) -> None:
        self._reads = Counter("lakefeed_io_reads_total", "Reads of packs.", registry=registry)
        self._tiers = Counter("lakefeed_io_read_bytes_total", "Bytes read from packs.",
                              ["tier"], registry=registry)  # fmt: skip
        self._seconds = Histogram("lakefeed_io_read_seconds", "Time a read took.",
                                  registry=registry, buckets=_BUCKETS)  # fmt: skip
        self._amplification = Gauge("lakefeed_io_read_amplification_ratio",
                                    "Bytes read for each sample byte handed out.",
                                    registry=registry, multiprocess_mode="livemax")  # fmt: skip
        self._hits = Counter("lakefeed_cache_hits_total", "Blocks found in the node cache.",
                             registry=registry)  # fmt: skip
        self._misses = Counter("lakefeed_cache_misses_total", "Blocks not found there.",
                               registry=registry)  # fmt: skip
        self._cached = Gauge("lakefeed_cache_bytes", "Bytes that the node cache may hold.",
                             registry=registry, multiprocess_mode="livemax")  # fmt: skip

    # -- what a feed says ------------------------------------------------------------------------

    def step(self, wait_seconds: float, compute_seconds: float) -> None:
        """A batch was asked for."""
        self._wait.observe(wait_seconds)
        if compute_seconds:
            self._step.observe(compute_seconds)
        with self._lock:
            self._wait_seconds += wait_seconds
            self._all_seconds += wait_seconds + compute_seconds
            ratio = self._wait_seconds / self._all_seconds if self._all_seconds else 0.0
        self._stall.set(ratio)

    def delivered(self, samples: int, sample_bytes: int, epoch: int) -> None:
        """A batch was taken."""
        self._samples.inc(samples)
        self._bytes.inc(sample_bytes)
        self._epoch.set(epoch)
        with self._lock:
            self._sample_bytes += sample_bytes
            ratio = self._read_bytes / self._sample_bytes if self._sample_bytes else 0.0
        self._amplification.set(ratio)

    def stage(self, name: str, seconds: float) -> None:
        """A worker spent time on a stage."""
        self._stage.labels(name).observe(seconds)

    def reads(self, seconds: list[float], read_bytes: int) -> None:
        """Reads came back."""
        self._reads.inc(len(seconds))
        self._tiers.labels("volume").inc(read_bytes)
        for each in seconds:
            self._seconds.observe(each)
        with self._lock:
            self._read_bytes += read_bytes

    def retried(self, reason: str) -> None:
        """A read is repeated."""
        self._retries.labels(reason).inc()

    def corrupt(self, samples: int) -> None:
        """Samples were left out."""
        self._corrupt.inc(samples)

    def queue(self, ready: int, inflight: int) -> None:
        """How much is ready and under way."""
        self._queue.set(ready)
        self._inflight.set(inflight)

    def cached(self, hits: int, misses: int, bytes_max: int) -> None:
        """Blocks of the node cache were found, or not, since the last call."""
        self._hits.inc(hits)
        self._misses.inc(misses)
        self._cached.set(bytes_max)


@cache
def loader_metrics() -> LoaderMetrics:
    """Return the one set of this process."""
    return LoaderMetrics()
