"""Several selections in one feed, each with its weight: which one has the word at a position.

The schedule is a function of the position, like the order. Component 0 gets floor(p * share) of the
first p positions, the others share the rest in the same way, one after the other; so over any
stretch each component is within a few samples (one for each component before it) of its exact part,
and nothing has to be remembered. Each component goes through its samples in its own order, epoch
after epoch of its own, however the epochs of the mix fall. An epoch of the mix is as many positions
as all components have samples together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.feed.labels import Labels
from lakefeed.feed.order import Key, Shuffle
from lakefeed.feed.selection import Select, Selection
from lakefeed.feed.table import Rows, joined
from lakefeed.format import bridge
from lakefeed.format.checksum import crc32c
from lakefeed.given import check
from lakefeed.lake.snapshot import Snapshot

# Shares are counted in 2^-24, exact in 64 bits up to 2^39 positions.
_SHARE_BITS = 24
_POSITIONS_MAX = 1 << 39

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mix:
    """Selections and their weights, for instance `Mix.of({"web/**": 3, "books/**": 1})`."""

    parts: tuple[tuple[Select, float], ...]

    @classmethod
    def of(cls, parts: Mapping[str, float] | Sequence[tuple[Select, float]]) -> Mix:
        """Return a mix of selections by their weights."""
        pairs = parts.items() if isinstance(parts, Mapping) else parts
        try:
            given = tuple((select, float(weight)) for select, weight in pairs)
        except (TypeError, ValueError, OverflowError) as error:
            raise Invalid("mix", expected="selections and their weights, each a number",
                          found=repr(parts)) from error  # fmt: skip
        return cls(given)

    def __post_init__(self) -> None:
        expected = 'a tuple of selections and their weights; see Mix.of({"web/**": 3})'
        check("mix", self.parts, tuple[tuple[object, float], ...], expected)
        if not self.parts or not all(0 < weight < float("inf") for _, weight in self.parts):
            raise Invalid("mix", expected="selections with weights above 0", found=self.parts)
        weights = [weight for _, weight in self.parts]
        if min(weights) < sum(weights) / (1 << _SHARE_BITS):
            raise Invalid(
                "mix",
                expected=f"weights from 2^-{_SHARE_BITS} of their sum, {sum(weights):g}",
                found=f"{min(weights):g}, which would never be served",
            )

    @property
    def shares(self) -> tuple[int, ...]:
        """Of what the components before leave, what each takes, in 2^-24; the last takes all."""
        weights = [weight for _, weight in self.parts]
        shares = [
            round(weight / sum(weights[at:]) * (1 << _SHARE_BITS))
            for at, weight in enumerate(weights)
        ]
        return (*shares[:-1], 1 << _SHARE_BITS)


def schedule(positions: Numbers, shares: Sequence[int]) -> tuple[Numbers, Numbers]:
    """Return each position's component, and how many of that component came before it."""
    if len(positions) and int(positions.max()) >= _POSITIONS_MAX:
        raise Invalid("position of a mix", expected=f"below {_POSITIONS_MAX}")
    component = np.empty(len(positions), np.int64)
    before = np.empty(len(positions), np.int64)
    left, at = positions.astype(np.uint64), np.arange(len(positions))
    shift, half = np.uint64(_SHARE_BITS), np.uint64(1 << (_SHARE_BITS - 1))
    for number, share in enumerate(shares):
        # Half a share in front, so that small components do not all come last.
        had = (left * np.uint64(share) + half) >> shift
        has = ((left + np.uint64(1)) * np.uint64(share) + half) >> shift
        chosen = has > had
        component[at[chosen]] = number
        before[at[chosen]] = had[chosen]
        left, at = (left - had)[~chosen], at[~chosen]
    return component, before


class Mixed:
    """The samples of several selections, numbered one selection behind the other."""

    def __init__(self, parts: Sequence[Selection], mix: Mix) -> None:
        self._parts = list(parts)
        self.shares = mix.shares
        self.counts = [len(part) for part in self._parts]
        self._bases = np.cumsum([0, *self.counts])
        names = {part.class_names for part in self._parts}
        if len(names) > 1:
            raise Invalid("labels of a mix", expected="class_names, the same for all components",
                          hint="pass class_names=...")  # fmt: skip
        self.class_names = self._parts[0].class_names

    def __len__(self) -> int:
        return int(self._bases[-1])

    @property
    def digest(self) -> str:
        """Tells mixes of other bytes or weights apart."""
        return self._digest([part.digest for part in self._parts])

    def content(self) -> str:
        """Return a checksum of weights, paths and their bytes' checksums."""
        return self._digest([part.content() for part in self._parts])

    def through(self, snapshot: Snapshot) -> Mixed:
        """Return the same samples, looked up through another opening of their snapshot."""
        other = copy.copy(self)
        other._parts = [part.through(snapshot) for part in self._parts]
        return other

    def _digest(self, digests: list[str]) -> str:
        return f"{crc32c(repr((self.shares, digests)).encode()):08x}"

    def numbers(self, positions: Numbers, shuffle: Shuffle, key: Key) -> Numbers:
        """Return the sample at each position of an epoch."""
        seed, epoch = key
        component, index = schedule(positions + epoch * len(self), self.shares)
        numbers = np.empty(len(positions), np.int64)
        for part, count in enumerate(self.counts):
            for turn in np.unique(index[component == part] // count).tolist():
                chosen = (component == part) & (index // count == turn)
                own = ((seed + part * 0x9E3779B97F4A7C15) & ((1 << 64) - 1), turn)
                found = shuffle.samples(index[chosen] % count, count, own)
                numbers[chosen] = found + self._bases[part]
        return numbers

    def rows(self, numbers: Numbers) -> Rows:
        """Return where the payloads of some samples are."""
        part = np.searchsorted(self._bases, numbers, "right") - 1
        packs: list[str] = []
        pieces: list[Rows] = []
        for each, selection in enumerate(self._parts):
            rows = selection.rows(numbers[part == each] - self._bases[each])
            pieces.append(replace(rows, pack=rows.pack + len(packs)))
            packs += rows.packs
        back = np.argsort(np.argsort(part, kind="stable"), kind="stable")
        return joined(packs, pieces).take(back)

    def labels(self, numbers: Numbers) -> Labels | None:
        """Return the labels of some samples whose rows were asked for before."""
        part = np.searchsorted(self._bases, numbers, "right") - 1
        labels = np.empty(len(numbers), np.int32)
        for each, selection in enumerate(self._parts):
            chosen = part == each
            own = selection.labels(numbers[chosen] - self._bases[each])
            if own is None:
                return None
            labels[chosen] = own
        return labels

    def paths(self, numbers: Numbers) -> pa.Array:
        """Return the paths of some samples, in the order asked."""
        part = np.searchsorted(self._bases, numbers, "right") - 1
        order = np.argsort(part, kind="stable")
        pieces = [
            selection.paths(numbers[part == each] - self._bases[each])
            for each, selection in enumerate(self._parts)
        ]
        back = np.argsort(order, kind="stable")
        return pa.concat_arrays(pieces).take(bridge.numbers(back))
