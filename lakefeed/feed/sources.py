"""From what a user names (a directory, a lake or federation, a snapshot) to what a feed reads.

A directory is opened here and closed with the feed; all else stays the caller's. With a
cache the same snapshot is opened once more, through the cache; of a federation each lake's, when
something of it is first wanted.
"""

from __future__ import annotations

import os
from typing import Any, cast

from lakefeed.feed.options import Cache
from lakefeed.format.checksum import crc32c
from lakefeed.given import check
from lakefeed.lake import layout
from lakefeed.lake.federated import FederatedSnapshot
from lakefeed.lake.federation import Federation
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import Volume
from lakefeed.volume.cached import BlockCache, CachedVolume

Source = str | os.PathLike[str] | Lake | Snapshot | Federation | FederatedSnapshot


def check_source(source: Source, kinds: Any = Source) -> None:
    """Invalid for what a feed cannot read from, or is of none of some kinds."""
    check("source", source, kinds, "a lake's directory, a Lake, a Snapshot or a Federation")


def block_cache(cache: Cache) -> BlockCache:
    """Return the opened cache that an option names."""
    return BlockCache(cache.directory, cache.bytes_max, cache.block_bytes, _checksum)


def _checksum(data: memoryview) -> int:
    return crc32c(data)  # which cannot be pickled: its module has a name that nobody can import


class Sources:
    """Opens on first use; `close` closes what was opened here. Works twice."""

    def __init__(self, source: Source, cache: Cache | None) -> None:
        check_source(source, Source | Volume)  # which nobody but this process could open
        self._source = source
        self._cache = cache
        self._blocks = None if cache is None else block_cache(cache)
        self._told = (0, 0)
        self._opened: list[Lake] = []
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot to read."""
        if self._snapshot is None:
            self._snapshot = self._open()
        return self._snapshot

    def _open(self) -> Snapshot:
        source = self._source
        if isinstance(source, Federation):
            source = source.snapshot()
        if isinstance(source, FederatedSnapshot):
            view = source if self._cache is None else source.through(self._cached)
            # It has all that a feed asks of a snapshot (`View`).
            return cast("Snapshot", view)
        if isinstance(source, Snapshot):
            snapshot = source
        else:
            lake = source if isinstance(source, Lake) else self._kept(Lake.open(source))
            snapshot = lake.snapshot()
        return snapshot if self._cache is None else self._cached(snapshot)

    def _cached(self, snapshot: Snapshot) -> Snapshot:
        """Open a lake's snapshot once more, through the cache."""
        assert self._blocks is not None
        cached = self._kept(Lake.open(CachedVolume(snapshot.volume, self._blocks, layout.is_pack)))
        return cached.snapshot(snapshot.number)

    def _kept(self, lake: Lake) -> Lake:
        self._opened.append(lake)
        return lake

    def cache_counts(self) -> tuple[int, int]:
        """Return how many blocks came out of the cache and how many did not."""
        return (0, 0) if self._blocks is None else self._blocks.counts()

    def cache_room(self) -> tuple[int, int]:
        """Return how many blocks the cache's disk did not take, and the bytes that it holds."""
        blocks = self._blocks
        return (0, 0) if blocks is None else (blocks.refused, blocks.filled_bytes)

    def new_cache_counts(self) -> tuple[int, int]:
        """Return what `cache_counts` gained since the last call."""
        (hits, misses), (old_hits, old_misses) = self.cache_counts(), self._told
        self._told = (hits, misses)
        return hits - old_hits, misses - old_misses

    def close(self) -> None:
        """Close what was opened here."""
        while self._opened:
            self._opened.pop().close()
