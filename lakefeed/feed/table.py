"""Where the payloads of all samples are, by sample number: sixteen bytes each, filled on demand.

Flat arrays as long as the selection. The operating system gives memory for the pages that are
written, so rows nobody asked for cost nothing. Compressed payloads need four bytes more for their
size, from the first one on. A row is checked against the payloads' end of its pack when it comes in
(I7), so a reader never asks for bytes outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.format.rows import Codec
from lakefeed.lake.reader import Extents
from lakefeed.lake.snapshot import Snapshot

# A place is one word, so that sorting places sorts by pack and offset: 19 bits of pack (500,000
# packs, 128 TiB of usual ones), one that says "compressed", 44 of offset (16 TiB).
_OFFSET_BITS = 44
_PACK_BITS = 19
_PACKED = np.uint64(1 << _OFFSET_BITS)
_OFFSET = np.uint64((1 << _OFFSET_BITS) - 1)
_PACK_SHIFT = np.uint64(_OFFSET_BITS + 1)
_BYTES_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Rows:
    """Some samples' extents: parallel arrays, `pack` indexing into `packs`."""

    packs: list[str]
    pack: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    size: NDArray[np.int64]
    crc32c: NDArray[np.uint32]
    packed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pack)

    def take(self, at: NDArray[np.int64]) -> Rows:
        """Return some of the rows, in the order asked."""
        return Rows(self.packs, self.pack[at], self.offset[at], self.length[at], self.size[at],
                    self.crc32c[at], self.packed[at])  # fmt: skip


def joined(packs: list[str], pieces: Sequence[Rows]) -> Rows:
    """Return rows one behind the other, all of which point into `packs`."""
    return Rows(
        packs,
        np.concatenate([piece.pack for piece in pieces]),
        np.concatenate([piece.offset for piece in pieces]),
        np.concatenate([piece.length for piece in pieces]),
        np.concatenate([piece.size for piece in pieces]),
        np.concatenate([piece.crc32c for piece in pieces]),
        np.concatenate([piece.packed for piece in pieces]),
    )


class Table:
    """The extents of `count` samples. Written by one thread at a time; reading needs no lock."""

    def __init__(self, snapshot: Snapshot, count: int) -> None:
        self._snapshot = snapshot
        self._place = np.zeros(count, np.uint64)
        self._length = np.zeros(count, np.uint32)
        self._crc32c = np.zeros(count, np.uint32)
        self._size: NDArray[np.uint32] | None = None
        self._code: dict[str, int] = {}
        self.packs: list[str] = []

    def __len__(self) -> int:
        return len(self._place)

    def put(self, start: int, extents: Extents, name: Callable[[int], str]) -> None:
        """Fill in samples from `start` on; `name` gives an extent's path for messages.

        Corrupt for an extent outside of its pack, Invalid for one of 4 GiB or more.
        """
        self._snapshot.check_extents(extents, name)
        too_big = np.flatnonzero(np.maximum(extents.length, extents.size) > _BYTES_MAX)
        if len(too_big):
            at = int(too_big[0])
            found = f"{int(extents.size[at])} bytes"
            raise Invalid(f"sample {name(at)!r}", expected="less than 4 GiB", found=found)
        end = start + len(extents)
        codes = np.array([self._pack_code(pack) for pack in extents.packs] or [0], np.uint64)
        packed = (extents.codec != Codec.NONE) | (extents.length != extents.size)
        place = (codes[extents.pack] << _PACK_SHIFT) | (extents.offset & _OFFSET)
        self._place[start:end] = place | np.where(packed, _PACKED, np.uint64(0))
        self._length[start:end] = extents.length
        self._crc32c[start:end] = extents.crc32c
        if packed.any() and self._size is None:
            self._size = np.zeros(len(self), np.uint32)
        if self._size is not None:
            self._size[start:end] = np.where(packed, extents.size, 0)

    def _pack_code(self, pack: str) -> int:
        code = self._code.get(pack)
        if code is None:
            # In this order: a fork in between leaves a pack without a number, not two with one.
            code = len(self.packs)
            self.packs.append(pack)
            self._code[pack] = code
            if code >> _PACK_BITS:
                raise Invalid("selection", expected=f"at most {1 << _PACK_BITS} packs",
                              hint='merge packs with "lakefeed compact"')  # fmt: skip
        return code

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """Return the rows of these samples, which must have been put."""
        place = self._place[numbers]
        length = self._length[numbers].astype(np.int64)
        packed = (place & _PACKED) != 0
        size = length
        if self._size is not None:
            size = np.where(packed, self._size[numbers], length)
        return Rows(
            self.packs,
            (place >> _PACK_SHIFT).astype(np.int64),
            (place & _OFFSET).astype(np.int64),
            length,
            size,
            self._crc32c[numbers],
            packed,
        )
