"""gc by the log alone, retention by count, and the sweep for orphans apart (I3, I6)."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest.mock import Mock, patch

import pytest

from lakefeed.format.commit import State
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.garbage import Orphans, Retention, collect, orphans_of
from lakefeed.lake.lake import Lake
from lakefeed.lake.packing import new_pack
from lakefeed.lake.refs import Pin
from lakefeed.volume.base import write_file
from tests.lake.test_garbage import AT_ONCE, drop_pack, on_volume, timed_lake
from tests.lake.tools import contents, new_lake, write


def test_the_log_alone_says_what_may_go_and_no_directory_of_packs_is_read() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
        path = drop_pack(lake, 1)
        write_orphan(lake)
        listed: list[str] = []
        look = lake.volume.list

        def listing(directory: str) -> object:
            listed.append(directory)
            return look(directory)

        with patch.object(lake.volume, "list", listing):
            done = collect(lake, AT_ONCE, orphans=False)
        assert [file.path for file in done.plan.files] == [path]
        assert (done.deleted, done.deleted_bytes) == (1, done.plan.files[0].bytes)
        assert not [name for name in listed if name.startswith((layout.PACKS, layout.INDEX))]
        assert len(on_volume(lake)) == 2
        assert collect(lake, AT_ONCE, orphans=True).deleted == 1
        assert contents(lake.snapshot()) == {"a": b"2"}


def write_orphan(lake: Lake) -> None:
    new_pack(lake.volume, 0, lambda writer, now_ns: None)


def test_the_newest_snapshots_are_kept_by_count() -> None:
    with new_lake() as lake:
        for number in range(4):
            write(lake, {"a": b"%d" % number})
        drop_pack(lake, 1)  # commit 5
        drop_pack(lake, 2)  # commit 6
        two = Retention(keep_seconds=0, grace_seconds=0, keep_snapshots=2)
        done = collect(lake, two)
        assert (done.plan.horizon, done.deleted) == (5, 1)
        assert contents(lake.snapshot(5)) == {"a": b"3"}


def test_more_snapshots_kept_than_there_are_is_all_of_them() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
        drop_pack(lake, 1)
        plenty = Retention(keep_seconds=0, grace_seconds=0, keep_snapshots=100)
        assert collect(lake, plenty).deleted == 0


def test_what_a_tag_kept_goes_by_the_log_alone_once_the_tag_is_gone() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        lake.tag("v1")
        write(lake, {"a": b"2"})
        first = drop_pack(lake, 1)
        write(lake, {"a": b"3"})
        second = drop_pack(lake, 2)
        done = collect(lake, AT_ONCE, orphans=False)
        assert [file.path for file in done.plan.files] == [second]
        assert collect(lake, AT_ONCE, orphans=False).deleted == 0
        write(lake, {"b": b"1"})  # the note of what the tag kept is found behind it
        lake.refs.delete("v1")
        done = collect(lake, AT_ONCE, orphans=False)
        assert [file.path for file in done.plan.files] == [first]
        assert done.deleted == 1
        assert collect(lake, AT_ONCE, orphans=False).plan.files == ()
        assert contents(lake.snapshot()) == {"a": b"3", "b": b"1"}
        assert check(lake, deep=True).clean


def test_what_a_pin_of_that_very_moment_kept_goes_with_the_orphans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
        path, commit = drop_pack(lake, 1), lake.log.commit
        pins: list[Pin] = []

        def late(*arguments: Any) -> State:
            # Behind the note of what is kept, and before the horizon passes it.
            pins.append(lake.pin(1, holder="reader", lifetime_seconds=3600))
            return commit(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(lake.log, "commit", late)
            assert collect(lake, AT_ONCE, orphans=False).spared == 1
        assert contents(lake.snapshot(1)) == {"a": b"1"}
        lake.refs.unpin(pins[0])
        assert collect(lake, AT_ONCE, orphans=False).deleted == 0
        done = collect(lake, AT_ONCE)
        assert [file.path for file in done.plan.files] == [path]
        assert done.deleted == 1


def test_what_is_no_pack_segment_or_expired_pin_is_never_planned() -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        (pack,) = on_volume(lake)
        for path in (f"{pack.rpartition('/')[0]}/README", f"{layout.INDEX}/README"):
            write_file(lake.volume, path, b"somebody's")
        lake.pin(1, holder="test", lifetime_seconds=10 * 24 * 3600)
        clock.pass_days(5)
        assert not collect(lake, AT_ONCE, dry_run=True).plan.files


def test_orphans_are_what_no_commit_names_with_their_bytes() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        lake.merge_index()
        assert orphans_of(lake) == Orphans(0, 0)
        for path, size in ((layout.pack_path(layout.new_id()), 10),
                           (layout.segment_path(layout.new_id()), 20)):  # fmt: skip
            write_file(lake.volume, path, bytes(size))
        assert orphans_of(lake) == Orphans(2, 30)


def test_what_many_tags_keep_is_told_by_reading_each_commit_a_few_times() -> None:
    with new_lake() as lake:
        for number in range(1, 31):
            write(lake, {"a": b"%d" % number})
            lake.tag(f"t{number}", number)
        opened: Counter[str] = Counter()
        look = lake.volume.open

        def opening(path: str) -> object:
            opened[path] += 1
            return look(path)

        with patch.object(lake.volume, "open", opening):
            assert not collect(lake, AT_ONCE).plan.files
        assert max(opened[layout.commit_path(number)] for number in range(1, 31)) < 10


def test_reading_the_log_is_told_of_and_can_be_ended() -> None:
    lake, _ = timed_lake()
    for number in range(5):
        write(lake, {f"{number}": b"x"})
    drop_pack(lake, 1)
    told: list[tuple[str, int, int]] = []
    with lake:
        with pytest.raises(KeyboardInterrupt):
            collect(lake, AT_ONCE, progress=Mock(side_effect=KeyboardInterrupt))
        collect(lake, AT_ONCE, progress=lambda *news: told.append(news))
    assert told[:6] == [("reading the log", done, 6) for done in range(1, 7)]
    assert told[-1] == ("deleting", 1, 1)
