"""What gc deletes stays unneeded if the power fails right behind it (I2, I3, I6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.repacking import CopyOptions
from lakefeed.volume.memory import MemoryVolume
from tests.lake.test_garbage import AT_ONCE, drop_pack
from tests.lake.tools import contents, write


@contextmanager
def never_synced(volume: MemoryVolume, directory: str) -> Iterator[None]:
    """Whoever syncs a directory fails, or ends, right before; what it has done there is visible."""
    sync = volume.sync_directory

    def refuse(path: str) -> None:
        if path == directory:
            raise VolumeFailed(f"sync of {path}")
        sync(path)

    with patch.object(volume, "sync_directory", refuse):
        yield


def after_power_cut(volume: MemoryVolume) -> MemoryVolume:
    """Return what a power cut leaves that comes when all that was removed of packs is durable."""
    packs = [entry.name for entry in volume.list(layout.PACKS)]
    for name in packs:
        volume.sync_directory(f"{layout.PACKS}/{name}")
    return volume.power_cut()


def test_packs_stay_until_the_commits_that_gave_them_up_outlive_a_power_cut() -> None:
    volume = MemoryVolume()
    with Lake.create(volume) as lake:
        write(lake, {"a": b"1"})
        write(lake, {"b": b"2"})
        with never_synced(volume, layout.LOG):
            with pytest.raises(VolumeFailed):
                compact(lake, how=CopyOptions(makes_way=False))
            with pytest.raises(VolumeFailed):
                collect(lake, AT_ONCE)
        assert collect(lake, AT_ONCE).deleted
    with Lake.open(after_power_cut(volume)) as lake:
        assert contents(lake.snapshot()) == {"a": b"1", "b": b"2"}
        assert check(lake).clean


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_packs_stay_until_the_tag_that_kept_them_is_gone_for_good(how: str) -> None:
    volume = MemoryVolume()
    with Lake.create(volume) as lake:
        write(lake, {"a": b"1"})
        lake.tag("v1")
        write(lake, {"a": b"2"})
        drop_pack(lake, 1)
        with never_synced(volume, layout.REFS), pytest.raises(VolumeFailed):
            lake.refs.delete("v1") if how == "deleted" else lake.tag("v1", move=True)
        assert collect(lake, AT_ONCE).deleted
    with Lake.open(after_power_cut(volume)) as lake:
        for tag in lake.refs.tags():
            assert contents(lake.snapshot(tag.name)) == {"a": b"2"}
        assert check(lake).clean
