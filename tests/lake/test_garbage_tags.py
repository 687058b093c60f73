"""gc beside whoever moves tags: what they keep at one moment stays (I3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lakefeed.errors import Conflict, Corrupt
from lakefeed.lake import layout
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.refs import Tag
from lakefeed.volume.memory import MemoryReadableFile, MemoryVolume
from tests.lake.test_garbage import AT_ONCE, drop_pack, on_volume
from tests.lake.tools import contents, new_lake, write


class Moving(MemoryVolume):
    """A volume on which something happens each time that a tag was opened."""

    moved: Callable[[str], None] | None = None

    def open(self, path: str) -> MemoryReadableFile:
        file = super().open(path)
        if self.moved is not None and path.startswith(layout.REFS):
            moved, self.moved = self.moved, None  # not for what it does itself
            moved(path)
            self.moved = moved
        return file


def lake_with_moving_tags() -> tuple[Lake, Moving, str]:
    """A lake of which the tag "b" alone keeps snapshot 1; returned with the pack that it needs."""
    volume = Moving()
    lake = Lake.create(volume)
    write(lake, {"a": b"1"})
    path = drop_pack(lake, 1)
    write(lake, {"b": b"2"})
    lake.tag("a", 3)
    lake.tag("b", 3)
    return lake, volume, path


def when_the_horizon_is_raised(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]
) -> None:
    commit = lake.log.commit

    def act_and_commit(*args: object) -> object:
        act()
        return commit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(lake.log, "commit", act_and_commit)


def test_tags_that_change_places_during_collection_keep_their_snapshots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake, volume, path = lake_with_moving_tags()
    user = Lake.open(volume)

    def change_places(opened: str) -> None:
        if opened == layout.ref_path("a") and user.refs.read("b").snapshot == 1:
            user.tag("a", 1, move=True)
            user.tag("b", 3, move=True)

    def tag() -> None:
        user.tag("b", 1, move=True)
        volume.moved = change_places

    when_the_horizon_is_raised(lake, monkeypatch, tag)
    with lake, user:
        done = collect(lake, AT_ONCE)
        assert user.refs.read("a").snapshot == 1
        assert (done.deleted, done.spared) == (0, 1)
        assert path in on_volume(lake)
        assert contents(user.snapshot("a")) == {"a": b"1"}


def test_nothing_goes_while_tags_are_moved_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lake, volume, path = lake_with_moving_tags()
    user = Lake.open(volume)

    def move(opened: str) -> None:
        if opened == layout.ref_path("a"):
            user.tag("b", 7 - user.refs.read("b").snapshot, move=True)

    def begin() -> None:
        volume.moved = move

    when_the_horizon_is_raised(lake, monkeypatch, begin)
    with lake, user:
        with pytest.raises(Conflict, match="tags that rest"):
            collect(lake, AT_ONCE)
        assert path in on_volume(lake)


@pytest.mark.parametrize("how", ["tag", "pin"])
def test_nothing_goes_while_a_snapshot_is_kept_that_the_log_does_not_reach(how: str) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        drop_pack(lake, 1)
        before = on_volume(lake)
        if how == "tag":
            lake.refs.set(Tag("ahead", 3))
        else:
            lake.refs.pin(3, "test", 60)
        with pytest.raises(Corrupt, match="snapshot 3"):
            collect(lake, AT_ONCE)
        assert on_volume(lake) >= before
