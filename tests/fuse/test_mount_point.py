"""Where a lake may be mounted; without a mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed.adapters.fuse import kernel
from lakefeed.errors import Invalid


@pytest.mark.parametrize("point", ["lakes/one", "lakes", "link", "up", "."])
def test_a_mount_that_would_hide_what_it_needs_is_refused(point: str, tmp_path: Path) -> None:
    lake = tmp_path / "lakes/one"
    lake.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "lakes")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "lakes/one more").mkdir()
    for what, way in ("lake", lake), ("lake", tmp_path / "link/one"), ("spool", lake):
        with pytest.raises(Invalid, match=f"found {what} "):
            kernel.prepare(str(tmp_path / point), {what: str(way)})
        needed = {what: str(way), "what is not there": str(way / "none")}
        kernel.prepare(str(tmp_path / "lakes/one more"), needed)


def test_a_mount_that_would_hide_a_link_on_the_way_to_its_lake_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lakes/one").mkdir(parents=True)
    (tmp_path / "ways").mkdir()
    (tmp_path / "ways/link").symlink_to(tmp_path / "lakes")
    (tmp_path / "other").symlink_to(tmp_path / "ways")
    with pytest.raises(Invalid):
        kernel.prepare(str(tmp_path / "ways"), {"lake": str(tmp_path / "other/link/one")})
