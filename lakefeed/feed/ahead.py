"""A thread that keeps finished batches in front of the consumer, within a budget of bytes.

It takes the next batches of the plan together as a window, waits until the window fits beside what
is ready already, reads it (`loading`), and hands the batches over in order. Windows grow from one
batch (so that the first comes soon) to half of the prefetch depth, and hold at most half of the
budget, so that one is read while the other is consumed. What is being read or ready stays under
the budget (I9); a batch that does not fit at all is refused.

The first error ends the thread and comes out of `next` behind the batches before it. `close` wakes
whoever waits and joins the thread. One condition guards all shared fields, though `_closed` is also
read without it; no I/O under it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.feed.batch import Batch, aligned
from lakefeed.feed.loading import Loader
from lakefeed.feed.planning import Assignment
from lakefeed.feed.selection import Samples, Selection
from lakefeed.format.rows import Codec
from lakefeed.lake.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Limits:
    """How far to run ahead: `depth_max` batches and `bytes_max` bytes, whichever is less."""

    depth_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class _Draft:
    """A batch before its bytes: its samples, and what holding it takes."""

    assignment: Assignment
    samples: Samples
    held_bytes: int


class Ahead:
    """The batches of a plan, read ahead. Its thread runs from construction to `close`."""

    def __init__(
        self,
        snapshot: Snapshot,
        selection: Selection,
        assignments: Iterable[Assignment],
        limits: Limits,
    ) -> None:
        self.pid = os.getpid()
        self._selection = selection
        self._assignments = assignments
        self._limits = limits
        self._changed = threading.Condition()
        self._ready: deque[tuple[Batch, int]] = deque()
        self._held_batches = 0
        self._held_bytes = 0
        self._peak_bytes = 0
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False
        self._loader = Loader(snapshot, self._is_closed)
        self._thread = threading.Thread(target=self._run, name="lakefeed-feed", daemon=True)
        self._thread.start()

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were being read or ready at once."""
        return self._peak_bytes

    def next(self) -> Batch | None:
        """Return the next batch, or None behind the last; raise what stopped the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                batch, held_bytes = self._ready.popleft()
                self._held_batches -= 1
                self._held_bytes -= held_bytes
                self._changed.notify_all()
                return batch
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Stop the thread, wait for it and drop what is ready. Works twice."""
        if self.pid != os.getpid():
            return  # a forked child has no such thread, but may have a copy of its lock, held
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    def _is_closed(self) -> bool:
        return self._closed

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for window in self._windows():
                if not self._reserve(window):
                    break
                batches = self._load(window)
                with self._changed:
                    held = (draft.held_bytes for draft in window)
                    self._ready.extend(zip(batches, held, strict=True))
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            self._error = error
        finally:
            self._loader.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _windows(self) -> Iterator[list[_Draft]]:
        window: list[_Draft] = []
        depth = 1
        for assignment in self._assignments:
            draft = self._draft(assignment)
            window_bytes = draft.held_bytes + sum(each.held_bytes for each in window)
            if window and (len(window) >= depth or window_bytes > self._limits.bytes_max // 2):
                yield window
                window = []
                depth = min(depth * 2, max(1, self._limits.depth_max // 2))
            window.append(draft)
        if window:
            yield window

    def _draft(self, assignment: Assignment) -> _Draft:
        samples = self._selection.take(assignment.numbers)
        extents = samples.extents
        packed = extents.codec != Codec.NONE
        # A compressed payload is held twice while it is being expanded.
        held_bytes = int(extents.size.sum()) + int(extents.length[packed].sum())
        if held_bytes > self._limits.bytes_max:
            raise Invalid(
                f"batch with {samples.name(0)!r}",
                expected=f"at most {self._limits.bytes_max} bytes",
                found=f"{held_bytes} bytes in {len(samples)} samples",
                hint="raise memory_bytes or lower batch_size",
            )
        return _Draft(assignment, samples, held_bytes)

    def _reserve(self, window: list[_Draft]) -> bool:
        """Wait until there is room for a window and take it; False once closed."""
        batches = len(window)
        held_bytes = sum(draft.held_bytes for draft in window)

        def fits() -> bool:
            return (
                self._held_batches + batches <= self._limits.depth_max
                and self._held_bytes + held_bytes <= self._limits.bytes_max
            )

        with self._changed:
            self._changed.wait_for(lambda: self._closed or fits())
            self._held_batches += batches
            self._held_bytes += held_bytes
            self._peak_bytes = max(self._peak_bytes, self._held_bytes)
            return not self._closed

    def _load(self, window: list[_Draft]) -> list[Batch]:
        batches = [_empty_batch(draft) for draft in window]
        numbers = np.concatenate([draft.assignment.numbers for draft in window])
        places = [place for batch in batches for place in _places(batch)]
        self._loader.load(self._selection.take(numbers), places)
        return batches


def _empty_batch(draft: _Draft) -> Batch:
    samples = draft.samples
    lengths: NDArray[np.int64] = samples.extents.size.astype(np.int64)
    ends = np.cumsum(lengths)
    data = aligned(int(ends[-1]))
    paths = samples.paths.to_pylist()
    return Batch(paths, samples.labels, data, ends - lengths, lengths, draft.assignment.cursor)


def _places(batch: Batch) -> list[memoryview]:
    whole = batch.data.data
    starts, ends = batch.offsets.tolist(), (batch.offsets + batch.lengths).tolist()
    return [whole[start:end] for start, end in zip(starts, ends, strict=True)]
