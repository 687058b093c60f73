"""Each file of an inbox is in one commit and none is lost, whatever stops whom, and when."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.errors import Conflict, VolumeFailed
from lakefeed.lake import layout
from lakefeed.service import inbox, taking
from lakefeed.service.ingest import Ingest
from lakefeed.service.records import CLAIMS, Records
from lakefeed.service.threads import Stopped
from lakefeed.service.waiting import Candidate
from lakefeed.volume.memory import MemoryVolume
from tests.service.tools import (
    LONG_AGO_NS,
    Died,
    Service,
    drop,
    dying,
    race,
    run_once,
    service,
    waiting,
)

# Where a process may end: before and after each step that changes something.
STEPS = [
    (Records, "begin"), (Ingest, "_write"), (Ingest, "_publish"), (taking, "_remove"),
    (taking, "settle_claim"), (Records, "forget"),
]  # fmt: skip


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), STEPS)
def test_a_crash_at_any_step_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: bool
) -> None:
    with service(tmp_path) as made:
        expected = {f"{number}": b"%d" % number for number in range(3)}
        for path, data in expected.items():
            drop(made.root, path, data)
        dying(monkeypatch, owner, name, after=after)
        if owner is taking:
            # A forked pool would go on; here the thread's end is the end of everything.
            monkeypatch.setattr("lakefeed.service.inbox.remove_files", taking.remove_files)
        with pytest.raises(Died):
            made.take()
        made.take()
        assert made.files() == expected
        assert waiting(made.root) == []
        assert os.listdir(made.root / CLAIMS) == []
        assert list((made.root / ".lakefeed").glob("*.open")) == []
        assert made.commits() == 1


@pytest.mark.parametrize("mtime_ns", [LONG_AGO_NS, -(10**18)])
def test_what_was_deleted_in_the_lake_after_a_crash_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mtime_ns: int
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1", mtime_ns=mtime_ns)
        drop(made.root, "b", b"2")
        dying(monkeypatch, Ingest, "_publish", after=True)
        with pytest.raises(Died):
            made.take()
        assert made.commits() == 1
        with made.lake.writer() as writer:
            writer.delete("a")
            writer.put("b", b"newer")
        assert made.take() == 0
        assert made.files() == {"b": b"newer"}
        assert waiting(made.root) == []


@pytest.mark.parametrize("recorded", [True, False])
def test_a_commit_that_its_maker_did_not_sync_is_synced_before_its_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    volume = MemoryVolume()
    sync = volume.sync_directory

    def failing(path: str) -> None:
        if path == layout.LOG:
            raise VolumeFailed("log", errno=errno.EIO)
        sync(path)

    drop(tmp_path, "a", b"1")
    with Lake.create(volume) as lake:
        monkeypatch.setattr(volume, "sync_directory", failing)
        with pytest.raises(VolumeFailed):
            Service(lake, tmp_path).take()
        monkeypatch.undo()
    if not recorded:  # as where another program committed it
        (record,) = (tmp_path / ".lakefeed").glob("*.open")
        record.unlink()
    with Lake.open(volume) as lake:
        Service(lake, tmp_path).take()
    assert waiting(tmp_path) == []
    with Lake.open(volume.power_cut()) as lake:
        assert Service(lake, tmp_path).files() == {"a": b"1"}


@pytest.mark.parametrize("step", [(Ingest, "_publish"), (inbox, "move_aside")])
def test_what_was_not_committed_outlives_the_recovery_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str]
) -> None:
    with service(tmp_path, big_bytes=100) as made:
        with made.lake.writer() as writer:
            writer.put("cam", b"a file")
        drop(made.root, "good", b"1")
        drop(made.root, "cam/refused", b"the only copy")
        drop(made.root, "changed", b"2" * 200)
        add_big = Ingest._add_big

        def changing(self: Ingest, *args: Any) -> None:
            monkeypatch.setattr(Ingest, "_add_big", add_big)
            drop(made.root, "changed", b"3" * 200, mtime_ns=LONG_AGO_NS + 1)
            add_big(self, *args)

        monkeypatch.setattr(Ingest, "_add_big", changing)
        dying(monkeypatch, *step, after=step[1] == "_publish")
        with pytest.raises(Died):
            made.take()
        assert made.take() == 1
        assert made.files() == {"cam": b"a file", "good": b"1", "changed": b"3" * 200}
        (kept,) = (made.root / ".rejected").glob("*/refused")
        assert kept.read_bytes() == b"the only copy"


def test_a_file_overwritten_between_reading_and_removal_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        drop(made.root, "b", b"1")
        publish = Ingest._publish

        def overwriting(self: Ingest, *args: Any) -> Any:
            drop(made.root, "a", b"2", mtime_ns=LONG_AGO_NS + 1)
            return publish(self, *args)

        monkeypatch.setattr(Ingest, "_publish", overwriting)
        made.take()
        monkeypatch.setattr(Ingest, "_publish", publish)
        assert made.files() == {"a": b"1", "b": b"1"}
        assert waiting(made.root) == ["a"]
        made.take()
        assert made.files() == {"a": b"2", "b": b"1"}


def test_a_file_that_changes_while_it_is_read_waits_for_the_next_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path, quiet_seconds=0.0) as made:
        path = drop(made.root, "a", b"1" * 10)
        read = taking._read_all

        def growing(fd: int, size: int) -> bytes:
            monkeypatch.setattr(taking, "_read_all", read)
            data = read(fd, size)
            path.write_bytes(b"2" * 20)
            return data

        monkeypatch.setattr(taking, "_read_all", growing)
        assert made.take() == 0
        assert made.commits() == 0
        assert made.take() == 1
        assert made.files() == {"a": b"2" * 20}


def test_a_reply_lost_by_the_volume_is_looked_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        publish = Ingest._publish

        def losing(self: Ingest, *args: Any) -> Any:
            publish(self, *args)
            raise VolumeFailed("publish", found="no answer")

        monkeypatch.setattr(Ingest, "_publish", losing)
        inbox = made.inbox()
        with pytest.raises(VolumeFailed):
            run_once(inbox)
        monkeypatch.setattr(Ingest, "_publish", publish)
        assert made.take() == 0
        assert made.commits() == 1
        assert made.files() == {"a": b"1"}
        assert waiting(made.root) == []


def test_of_two_replicas_with_the_same_files_one_commits_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        slow = made.inbox()
        race(made, monkeypatch, lambda: assert_takes(made, 1))
        with pytest.raises(Conflict):
            run_once(slow)
        assert made.commits() == 1
        assert waiting(made.root) == []
        assert made.take() == 0
        packs = list((tmp_path / "lake" / "packs").glob("*/*.pack"))
        assert len(packs) == 1


def assert_takes(made: Service, count: int) -> None:
    assert made.take() == count


def test_another_inbox_of_the_lake_is_no_other_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        other = Service(made.lake, tmp_path / "other")
        other.root.mkdir()
        drop(made.root, "a", b"1")
        drop(other.root, "b", b"2")
        race(made, monkeypatch, lambda: assert_takes(other, 1))
        assert made.take() == 1
        assert made.files() == {"a": b"1", "b": b"2"}
        assert len({commit.app["inbox"] for commit in made.lake.history()} - {""}) == 2


def test_a_slow_replica_does_not_put_old_bytes_over_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")

        def other() -> None:
            assert made.take() == 1
            with made.lake.writer() as writer:
                writer.put("a", b"newer")

        slow = made.inbox()
        race(made, monkeypatch, other)
        with pytest.raises(Conflict):
            run_once(slow)
        assert made.files() == {"a": b"newer"}


def test_a_record_holds_whatever_a_file_server_says_of_a_file(tmp_path: Path) -> None:
    mine = Records(str(tmp_path))
    mine.open(layout.new_id())
    odd = Candidate("a", (1 << 63) - 1, -1 << 63, (1 << 64) - 1, 0)
    files = (odd, odd._replace(mtime_ns=(1 << 63) - 1, inode=0))
    record = replace(mine.new(1), files=files)
    mine.begin(record)
    assert mine.pending() == [record]


def test_other_writers_do_not_disturb_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")

        def other() -> None:
            with made.lake.writer() as writer:
                writer.put("b", b"2")

        race(made, monkeypatch, other)
        assert made.take() == 1
        assert made.files() == {"a": b"1", "b": b"2"}


def test_who_is_asked_to_end_finishes_what_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path, pack_files=1) as made:
        drop(made.root, "a", b"1")
        drop(made.root, "b", b"2")
        publish = Ingest._publish

        def then_asked(self: Ingest, *args: Any) -> Any:
            state = publish(self, *args)
            made.guard.stop()
            return state

        monkeypatch.setattr(Ingest, "_publish", then_asked)
        with pytest.raises(Stopped):
            made.take()
        assert len(waiting(made.root)) == made.commits() == 1
        assert list((made.root / ".lakefeed").glob("*.open")) == []


def test_a_replica_without_its_lease_does_not_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        inbox = made.inbox()
        race(made, monkeypatch, lambda: made.guard.allow(False))
        with pytest.raises(Stopped):
            run_once(inbox)
        assert made.commits() == 0
        assert waiting(made.root) == ["a"]
        assert list((tmp_path / "lake" / "packs").glob("*/*.pack")) == []
