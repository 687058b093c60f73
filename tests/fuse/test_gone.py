"""Renames on a mount whose lake went away."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.fuse.tools import Mounted, needs_fuse

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]


def test_a_directory_is_not_missing_where_its_lake_is(rw: Mounted, tmp_path: Path) -> None:
    (rw.path / "known").mkdir()
    rw.sync()
    rw.lake.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:
        (rw.path / "known").rename(rw.path / "moved")
    assert caught.value.errno == errno.EIO
    (tmp_path / "elsewhere").rename(rw.lake)
    (rw.path / "known").rename(rw.path / "moved")
