"""A batch: the bytes of some samples in one buffer, and where the feed stands behind it.

The buffer is dense (an Arrow large_binary column wants it so) and starts on a 64-byte boundary,
which lets frameworks take it over without a copy. It is lent by the feed's pool: it stays valid as
long as anything refers to it (the batch, a view, an Arrow array, a tensor), whatever the feed does
next, and serves another batch after that. Keeping every batch of an epoch keeps all its bytes. Sent
to another process it is a copy, which has its paths with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.feed.cursor import Cursor, State
from lakefeed.feed.labels import Labels
from lakefeed.forking import Lazy


class Names:
    """The paths of a batch, looked up in the index when somebody asks for them."""

    def __init__(self, look_up: Callable[[NDArray[np.int64]], pa.Array],
                 numbers: NDArray[np.int64]) -> None:  # fmt: skip
        self._look_up = look_up
        self._numbers = numbers

    def __reduce__(self) -> tuple[Callable[..., Names], tuple[pa.Array, NDArray[np.int64]]]:
        return _sent, (self.array.filter(pa.array(~self.blank)), self._numbers)

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Which samples are empty ones, in place of a file or none; an empty file is none."""
        return self._numbers < 0

    @Lazy
    def array(self) -> pa.Array:
        """The paths as an Arrow array of large strings; "" for an empty sample."""
        there = ~self.blank
        if there.all():
            return self._look_up(self._numbers)
        names = iter(self._look_up(self._numbers[there]).to_pylist())
        return pa.array([next(names) if real else "" for real in there], pa.large_string())

    @Lazy
    def list(self) -> list[str]:
        """The paths as Python strings."""
        paths: list[str] = self.array.to_pylist()
        return paths


def _sent(there: pa.Array, numbers: NDArray[np.int64]) -> Names:
    """Return what another process sent: the paths of the samples that are no blanks."""
    return Names(lambda _: there, numbers)


@dataclass(slots=True, eq=False)
class Batch:
    """Verified samples; sample i is `data[splits[i] : splits[i + 1]]`.

    The first `real` samples are the step's own, from position `low` of `epoch` on; behind them are
    those that only fill the batch up (`last="pad"`: empty, label -1; `last="repeat"`: from the
    beginning of the epoch). `corrupt` names what `on_corrupt="skip"` left out; `kept` then says
    which samples of the step these are, and is None where all are there. `state` is where to
    restore a feed so that it goes on behind this batch. In a `with` block the buffer is released at
    its end.
    """

    labels: Labels | None
    data: NDArray[np.uint8]
    splits: NDArray[np.int64]
    cursor: Cursor
    epoch: int
    low: int
    real: int
    names: Names = field(repr=False)
    corrupt: tuple[str, ...] = ()
    kept: NDArray[np.int64] | None = None
    released: bool = False

    def __len__(self) -> int:
        return len(self.splits) - 1

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each sample begins in `data`."""
        return self.splits[:-1]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many bytes each sample has."""
        return np.diff(self.splits)

    @property
    def paths(self) -> list[str]:
        """The samples' paths. They are looked up on first use, so ask while the feed is open."""
        return self.names.list

    @property
    def state(self) -> State:
        """Where the feed stands once this batch is consumed, as plain JSON under 200 bytes."""
        return self.cursor.state()

    def views(self) -> list[memoryview]:
        """Return each sample's bytes without copying them; they must not be written to."""
        whole = self._held().data.toreadonly()
        bounds = self.splits.tolist()
        return [whole[start:end] for start, end in itertools.pairwise(bounds)]

    def bytes(self) -> list[bytes]:
        """Return each sample as bytes of its own."""
        return [bytes(view) for view in self.views()]

    def arrow(self) -> pa.LargeBinaryArray:
        """Return the samples as an Arrow array of large_binary that shares the buffer."""
        buffers = [None, pa.py_buffer(self.splits), pa.py_buffer(self._held())]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers)

    def _held(self) -> NDArray[np.uint8]:
        if self.released:
            raise Invalid("batch", expected="one that is held", found="it was released")
        return self.data

    def release(self) -> None:
        """Give the buffer back now, unless something else still refers to it. Works twice."""
        self.released = True
        self.data = np.empty(0, np.uint8)

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
