"""Where the time goes: what a feed counts while it works, and one line that says what limits it.

`Recorder` is filled by the consumer and by the workers; `facts` is a consistent copy of it. It
costs a lock and some additions for each batch and each group of reads, nothing for each sample.
Quantiles are those of the last 4,096 waits and reads.

Stages are seconds of the workers' time: `index` (which samples, where they are), `fetch` (in calls
to the volume), `verify` (checksums), `batch` (payloads into their batches). They overlap with each
other and with the consumer's step, so they do not add up to the wall time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Protocol

from lakefeed.forking import new_lock

STAGES = ("index", "fetch", "verify", "batch")
_KEPT = 4096
# Of these, how many say how the volume is now; asked for with every window.
_RECENT = 512

# Below this share of waiting, what the feed does hardly matters to the step.
_STALL_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of some seconds."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Quantiles:
        """Return the quantiles of some values; zeros for none."""
        ordered = sorted(values)
        if not ordered:
            return cls()
        last = len(ordered) - 1
        p50, p95, p99 = (ordered[round(last * share)] for share in (0.5, 0.95, 0.99))
        return cls(p50, p95, p99, ordered[-1])


@dataclass(frozen=True, slots=True)
class FeedStats:
    """What a feed did so far. `epoch` is the last batch's, `occupancy` the share of time in which
    one was ready, `inflight` the reads under way at the moment, `fetch_waiting_seconds` the part of
    `fetch` in which the processor had nothing to do, `cache_refused` the blocks that the node
    cache's disk did not take, `cache_filled_bytes` the most room that all took when counted (0:
    none was added)."""

    samples: int
    sample_bytes: int
    batches: int
    wall_seconds: float
    wait_seconds: float
    compute_seconds: float
    wait: Quantiles
    reads: int
    read_bytes: int
    read: Quantiles
    stages: Mapping[str, float]
    fetch_waiting_seconds: float
    occupancy: float
    inflight: int
    workers: int
    epoch: int
    corrupt_samples: int
    retries: Mapping[str, int]
    hedges: int
    cache_hits: int
    cache_misses: int
    cache_refused: int
    cache_filled_bytes: int
    peak_bytes: int

    @property
    def read_amplification(self) -> float:
        """Bytes read from the volume for each sample byte delivered."""
        return self.read_bytes / self.sample_bytes if self.sample_bytes else 0.0

    @property
    def stall_share(self) -> float:
        """Share of the consumer's time that it waited for a batch."""
        total = self.wait_seconds + self.compute_seconds
        return self.wait_seconds / total if total else 0.0

    @property
    def limit(self) -> str:
        """What limits the training: "model", "storage" or "CPU"."""
        if self.stall_share < _STALL_SHARE:
            return "model"
        busy = sum(self.stages.values())
        return "storage" if self.fetch_waiting_seconds > busy / 2 else "CPU"

    @property
    def verdict(self) -> str:
        """One line: what limits the training, with the figures that say so."""
        per_second = self.samples / self.wall_seconds if self.wall_seconds else 0.0
        facts = f"{self.stall_share:.0%} of the time waiting for data, {per_second:,.0f} samples/s"
        reads = f"{self.read.p50 * 1e3:.2f} ms a read (p99 {self.read.p99 * 1e3:.2f})"
        if self.limit == "model":
            return f"model-bound: {facts}"
        if self.limit == "storage":
            return f"storage-bound: {facts}, {reads}, {self.workers} at a time"
        stage = max(self.stages, key=lambda name: self.stages[name])
        return f"CPU-bound: {facts}, most of the feed's own time in {stage}"

    def facts(self) -> dict[str, object]:
        """Return everything as plain JSON values."""
        derived = ("read_amplification", "stall_share", "limit", "verdict")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


class Observer(Protocol):
    """Hears of every event as it happens, for whoever keeps counters of its own.

    Called from the consumer's thread (`step`, `delivered`, `queue`, `cached`) and from workers
    (`queue`, the rest), never under a lock of the feed's.
    """

    def step(self, wait_seconds: float, compute_seconds: float) -> None:
        """A batch was asked for: the wait for it, and the time since the one before was taken."""

    def delivered(self, samples: int, sample_bytes: int, epoch: int) -> None:
        """A batch of this epoch was taken."""

    def stage(self, name: str, seconds: float) -> None:
        """A worker spent time on a stage."""

    def reads(self, seconds: list[float], read_bytes: int) -> None:
        """Reads of the volume came back."""

    def retried(self, reason: str) -> None:
        """A read is repeated; `reason` is the name of an errno, or "straggler"."""

    def corrupt(self, samples: int) -> None:
        """Samples were left out because their bytes are damaged."""

    def queue(self, ready: int, inflight: int) -> None:
        """How many batches are ready and how many reads are under way."""

    def cached(self, hits: int, misses: int, bytes_max: int) -> None:
        """Blocks were found in the node cache, or not, since the last call."""


@dataclass(slots=True)
class _Sums:
    """Plain counters, named as in FeedStats."""

    samples: int = 0
    sample_bytes: int = 0
    batches: int = 0
    wait_seconds: float = 0.0
    compute_seconds: float = 0.0
    reads: int = 0
    read_bytes: int = 0
    fetch_waiting_seconds: float = 0.0
    epoch: int = 0
    corrupt_samples: int = 0
    hedges: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    retries: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Now:
    """What only the scheduler and the cache know at the moment of asking; named as in FeedStats."""

    occupancy: float = 0.0
    inflight: int = 0
    workers: int = 0
    peak_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_refused: int = 0
    cache_filled_bytes: int = 0


class Recorder:
    """Counts; the lock guards every field. An observer hears of events outside of it."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._lock = new_lock()
        self._sums = _Sums()
        self._waits: deque[float] = deque(maxlen=_KEPT)
        self._reads: deque[float] = deque(maxlen=_KEPT)
        self._began: float | None = None
        self._ended = 0.0

    def step(self, asked: float, got: float) -> None:
        """Note when a batch was asked for and when it was there, by the performance counter."""
        with self._lock:
            compute = 0.0 if self._began is None else max(0.0, asked - self._ended)
            if self._began is None:
                self._began = asked
            self._ended = got
            self._sums.wait_seconds += got - asked
            self._sums.compute_seconds += compute
            self._waits.append(got - asked)
        if self._observer is not None:
            self._observer.step(got - asked, compute)

    def delivered(self, samples: int, sample_bytes: int, epoch: int) -> None:
        """Note a batch that was taken."""
        with self._lock:
            self._sums.samples += samples
            self._sums.sample_bytes += sample_bytes
            self._sums.batches += 1
            self._sums.epoch = epoch
        if self._observer is not None:
            self._observer.delivered(samples, sample_bytes, epoch)

    def stage(self, name: str, seconds: float) -> None:
        """Note a worker's time on one stage."""
        with self._lock:
            self._sums.stages[name] += seconds
        if self._observer is not None:
            self._observer.stage(name, seconds)

    def fetched(self, seconds: list[float], read_bytes: int, waiting_seconds: float) -> None:
        """Note some reads and how long each took."""
        total = sum(seconds)
        with self._lock:
            self._sums.reads += len(seconds)
            self._sums.read_bytes += read_bytes
            self._sums.stages["fetch"] += total
            self._sums.fetch_waiting_seconds += waiting_seconds
            self._reads.extend(seconds)
        if self._observer is not None:
            self._observer.reads(seconds, read_bytes)
            self._observer.stage("fetch", total)

    def retried(self, reason: str) -> None:
        """Note that a read is repeated."""
        with self._lock:
            self._sums.retries[reason] = self._sums.retries.get(reason, 0) + 1
        if self._observer is not None:
            self._observer.retried(reason)

    def hedged(self) -> None:
        """Note that a straggling read is asked for once more."""
        with self._lock:
            self._sums.hedges += 1
        if self._observer is not None:
            self._observer.retried("straggler")

    def corrupt(self, samples: int) -> None:
        """Note samples that were left out."""
        with self._lock:
            self._sums.corrupt_samples += samples
        if self._observer is not None:
            self._observer.corrupt(samples)

    def queue(self, ready: int, inflight: int) -> None:
        """Pass the state of the queues on to the observer."""
        if self._observer is not None:
            self._observer.queue(ready, inflight)

    def read_seconds(self, share: float) -> float:
        """Return a quantile of the last few hundred reads; 0 when there were none."""
        with self._lock:
            ordered = sorted(islice(reversed(self._reads), _RECENT))
        return ordered[round((len(ordered) - 1) * share)] if ordered else 0.0

    def facts(self, now: Now) -> FeedStats:
        """Return everything so far."""
        with self._lock:
            wall = 0.0 if self._began is None else self._ended - self._began
            return FeedStats(
                wall_seconds=wall,
                wait=Quantiles.of(self._waits),
                read=Quantiles.of(self._reads),
                **asdict(self._sums),
                **asdict(now),
            )
