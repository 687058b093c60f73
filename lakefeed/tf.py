"""`lakefeed.tf`: a short name for the TensorFlow adapter."""

from __future__ import annotations

from lakefeed.adapters.tf import dataset

__all__ = ["dataset"]
