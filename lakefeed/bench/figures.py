"""From what ranks did to what a report says: one dictionary of figures for each run.

`computation_seconds` is the nominal time of an emulated step, 0 where nothing computes, and None
for real steps, whose measured time counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lakefeed.bench import metrics
from lakefeed.bench.metrics import Span
from lakefeed.bench.steps import Epoch, RankResult

# A page shows so many points of a time line well; AU over less than this is noise anyway.
TIMELINE_BINS_MAX = 120
TIMELINE_SECONDS_MIN = 0.1
WAIT_EDGES_SECONDS = (
    0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 1e9,
)  # fmt: skip


def of_run(
    results: Sequence[RankResult], batch_size: int, computation_seconds: float | None
) -> dict[str, Any]:
    """Return the figures of one run of all its ranks."""
    epochs = [epoch for result in results for epoch in result.epochs]
    waits = [wait for epoch in epochs for wait in epoch.wait_seconds]
    wall_seconds = sum(epoch.end - epoch.start for epoch in results[0].epochs)
    sample_bytes = sum(sum(epoch.sample_bytes) for epoch in epochs)
    steps = sum(len(epoch.wait_seconds) for epoch in results[0].epochs)
    samples = batch_size * sum(len(epoch.wait_seconds) for epoch in epochs)
    read_bytes = sum(result.read_bytes for result in results)
    cpu_seconds = sum(result.cpu_seconds for result in results)
    return {
        "accelerators": len(results),
        "epochs": len(results[0].epochs),
        "steps": steps,
        "samples": samples,
        "supply_per_second": batch_size * sum(result.supply_per_second for result in results),
        "sample_bytes": sample_bytes,
        "wall_seconds": wall_seconds,
        "utilisation": utilisation(results, computation_seconds),
        "utilisation_by_epoch": utilisation_by_epoch(results, computation_seconds),
        "samples_per_second": metrics.rate(samples, wall_seconds),
        "bytes_per_second": metrics.rate(sample_bytes, wall_seconds),
        "read_bytes": read_bytes,
        "reads": sum(result.reads for result in results),
        "read_amplification": metrics.read_amplification(read_bytes, sample_bytes),
        "stall_share": metrics.stall_share(waits, wall_seconds * len(results)),
        "wait_seconds": asdict(metrics.quantiles(waits)),
        "wait_histogram": metrics.histogram(waits, WAIT_EDGES_SECONDS),
        "wait_edges_seconds": list(WAIT_EDGES_SECONDS),
        "cpu_seconds": cpu_seconds,
        "cpu_per_thousand_samples": metrics.cpu_per_thousand(cpu_seconds, samples),
        "cpus_busy": metrics.rate(cpu_seconds, wall_seconds),
        "peak_rss_bytes": max(result.peak_rss_bytes for result in results),
        "timeline": timeline(results, computation_seconds),
    }


def utilisation_by_epoch(
    results: Sequence[RankResult], computation_seconds: float | None
) -> list[float]:
    """Return AU of each epoch, the mean over ranks."""
    if computation_seconds == 0:
        return []
    each = [
        [
            metrics.accelerator_utilisation(
                _compute(epoch, computation_seconds),
                epoch.end - epoch.start,
                epoch.wait_seconds[0] + epoch.busy_seconds[0] if epoch.wait_seconds else 0.0,
            )
            for epoch in result.epochs
        ]
        for result in results
    ]
    return [metrics.mean(of_ranks) for of_ranks in zip(*each, strict=True)]


def utilisation(results: Sequence[RankResult], computation_seconds: float | None) -> float | None:
    """Return AU of the run, the mean over ranks and epochs; None where nothing computes."""
    by_epoch = utilisation_by_epoch(results, computation_seconds)
    return metrics.mean(by_epoch) if by_epoch else None


def timeline(
    results: Sequence[RankResult], computation_seconds: float | None
) -> dict[str, list[float]]:
    """Return AU and delivered bytes a second over time, in bins, for all ranks together."""
    start = min(result.epochs[0].start for result in results)
    end = max(result.epochs[-1].end for result in results)
    if end <= start:
        return {"seconds": [], "utilisation": [], "bytes_per_second": []}
    bins = max(1, min(TIMELINE_BINS_MAX, int((end - start) / TIMELINE_SECONDS_MIN)))
    width = (end - start) / bins
    edges = [start + at * width for at in range(bins + 1)]
    busy, delivered = [], []
    for epoch in (epoch for result in results for epoch in result.epochs):
        steps = zip(
            epoch.began, epoch.wait_seconds, epoch.busy_seconds, epoch.sample_bytes, strict=True
        )
        for began, wait_seconds, busy_seconds, size_bytes in steps:
            loaded = began + wait_seconds
            busy.append(
                Span(loaded, loaded + busy_seconds, _least(busy_seconds, computation_seconds))
            )
            delivered.append(Span(began, loaded + busy_seconds, float(size_bytes)))
    share = metrics.binned(busy, edges)
    moved = metrics.binned(delivered, edges)
    return {
        "seconds": [round(edge - start + width / 2, 4) for edge in edges[:-1]],
        "utilisation": [round(min(1.0, value / width / len(results)), 4) for value in share],
        "bytes_per_second": [round(value / width) for value in moved],
    }


def _compute(epoch: Epoch, computation_seconds: float | None) -> list[float]:
    if computation_seconds is None:
        return epoch.busy_seconds
    return [computation_seconds] * len(epoch.wait_seconds)


def _least(busy_seconds: float, computation_seconds: float | None) -> float:
    return busy_seconds if computation_seconds is None else min(busy_seconds, computation_seconds)
