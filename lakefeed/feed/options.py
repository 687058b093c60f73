"""What a feed serves, to whom, and how far ahead it reads: frozen values, checked at once."""

from __future__ import annotations

import operator
import os
import re
from dataclasses import dataclass
from typing import Literal

from lakefeed.errors import Invalid
from lakefeed.feed.buffers import Allocate
from lakefeed.feed.labels import Labelling
from lakefeed.feed.order import Shuffle
from lakefeed.feed.partition import Last, Partition
from lakefeed.feed.slots import Limits
from lakefeed.feed.stats import Observer
from lakefeed.given import check_fields
from lakefeed.volume.cached import check_bounds

OnCorrupt = Literal["raise", "skip"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}  # fmt: skip
# More batches than any budget of bytes lets through.
_DEPTH_MAX = 1 << 20


def bytes_of(size: int | str, name: str) -> int:
    """Return a number of bytes given as such or as text, "1GiB" or "500 MB"."""
    expected = 'bytes, as a whole number or like "1GiB"'
    if not isinstance(size, str):
        try:
            return operator.index(size)  # numpy's numbers too
        except TypeError as error:
            raise Invalid(name, expected=expected, found=repr(size)) from error
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", size.lower())
    if match is None or match[2] not in _UNITS:
        raise Invalid(name, expected=expected, found=repr(size))
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True, slots=True)
class Cache:
    """A directory on a local disk where all feeds of a node keep blocks of packs they have read.

    It is kept below `bytes` (a number or "100GiB"), in blocks of `block_bytes`: when it is nearly
    full, blocks chosen by chance go until an eighth is free. Many readers that fill a small one at
    once may exceed that for a moment.
    """

    directory: str | os.PathLike[str]
    bytes: int | str = "100GiB"
    block_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        bytes_max = self.bytes_max
        check_fields(self, "cache ")
        check_bounds(bytes_max, self.block_bytes)

    @property
    def bytes_max(self) -> int:
        """The bound in bytes."""
        return bytes_of(self.bytes, "cache bytes")


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """What a feed serves, to whom, and how far ahead it reads.

    `shuffle` is "global", "runs=K" (runs of K neighbours are permuted, then samples inside windows
    of `window` positions, None: 4,096 or 8 runs) or None. Epochs [0, `epochs`) are served, None:
    without end; each has its own order. `last` says what becomes of samples that fill no step:
    "keep", "drop", "pad" or "repeat" (see `partition`); every rank gets equally many batches.

    Labels are the number of the parent directory's name ("parent") or of an attribute's value
    ("attrs.KEY") among the sorted names, or in `class_names`. Each of `world_size` ranks gets
    `batch_size` samples a step. At most `memory_bytes` bytes (a number or "1GiB") and `prefetch`
    batches (None: as many as fit) are read ahead. `on_corrupt="skip"` leaves damaged samples out,
    counts and names them.

    `allocate` gives buffers to fill, for example page-locked ones; `observer` hears of every event.
    """

    batch_size: int = 32
    shuffle: str | None = "global"
    seed: int = 0
    epochs: int | None = 1
    last: Last = "keep"
    labels: str | None = None
    class_names: tuple[str, ...] | None = None
    rank: int = 0
    world_size: int = 1
    prefetch: int | None = None
    memory_bytes: int | str = 1 << 30
    window: int | None = None
    on_corrupt: OnCorrupt = "raise"
    cache: Cache | None = None
    allocate: Allocate | None = None
    observer: Observer | None = None

    def __post_init__(self) -> None:
        # These say in better words what they are made of.
        _ = Shuffle.parse(self.shuffle), self.labelling, self.limits
        check_fields(self)
        _ = self.order, self.partition
        if self.epochs is not None and self.epochs < 1:
            raise Invalid("epochs", expected="at least 1, or None: without end", found=self.epochs)
        limits = self.limits
        for name, value in (("prefetch", limits.depth), ("memory_bytes", limits.bytes_max)):
            if value < 1:
                raise Invalid(name, expected="at least 1", found=value)
        if not 0 <= self.seed < 1 << 64:
            raise Invalid("seed", expected="a number from 0 to 2^64 - 1", found=repr(self.seed))
        if self.window is not None and not str(self.shuffle).startswith("runs="):
            raise Invalid("window", expected='shuffle="runs=K" with it', found=self.shuffle)

    @property
    def order(self) -> Shuffle:
        """How samples are mixed."""
        return Shuffle.parse(self.shuffle, self.window)

    @property
    def partition(self) -> Partition:
        """How the ranks share an epoch."""
        return Partition(self.batch_size, self.rank, self.world_size, self.last)

    @property
    def labelling(self) -> Labelling:
        """Where labels come from."""
        return Labelling(self.labels, self.class_names)

    @property
    def limits(self) -> Limits:
        """How far to run ahead."""
        depth = _DEPTH_MAX if self.prefetch is None else self.prefetch
        return Limits(depth, bytes_of(self.memory_bytes, "memory_bytes"))
