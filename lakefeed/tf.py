"""`lakefeed.tf`: a short name for the TensorFlow adapter."""

from __future__ import annotations

from lakefeed.errors import needing

with needing("tf", __name__):
    from lakefeed.adapters.tf import (
        FeedCheckpoint,
        dataset,
        distributed,
        keep_freed_memory,
        place,
        ragged,
        strings,
    )

__all__ = [
    "FeedCheckpoint",
    "dataset",
    "distributed",
    "keep_freed_memory",
    "place",
    "ragged",
    "strings",
]
