"""The batches to come, in their order, and the memory they hold.

Each has a slot, which in the end has a batch or an error. An error stands where the first batch
that it concerns would be: every good batch before it comes first, nothing takes its place, and
nothing comes behind it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lakefeed.feed.batch import Batch


@dataclass(frozen=True, slots=True)
class Limits:
    """How far to run ahead: `depth` batches and `bytes_max` bytes, whichever is less."""

    depth: int
    bytes_max: int


class Slot:
    """A batch to come, in its place in the order: in the end a batch or an error."""

    def __init__(self, held_bytes: int) -> None:
        self.held_bytes = held_bytes
        self.batch: Batch | None = None
        self.error: BaseException | None = None

    @property
    def ready(self) -> bool:
        """True when there is something to hand out or to raise."""
        return self.batch is not None or self.error is not None


class Readiness:
    """How much of the time a batch was there for the taking."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._since: float | None = None
        self._seconds = 0.0

    def note(self, ready: bool) -> None:
        """Tell whether there is one now."""
        now = time.perf_counter()
        if ready and self._since is None:
            self._since = now
        elif not ready and self._since is not None:
            self._seconds += now - self._since
            self._since = None

    @property
    def share(self) -> float:
        """The share of the time so far, 0 to 1."""
        now = time.perf_counter()
        seconds = self._seconds + (0.0 if self._since is None else now - self._since)
        return seconds / max(now - self._began, 1e-9)


class Slots:
    """The slots of all batches under way. The lock of whoever owns it guards all of it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slots: deque[Slot] = deque()
        self._readiness = Readiness()
        self._held_batches = 0
        self.held_bytes = 0
        self.peak_bytes = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    # -- room ------------------------------------------------------------------------------------

    @property
    def free_bytes(self) -> int:
        """What is left of the budget."""
        return self._limits.bytes_max - self.held_bytes

    def fewer_than(self, ahead_bytes: int) -> bool:
        """Tell whether batches of fewer bytes, or none, and fewer than allowed, are under way."""
        few = self.held_bytes < ahead_bytes or not self._held_batches
        return self._held_batches < self._limits.depth and few

    def fit(self, batches: int, needed_bytes: int) -> bool:
        """Tell whether there is room for so many batches more, which need so much memory."""
        return (
            self._held_batches + batches <= self._limits.depth and needed_bytes <= self.free_bytes
        )

    def append(self, slots: list[Slot], needed_bytes: int) -> None:
        """Take up batches behind the others, and the memory they need."""
        self._slots.extend(slots)
        self._held_batches += len(slots)
        self.hold(needed_bytes)

    def hold(self, size_bytes: int) -> None:
        """Take memory; less than nothing gives it back."""
        self.held_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    # -- batches and errors ----------------------------------------------------------------------

    @property
    def first(self) -> Slot | None:
        """What the consumer gets next, if that is ready."""
        return self._slots[0] if self._slots and self._slots[0].ready else None

    @property
    def all_ready(self) -> bool:
        """True if there is nothing to be done for any of them."""
        return all(slot.ready for slot in self._slots)

    @property
    def occupancy(self) -> float:
        """The share of the time in which the next batch was ready."""
        return self._readiness.share

    def put(self, slot: Slot, batch: Batch) -> None:
        """Let a batch be ready, unless an error came before it."""
        if slot.error is None:
            slot.batch = batch
        self._note_ready()

    def fail(self, slots: Iterable[Slot], error: BaseException) -> None:
        """Let an error take the places of those of some batches that are not ready."""
        for slot in slots:
            if not slot.ready:
                slot.error = error
        self._note_ready()

    def take(self) -> Batch:
        """Hand out the first batch, which is ready; raise the error in its place."""
        slot = self._slots[0]
        if slot.error is not None:
            raise slot.error
        assert slot.batch is not None
        self._slots.popleft()
        self._held_batches -= 1
        self.held_bytes -= slot.held_bytes
        self._note_ready()
        return slot.batch

    def clear(self) -> None:
        """Drop all batches."""
        self._slots.clear()

    def _note_ready(self) -> None:
        self._readiness.note(self.first is not None)
