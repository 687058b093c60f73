"""What the tests of the feed share: a lake of small files, and ways to damage and slow it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lakefeed.format.rows import Codec
from lakefeed.lake.lake import Lake
from lakefeed.lake.writer import WriterOptions
from lakefeed.volume.base import Volume
from lakefeed.volume.memory import MemoryVolume

# Commits only when told to, merges never.
QUIET = WriterOptions(flush_age_seconds=1e9, merge_after=0)
PACKED = WriterOptions(flush_age_seconds=1e9, merge_after=0, codec=Codec.ZSTD)


def some_files(count: int, *, classes: int = 3, seed: int = 0) -> dict[str, bytes]:
    """Files of 0 to 3,000 random bytes in class folders, some of them empty, some ending in NUL."""
    chance = random.Random(seed)
    sizes = [chance.choice([0, 1, 17, 600, 3000]) for _ in range(count)]
    return {
        f"train/class{at % classes}/{at:05d}.bin": chance.randbytes(size) + b"\0" * (size % 2)
        for at, size in enumerate(sizes)
    }


@contextmanager
def lake_of(files: Mapping[str, bytes], volume: Volume | None = None) -> Iterator[Lake]:
    """A lake with these files in three packs: raw, compressed, and raw again."""
    paths = sorted(files)
    thirds = [paths[0::3], paths[1::3], paths[2::3]]
    with Lake.create(volume or MemoryVolume()) as lake:
        for third, options in zip(thirds, (QUIET, PACKED, QUIET), strict=True):
            with lake.writer(options) as writer:
                for path in third:
                    writer.put(path, files[path], attrs={"parity": str(len(files[path]) % 2)})
        yield lake
