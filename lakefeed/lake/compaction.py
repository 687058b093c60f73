"""Which packs are worth rewriting: a pure decision, printable, the same for the same facts.

1. Packs of which too little is live (`live_ratio`) are rewritten, the emptiest first: they hold
   room that garbage collection could free.
2. Small packs (below half of the target size) are rewritten together, the smallest first. A pack
   waits that is big beside all smaller ones together, unless the result is no longer small: so
   packs grow geometrically, and a byte is rewritten few times.
3. One run copies at most `bytes_max` and handles at most `rows_max` rows; the rest is for the next
   run, however few of the small ones that are waited for fit in. A single pack that is bigger still
   has its turn.

Does no I/O. Copying, the commit, and who wins against whom are left to `compactor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lakefeed.errors import Invalid
from lakefeed.format.columns import MAGIC
from lakefeed.format.commit import PackInfo, State

TARGET_BYTES = 1 << 30
# Rows of one pack are held in memory while it is written (some 150 bytes each).
PACK_ROWS = 1 << 20
# Where they have long paths or attributes, there are fewer.
PACK_ROWS_BYTES = 256 << 20
# Payloads of 4 KiB and more are aligned, which may waste an eighth: a pack is never 100 % live, and
# rewriting it would not help.
LIVE_RATIO_MAX = 0.8
# A pack that is rewritten grows by at least packs_min / PATIENCE: by half where two may be merged,
# fivefold where sixteen are waited for.
PATIENCE = 4

# Packs that one run rewrites for either reason: `copying` numbers them with 19 bits.
INPUTS_MAX = 1 << 16

Reason = Literal["small", "live ratio"]


@dataclass(frozen=True, slots=True)
class CompactionOptions:
    """What counts as worth rewriting, and how much of it one run may do.

    `packs_min` small packs are the fewest worth merging; a service that runs often wants more.
    """

    target_bytes: int = TARGET_BYTES
    live_ratio: float = 0.5
    bytes_max: int = 64 << 30
    rows_max: int = 4 << 20
    packs_min: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.live_ratio <= LIVE_RATIO_MAX:
            raise Invalid("live ratio", expected=f"0 to {LIVE_RATIO_MAX}", found=self.live_ratio)
        if min(self.target_bytes, self.bytes_max, self.rows_max) < 1 or self.packs_min < 2:
            raise Invalid("compaction", expected="sizes above 0 and at least two packs to merge",
                          found=self)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Input:
    """One pack to rewrite, and why."""

    id: str
    reason: Reason
    bytes: int
    payload_bytes: int
    live_bytes: int
    rows: int

    @property
    def weight(self) -> int:
        """Bytes to write for it, about: what is live, and its index."""
        return self.live_bytes + self.bytes - self.payload_bytes


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """The packs to rewrite in this run; `left` more are worth it and have to wait."""

    inputs: tuple[Input, ...]
    target_bytes: int
    left: int = 0

    @property
    def empty(self) -> bool:
        """True when there is nothing to do."""
        return not self.inputs

    @property
    def live_bytes(self) -> int:
        """How many payload bytes will be copied, at most."""
        return sum(pack.live_bytes for pack in self.inputs)

    @property
    def bytes(self) -> int:
        """How many bytes the inputs take on the volume."""
        return sum(pack.bytes for pack in self.inputs)


def plan_compaction(
    state: State, usage: Mapping[str, int], options: CompactionOptions
) -> CompactionPlan:
    """Return which packs to rewrite; `usage` gives the live bytes of each, or a little more."""
    emptiest, small = [], []
    for info in state.packs.values():
        live = min(usage.get(info.sealed.id, 0), _payload_bytes(info))
        if _payload_bytes(info) and live < options.live_ratio * _payload_bytes(info):
            emptiest.append(_input(info, live, "live ratio"))
        elif _is_small(info, options):
            small.append(_input(info, live, "small"))
    emptiest.sort(key=lambda pack: (pack.live_bytes / pack.payload_bytes, pack.id))
    small.sort(key=lambda pack: (pack.weight, pack.id))
    chosen = _within_bounds(emptiest, (), options)
    left = len(emptiest) - len(chosen)
    mergeable = _worth_merging(small, chosen, options)
    merged = _within_bounds(mergeable, chosen, options)
    if len(merged) + bool(chosen) < 2:
        merged = []
    left += len(mergeable) - len(merged)
    return CompactionPlan((*chosen, *merged), options.target_bytes, left)


def _payload_bytes(info: PackInfo) -> int:
    return info.sealed.payload_end - len(MAGIC)


def _is_small(info: PackInfo, options: CompactionOptions) -> bool:
    # A pack of very many very small files is full before it is big.
    return info.sealed.bytes < options.target_bytes / 2 and info.sealed.rows < PACK_ROWS / 2


def _input(info: PackInfo, live_bytes: int, reason: Reason) -> Input:
    pack = info.sealed
    return Input(pack.id, reason, pack.bytes, _payload_bytes(info), live_bytes, pack.rows)


def _worth_merging(
    small: list[Input], others: list[Input], options: CompactionOptions
) -> list[Input]:
    """Return the small packs, ascending, without those that would only be copied once more.

    `others` are rewritten anyway.
    """
    taken = list(small)
    total = sum(pack.weight for pack in (*others, *taken))
    while taken and total < options.target_bytes / 2:
        largest = taken[-1].weight
        if largest * options.packs_min <= PATIENCE * (total - largest):
            break
        taken.pop()
        total -= largest
    return taken if len(taken) + bool(others) >= options.packs_min else []


def _within_bounds(
    packs: list[Input], before: tuple[Input, ...] | list[Input], options: CompactionOptions
) -> list[Input]:
    """Return the first packs that fit into one run; the very first one always does."""
    live_bytes = sum(pack.live_bytes for pack in before)
    rows = sum(pack.rows for pack in before)
    for count, pack in enumerate(packs):
        live_bytes += pack.live_bytes
        rows += pack.rows
        over = live_bytes > options.bytes_max or rows > options.rows_max or count >= INPUTS_MAX
        if over and (count or before):
            return packs[:count]
    return packs
