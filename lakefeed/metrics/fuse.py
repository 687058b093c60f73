"""What a FUSE mount tells Prometheus: requests, their time, handles, cache, pending changes.

A mount counts in plain integers, because one of these metrics' own counters costs as much as a
small request. `collect` turns the numbers into metrics when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class OpReading:
    """One kind of request: how many were answered, refused, and the seconds spent in all."""

    done: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FuseReading:
    """A mount's counters at one moment."""

    ops: Mapping[str, OpReading]
    open_handles: int
    inodes: int
    cache_hits: int
    cache_misses: int
    cache_bytes: int
    fetched_bytes: int
    pending_changes: int
    spool_bytes: int
    commits: int
    failed_commits: int
    unforeseen: int
    snapshot: int


class FuseCollector(Collector):
    """Metrics of one mount; register it with a registry."""

    def __init__(self, read: Callable[[], FuseReading]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        now = self._read()
        ops = CounterMetricFamily(
            "lakefeed_fuse_ops_total", "Requests, by kind and result.", labels=["op", "result"]
        )
        seconds = CounterMetricFamily(
            "lakefeed_fuse_op_seconds_total", "Time spent on requests.", labels=["op"]
        )
        for name, op in sorted(now.ops.items()):
            ops.add_metric([name, "ok"], op.done)
            ops.add_metric([name, "error"], op.failed)
            seconds.add_metric([name], op.seconds)
        yield ops
        yield seconds
        for name, text, value in (
            ("lakefeed_fuse_cache_hits_total", "Blocks and payloads found.", now.cache_hits),
            ("lakefeed_fuse_cache_misses_total", "Blocks and payloads fetched.", now.cache_misses),
            ("lakefeed_fuse_fetched_bytes_total", "Bytes read from packs.", now.fetched_bytes),
            ("lakefeed_fuse_commits_total", "Commits of changes.", now.commits),
            ("lakefeed_fuse_failed_commits_total", "Commits that failed.", now.failed_commits),
            ("lakefeed_fuse_unforeseen_errors_total", "Requests ended by a bug.", now.unforeseen),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], value)
            yield counter
        for name, text, value in (
            ("lakefeed_fuse_open_handles", "Open files and directories.", now.open_handles),
            ("lakefeed_fuse_known_inodes", "Inodes that the kernel knows.", now.inodes),
            ("lakefeed_fuse_cache_bytes", "Bytes in the block cache.", now.cache_bytes),
            ("lakefeed_fuse_pending_changes", "Names waiting for a commit.", now.pending_changes),
            ("lakefeed_fuse_spool_bytes", "Bytes waiting for a commit.", now.spool_bytes),
            ("lakefeed_fuse_snapshot_version", "Snapshot shown.", now.snapshot),
        ):
            yield GaugeMetricFamily(name, text, value=value)


def serve_mount(host: str, port: int) -> Callable[[Callable[[], FuseReading]], None]:
    """Serve a page over HTTP, on a thread that ends with the process.

    It is empty until what this returns is told how to read a mount's counters.
    """
    registry = CollectorRegistry()
    start_http_server(port, host, registry)
    return lambda read: registry.register(FuseCollector(read))
