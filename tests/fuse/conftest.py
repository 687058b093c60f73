"""Fixtures of the mount's tests."""

from __future__ import annotations

from tests.fuse.points import points
from tests.fuse.tools import lake, rw

__all__ = ["lake", "points", "rw"]
