"""`lakefeed.torch`: a short name for the PyTorch adapter."""

from __future__ import annotations

from lakefeed.errors import needing

with needing("torch", __name__):
    from lakefeed.adapters.torch import Batch, IterableDataset, Loader, LoaderOptions, position

__all__ = ["Batch", "IterableDataset", "Loader", "LoaderOptions", "position"]
