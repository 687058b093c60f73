"""What the tests of the writing half of the filesystem ask of a lake."""

from __future__ import annotations

from lakefeed import Lake
from lakefeed.adapters.fsspec import LakeFileSystem

BIG = bytes(range(251)) * (3 << 16)  # 47 MiB: streamed in several blocks


def commits(fs: LakeFileSystem) -> int:
    with Lake.open(str(fs.lake)) as lake:
        return lake.snapshot().number


def stored(fs: LakeFileSystem, path: str) -> bytes:
    """What another process would find."""
    with Lake.open(str(fs.lake)) as lake:
        return lake.snapshot().get(path)
