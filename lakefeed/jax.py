"""`lakefeed.jax`: a short name for the JAX adapter."""

from __future__ import annotations

from lakefeed.errors import needing

with needing("jax", __name__):
    from lakefeed.adapters.jax import Loader, LoaderOptions, flat, over_all_devices, rows

__all__ = ["Loader", "LoaderOptions", "flat", "over_all_devices", "rows"]
