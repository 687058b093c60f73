"""Decoding beside the training: pictures into fixed shapes, and any function of a user's own.

`geometry` decides what part of a picture is wanted (pure, seeded by position), `pictures` decodes
it, `ordered` runs the work in threads or processes and keeps the feed's order.
"""

from __future__ import annotations

from lakefeed.adapters.decode.geometry import Decode
from lakefeed.adapters.decode.ordered import Ordered, Samples, mapped
from lakefeed.errors import needing

with needing("decode", __name__):
    from lakefeed.adapters.decode.pictures import Pictures, decoded

__all__ = ["Decode", "Ordered", "Pictures", "Samples", "decoded", "mapped"]
