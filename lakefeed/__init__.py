"""lakefeed: a data lake for billions of small files on any mounted volume, and its GPU feed.

    from lakefeed import Lake

    with Lake.open("/mnt/lake") as lake:
        with lake.writer() as writer:
            writer.put("train/cat/1.jpg", data)
        print(lake.snapshot().get("train/cat/1.jpg"))

Names are loaded on first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakefeed.errors import (
        Conflict,
        Corrupt,
        Invalid,
        LakefeedError,
        NotFound,
        SnapshotExpired,
        VolumeFailed,
    )
    from lakefeed.feed.feed import Cache, Feed, FeedOptions, Mix, Where
    from lakefeed.lake.federation import Federation
    from lakefeed.lake.lake import Lake
    from lakefeed.lake.query import Query
    from lakefeed.lake.snapshot import Snapshot
    from lakefeed.lake.writer import Writer, WriterOptions

__version__ = "0.1.0"

_HOMES = {
    "Cache": "feed.feed",
    "Conflict": "errors",
    "Corrupt": "errors",
    "Federation": "lake.federation",
    "Feed": "feed.feed",
    "FeedOptions": "feed.feed",
    "Invalid": "errors",
    "Lake": "lake.lake",
    "LakefeedError": "errors",
    "Mix": "feed.feed",
    "NotFound": "errors",
    "Query": "lake.query",
    "Snapshot": "lake.snapshot",
    "SnapshotExpired": "errors",
    "VolumeFailed": "errors",
    "Where": "feed.feed",
    "Writer": "lake.writer",
    "WriterOptions": "lake.writer",
}

__all__ = [
    "Cache",
    "Conflict",
    "Corrupt",
    "Federation",
    "Feed",
    "FeedOptions",
    "Invalid",
    "Lake",
    "LakefeedError",
    "Mix",
    "NotFound",
    "Query",
    "Snapshot",
    "SnapshotExpired",
    "VolumeFailed",
    "Where",
    "Writer",
    "WriterOptions",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lakefeed' has no attribute {name!r}")
    return getattr(import_module(f"lakefeed.{home}"), name)
