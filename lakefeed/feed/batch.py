"""A batch: the bytes of some samples in one buffer, and where the feed stands behind it.

The buffer is dense (an Arrow large_binary column wants it so) and starts on a 64-byte boundary,
which lets frameworks take it over without a copy. A batch owns its buffer: it stays valid as long
as anything refers to it, whatever the feed does next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.feed.selection import Labels

ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a feed stands: samples of an epoch delivered, all ranks together.

    Plain JSON under 200 bytes. Everything that the order depends on is in it, so a cursor restored
    into a feed of another order or of other samples is refused.
    """

    snapshot: int
    selection: str
    shuffle: str | None
    seed: int
    epoch: int
    position: int

    def state(self) -> dict[str, int | str | None]:
        """Return the cursor as plain JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, object]) -> Cursor:
        """Return the cursor that `state()` gave; Invalid for anything else."""
        try:
            cursor = cls(**state)  # type: ignore[arg-type]
        except TypeError:
            expected = ", ".join(field.name for field in fields(cls))
            raise Invalid("feed state", expected=expected, found=sorted(state)) from None
        numbers = (cursor.snapshot, cursor.seed, cursor.epoch, cursor.position)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise Invalid("feed state", expected="numbers from 0", found=dict(state))
        return cursor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Verified samples; sample i is `data[offsets[i] : offsets[i] + lengths[i]]`.

    `state` is where to restore a feed so that it goes on behind this batch.
    """

    paths: list[str]
    labels: Labels | None
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    cursor: Cursor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def state(self) -> dict[str, int | str | None]:
        """Where the feed stands once this batch is consumed, as plain JSON under 200 bytes."""
        return self.cursor.state()

    def views(self) -> list[memoryview]:
        """Return each sample's bytes without copying them; they must not be written to."""
        whole = self.data.data.toreadonly()
        starts, ends = self.offsets.tolist(), (self.offsets + self.lengths).tolist()
        return [whole[start:end] for start, end in zip(starts, ends, strict=True)]

    def bytes(self) -> list[bytes]:
        """Return each sample as bytes of its own."""
        return [bytes(view) for view in self.views()]


def aligned(size_bytes: int) -> NDArray[np.uint8]:
    """Return an uninitialised buffer that starts on a 64-byte boundary."""
    raw = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + size_bytes]
