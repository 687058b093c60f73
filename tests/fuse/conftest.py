"""Fixtures of the mount's tests."""

from __future__ import annotations

from tests.fuse.tools import lake, rw

__all__ = ["lake", "rw"]
