"""How ranks share an epoch: steps of `batch_size` samples for each rank, and the rule for the last.

A position counts samples of all ranks together. So a feed that stopped at one world size goes on at
another from the same position, and nothing is repeated or left out (I8). Every rank gets the same
number of batches whatever the count is, because ranks that wait for each other would hang:

- `keep`: what is left is shared evenly, so shares differ by at most one sample. If fewer samples
  than ranks are left, they join the step before, whose batches then hold one sample more.
- `drop`: what does not fill a step is left out on every rank.
- `pad`: shared as by `keep`, and every batch is filled up with empty samples (label -1).
- `repeat`: shared as by `keep`, and every batch is filled up from the beginning of the epoch.

Knows nothing of files, orders and snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lakefeed.errors import Invalid

Last = Literal["keep", "drop", "pad", "repeat"]
LAST = ("keep", "drop", "pad", "repeat")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an epoch: this rank's positions [low, high), what fills its batch up after them
    (`filled` samples from the epoch's position `fill`), and where the next step begins."""

    low: int
    high: int
    next: int
    fill: int = 0
    filled: int = 0


@dataclass(frozen=True, slots=True)
class Partition:
    """How `world_size` ranks share an epoch, `batch_size` positions each, rank after rank."""

    batch_size: int
    rank: int = 0
    world_size: int = 1
    last: Last = "keep"

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("world_size", self.world_size)):
            if value < 1:
                raise Invalid(name, expected="at least 1", found=value)
        if not 0 <= self.rank < self.world_size:
            raise Invalid("rank", expected=f"0 to {self.world_size - 1}", found=self.rank)
        if self.last not in LAST:
            raise Invalid("last", expected=f"one of {', '.join(LAST)}", found=repr(self.last))

    @property
    def together(self) -> int:
        """Samples of a full step, all ranks together."""
        return self.batch_size * self.world_size

    @property
    def is_fixed(self) -> bool:
        """True where batches are filled up to `batch_size`, whatever is left or left out."""
        return self.last in ("pad", "repeat")

    def step(self, position: int, count: int) -> Step | None:
        """Return the step that begins at a position, or None at the end of the epoch.

        A feed that comes from another world size may find fewer samples left than ranks: then a
        rank's share is empty, under `keep` too.
        """
        left = count - position
        if left <= 0 or (self.last == "drop" and left < self.together):
            return None
        stride = min(self.together, left)
        if self.last == "keep" and 0 < left - self.together < self.world_size:
            stride = left
        low = position - (-stride * self.rank // self.world_size)
        high = position - (-stride * (self.rank + 1) // self.world_size)
        filled = self.batch_size - (high - low) if self.is_fixed else 0
        # Ranks fill up from different places, as if the order went on into its own beginning.
        fill = self.rank * self.batch_size - (low - position)
        return Step(low, high, position + stride, fill, filled)

    def check(self, count: int) -> None:
        """Raise Invalid unless every rank gets a sample of each epoch of `count` samples."""
        if self.batches(count) and (count >= self.world_size or self.is_fixed):
            return
        raise Invalid(
            f"rank {self.rank} of {self.world_size}",
            expected="at least one batch in an epoch for every rank",
            found=f"{count} samples",
            hint='use a smaller batch_size or world_size, or last="repeat"',
        )

    def batches(self, count: int) -> int:
        """Return how many batches every rank gets of an epoch of `count` samples."""
        full, rest = divmod(count, self.together)
        if not rest or self.last == "drop":
            return full
        joined = self.last == "keep" and full > 0 and rest < self.world_size
        return full + (not joined)
