"""What a measurement and a mount tell Prometheus is what they did, each under its own name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from lakefeed.metrics.bench import BenchMetrics
from lakefeed.metrics.fuse import FuseCollector, FuseReading, OpReading


def values(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """The samples by name and labels, without the times at which they were made."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_shares_are_of_the_time_of_all_accelerators_and_counters_add_up() -> None:
    registry = CollectorRegistry()
    metrics = BenchMetrics(registry)
    moved = {
        "accelerators": 2.0, "steps": 4.0, "samples": 8.0, "bytes": 16.0, "read_bytes": 32.0,
        "compute_seconds": 1.0, "wait_seconds": 0.5,
    }  # fmt: skip
    metrics.advance("lake", moved, 99.0)
    metrics.advance("lake", moved, 2.0)
    found = values(registry)
    assert found == {
        ("lakefeed_bench_accelerators", "lake"): 2,
        ("lakefeed_bench_accelerator_utilization_ratio", "lake"): 0.25,
        ("lakefeed_bench_stall_ratio", "lake"): 0.125,
        ("lakefeed_bench_steps_total", "lake"): 8,
        ("lakefeed_bench_samples_total", "lake"): 16,
        ("lakefeed_bench_sample_bytes_total", "lake"): 32,
        ("lakefeed_bench_read_bytes_total", "lake"): 64,
    }
    metrics.advance("lake", {**moved, "compute_seconds": 9.0, "wait_seconds": 9.0}, 2.0)
    found = values(registry)
    assert found["lakefeed_bench_accelerator_utilization_ratio", "lake"] == 1
    assert found["lakefeed_bench_stall_ratio", "lake"] == 1


def test_each_counter_of_a_mount_has_its_own_metric() -> None:
    reading = FuseReading(
        {"read": OpReading(1, 2, 0.5)}, open_handles=3, inodes=4, cache_hits=5, cache_misses=6,
        cache_bytes=7, fetched_bytes=8, pending_changes=9, spool_bytes=10, commits=11,
        failed_commits=12, unforeseen=13, snapshot=14,
    )  # fmt: skip
    registry = CollectorRegistry()
    registry.register(FuseCollector(lambda: reading))
    assert {(name[14:], *labels): value for (name, *labels), value in values(registry).items()} == {
        ("ops_total", "read", "ok"): 1, ("ops_total", "read", "error"): 2,
        ("op_seconds_total", "read"): 0.5, ("open_handles",): 3, ("known_inodes",): 4,
        ("cache_hits_total",): 5, ("cache_misses_total",): 6, ("cache_bytes",): 7,
        ("fetched_bytes_total",): 8, ("pending_changes",): 9, ("spool_bytes",): 10,
        ("commits_total",): 11, ("failed_commits_total",): 12, ("unforeseen_errors_total",): 13,
        ("snapshot_version",): 14,
    }  # fmt: skip
