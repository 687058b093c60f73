"""Every formula behind a figure that `lakefeed bench` prints, and nothing else.

Pure functions of numbers: no clock, no file, no option. Each has a hand-computed test, so a figure
in a report can be checked with pencil and paper. Ratios run from 0 to 1, times are seconds, sizes
bytes. Accelerator utilisation is what DLIO's code, which measures for MLPerf Storage, computes step
by step.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# MLPerf Storage: a data set holds at least so many batches for each accelerator, and so many times
# the clients' memory (submission guidelines, "Dataset size").
BATCHES_MIN = 500
MEMORY_TIMES = 5

# A doubling of requests in flight that gains less than this is past the knee: smaller gains drown
# in the noise of a shared machine (some 10 % between repeats of one cell).
KNEE_GAIN = 0.10


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution in five numbers; all zero without values."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    mean: float = 0.0


@dataclass(frozen=True, slots=True)
class Stalls:
    """Where an average sample's wall time goes; the three shares add up to 1."""

    compute_share: float
    prepare_share: float
    fetch_share: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What one accelerator consumes when it never waits."""

    samples_per_second: float
    bytes_per_second: float


# -- accelerator utilisation -----------------------------------------------------------------------


def accelerator_utilisation(
    compute_seconds: Sequence[float], wall_seconds: float, first_step_seconds: float
) -> float:
    """Return AU of one epoch of one rank: compute / wall, both without the first step.

    `compute_seconds` are measured, one for each step, the first included; `first_step_seconds`
    runs from the start of waiting for the first batch to the end of its compute. 0 for fewer than
    two steps, which leave nothing to measure.
    """
    measured_seconds = wall_seconds - first_step_seconds
    if len(compute_seconds) < 2 or measured_seconds <= 0:
        return 0.0
    return sum(compute_seconds[1:]) / measured_seconds


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; 0 of nothing. AU of a run: the mean over ranks and epochs."""
    return math.fsum(values) / len(values) if values else 0.0


def rate(amount: float, wall_seconds: float) -> float:
    """Return how much came in a second, the first step's included (as the rule has it)."""
    return amount / wall_seconds if wall_seconds > 0 else 0.0


def demand(batch_size: int, computation_seconds: float, sample_bytes: float) -> Demand:
    """Return what an accelerator at AU 1 asks of its storage."""
    samples_per_second = batch_size / computation_seconds
    return Demand(samples_per_second, samples_per_second * sample_bytes)


def samples_min(batch_size: int, accelerators: int, memory_bytes: int, sample_bytes: float) -> int:
    """Return how many samples MLPerf Storage wants: 500 steps, and five times the memory.

    `memory_bytes` is that of all clients together.
    """
    for_steps = BATCHES_MIN * batch_size * accelerators
    for_memory = math.ceil(MEMORY_TIMES * memory_bytes / sample_bytes)
    return max(for_steps, for_memory)


# -- waiting ---------------------------------------------------------------------------------------


def stall_share(wait_seconds: Sequence[float], wall_seconds: float) -> float:
    """Return the share of wall time spent waiting for batches."""
    return math.fsum(wait_seconds) / wall_seconds if wall_seconds > 0 else 0.0


def quantiles(values: Sequence[float], counts: Sequence[int] | None = None) -> Quantiles:
    """Return p50, p95, p99 (nearest rank: values that really occurred), maximum and mean.

    `counts` says how many each value stands for; without it, for itself.
    """
    if not values:
        return Quantiles()
    pairs = sorted(zip(values, counts or [1] * len(values), strict=True))
    ordered = [value for value, _ in pairs]
    ends = list(itertools.accumulate(count for _, count in pairs))

    def at(share: float) -> float:
        return ordered[bisect.bisect_left(ends, max(1, math.ceil(share * ends[-1])))]

    total = math.fsum(value * count for value, count in pairs)
    return Quantiles(at(0.50), at(0.95), at(0.99), ordered[-1], total / ends[-1])


def stalls(synthetic_per_second: float, cached_per_second: float, cold_per_second: float) -> Stalls:
    """Return the split of a sample's time from three rates, each slower than the one before.

    1. Batches from memory, ready made: the compute ceiling. 2. Encoded samples from memory: what is
    added is preparation. 3. Samples from the volume: what is added is fetching. A phase that came
    out faster than the one before adds nothing.
    """
    compute = 1 / synthetic_per_second
    prepared = max(compute, 1 / cached_per_second)
    fetched = max(prepared, 1 / cold_per_second)
    return Stalls(compute / fetched, (prepared - compute) / fetched, (fetched - prepared) / fetched)


def headroom(replayed_per_second: float, delivered_per_second: float) -> float:
    """Return how much faster training would be with batches replayed from memory."""
    return replayed_per_second / delivered_per_second if delivered_per_second > 0 else 0.0


# -- reading ---------------------------------------------------------------------------------------


def read_amplification(read_bytes: float, sample_bytes: float) -> float:
    """Return bytes read from the volume / sample bytes delivered; 0 if nothing was delivered."""
    return read_bytes / sample_bytes if sample_bytes > 0 else 0.0


def cpu_per_thousand(cpu_seconds: float, samples: int) -> float:
    """Return processor seconds per 1,000 samples."""
    return 1000 * cpu_seconds / samples if samples else 0.0


def knee(rates: Mapping[int, float]) -> int | None:
    """Return the fewest requests in flight behind which more of them gain next to nothing.

    The smallest concurrency whose rate is within `KNEE_GAIN` of the best of all higher ones.
    """
    ordered = sorted(rates)
    for at, concurrency in enumerate(ordered):
        best_above = max((rates[more] for more in ordered[at + 1 :]), default=0.0)
        if best_above <= rates[concurrency] * (1 + KNEE_GAIN):
            return concurrency
    return None


# -- energy ----------------------------------------------------------------------------------------


def joules_per_sample(joules: float, samples: int) -> float:
    """Return the energy of one sample."""
    return joules / samples if samples else 0.0


def energy(stamps_seconds: Sequence[float], watts: Sequence[float]) -> list[float]:
    """Return joules from the first sample of power to each: the area under the line."""
    pairs = zip(stamps_seconds, stamps_seconds[1:], watts, watts[1:], strict=False)
    areas = ((end - start) * (one + other) / 2 for start, end, one, other in pairs)
    return [0.0, *itertools.accumulate(areas)]


def counted(readings: Sequence[float]) -> list[float]:
    """Return how much came in from the first reading of a counter to each of them.

    A counter that shows less than before has begun again at 0; what came in between the last
    reading and its end is not known and not counted.
    """
    pairs = itertools.pairwise(readings)
    steps = (after - before if after >= before else after for before, after in pairs)
    return [0.0, *itertools.accumulate(steps)]


def within(
    spans: Sequence[tuple[float, float]],
    stamps_seconds: Sequence[float],
    totals: Sequence[float],
) -> float:
    """Return how much came in during some stretches of time, of what is a total at each stamp.

    Between two stamps it comes evenly; before the first and after the last nothing is known to.
    """
    starts, ends = zip(*spans, strict=True)
    came = np.interp(ends, stamps_seconds, totals) - np.interp(starts, stamps_seconds, totals)
    return math.fsum(came)


# -- time lines ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time and how much happened in it, evenly."""

    start: float
    end: float
    amount: float


def binned(spans: Sequence[Span], edges: Sequence[float]) -> list[float]:
    """Return the amount in each bin [edges[i], edges[i+1]); a span is shared by overlap."""
    amounts = [0.0] * (len(edges) - 1)
    for span in spans:
        length = span.end - span.start
        for at in range(_bin_of(span.start, edges), len(amounts)):
            low, high = max(span.start, edges[at]), min(span.end, edges[at + 1])
            if length <= 0:
                amounts[at] += span.amount
                break
            if high <= low and edges[at] >= span.end:
                break
            amounts[at] += span.amount * max(0.0, high - low) / length
    return amounts


def _bin_of(moment: float, edges: Sequence[float]) -> int:
    width = (edges[-1] - edges[0]) / (len(edges) - 1)
    return min(max(0, int((moment - edges[0]) / width)), len(edges) - 2)


def histogram(
    values: Sequence[float], edges: Sequence[float], counts: Sequence[int] | None = None
) -> list[int]:
    """Return how many values fall into each bin; those outside go into the first or the last.

    `counts` as for `quantiles`.
    """
    found = [0] * (len(edges) - 1)
    for value, count in zip(values, counts or [1] * len(values), strict=True):
        found[bisect.bisect_right(edges, value, 1, len(edges) - 1) - 1] += count
    return found
