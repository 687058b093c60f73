"""A lake as a rank's source: the feed a user would make, over a counted volume."""

from __future__ import annotations

from collections.abc import Iterator

from lakefeed.bench.emulation import Pace, SlowVolume
from lakefeed.bench.sources import Delivered, Spec
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from lakefeed.volume.base import Volume
from lakefeed.volume.metered import Meter, MeteredVolume
from lakefeed.volume.posix import PosixVolume


class LakeSource:
    """A feed over a lake; what it reads is counted below it, on the volume."""

    def __init__(self, spec: Spec, rank: int, pace: Pace | None) -> None:
        self._meter = Meter()
        volume: Volume = PosixVolume(spec.where)
        if pace is not None:
            volume = SlowVolume(volume, pace)
        self._lake = Lake.open(MeteredVolume(volume, self._meter))
        self._feed = Feed(self._lake.snapshot(spec.at), spec.select, feed_options(spec, rank))
        # Before the clock starts, as the other sources list their files and DLIO calls `read`.
        _ = self._feed.selection

    def batches(self) -> Iterator[Delivered]:
        """Yield the feed's batches; it reads ahead across the borders of epochs."""
        for batch in self._feed:
            yield Delivered(len(batch), int(batch.lengths.sum()), batch)

    def read_bytes(self) -> int:
        """Return the bytes read: payloads, what lay between them, and the index."""
        reading = self._meter.readings().get("read")
        return reading.transferred_bytes if reading else 0

    def reads(self) -> int:
        """Return the read calls."""
        reading = self._meter.readings().get("read")
        return reading.calls if reading else 0

    def close(self) -> None:
        """Close feed and lake."""
        self._feed.close()
        self._lake.close()


def feed_options(spec: Spec, rank: int) -> FeedOptions:
    """Return what the feed of one rank is asked for: whole batches, epoch after epoch."""
    reading = spec.reading
    return FeedOptions(
        batch_size=spec.batch_size,
        shuffle=reading.shuffle,
        window=reading.window,
        seed=reading.seed,
        epochs=None,
        last="drop",
        rank=rank,
        world_size=spec.world_size,
        prefetch=reading.prefetch,
        memory_bytes=reading.memory_bytes,
    )
