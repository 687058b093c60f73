"""A kept inbox: its files stay, and each is taken in once, whatever becomes of it in the lake."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.service import inbox as inboxes
from lakefeed.service.ingest import Ingest
from lakefeed.service.taking import read_files
from tests.service.tools import LONG_AGO_NS, Died, Service, drop, dying, service, waiting


def test_a_kept_inbox_remembers_what_was_taken(tmp_path: Path) -> None:
    with service(tmp_path, keep=True) as made:
        for number in range(3):
            drop(made.root, f"{number}", b"%d" % number)
        assert made.take() == 3
        assert len(waiting(made.root)) == 3
        assert made.take() == 0
        with made.lake.writer() as writer:
            writer.delete("0")
        drop(made.root, "1", b"new", mtime_ns=LONG_AGO_NS + 5)
        assert made.take() == 1
        assert made.files() == {"1": b"new", "2": b"2"}
        assert made.take() == 0


def test_an_inbox_that_is_no_longer_kept_brings_nothing_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path) as made:
        for name in ("deleted", "replaced", "same"):
            drop(made.root, name, b"1")
        assert made.take(keep=True) == 3
        deleted(made, "deleted")
        with made.lake.writer() as writer:
            writer.put("replaced", b"newer")
        drop(made.root, "new", b"2")
        assert made.take() == 2
        assert made.files() == {"new": b"2", "replaced": b"newer", "same": b"1"}
        assert waiting(made.root) == ["deleted", "replaced"]
        assert caplog.text.count("since it was taken in and kept") == 2
        (made.root / "deleted").touch()
        assert made.take(quiet_seconds=0.0) == 1
        assert made.files()["deleted"] == b"1"


def test_what_was_kept_and_is_gone_from_the_lake_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def counting(*args: Any) -> Any:
        reads.append(args)
        return read_files(*args)

    monkeypatch.setattr(inboxes, "read_files", counting)
    monkeypatch.setattr(inboxes, "_UNREAD_MAX", 0)
    with service(tmp_path) as made:
        drop(made.root, "deleted", b"1")
        assert made.take(keep=True) == 1
        deleted(made, "deleted")
        box = made.inbox(pack_age_seconds=0.0)

        async def story() -> None:
            for _ in range(3):
                assert await box.run() == 0
                assert box.backlog.files == 0  # no alert for as long as it stays
                assert [one.path for one in box.left] == ["deleted"]

        asyncio.run(story())
        box.close()
    assert len(reads) == 2  # once when it was kept, once to be compared


@pytest.mark.parametrize("first", ["same", "deleted"])
def test_what_was_kept_once_and_has_left_the_inbox_may_come_again(
    tmp_path: Path, first: str
) -> None:
    with service(tmp_path) as made:
        archived = drop(tmp_path / "archive", "a", b"1")
        os.link(archived, made.root / "a")
        assert made.take(keep=True) == 1
        if first == "deleted":
            deleted(made, "a")
        assert made.take() == (first == "same")
        (made.root / "a").unlink(missing_ok=True)
        assert made.take() == 0
        if first == "same":
            deleted(made, "a")
        os.link(archived, made.root / "a")  # with size, time and inode of before
        assert made.take() == 1
        assert (made.files(), waiting(made.root)) == ({"a": b"1"}, [])


@pytest.mark.slow
def test_the_records_of_a_kept_inbox_do_not_grow_for_ever(tmp_path: Path) -> None:
    with service(tmp_path, keep=True, pack_files=1) as made:
        for number in range(40):
            drop(made.root, f"{number:02d}", b"%d" % number)
        made.take()
        (made.root / "00").unlink()
        made.take()
        records = list((made.root / ".lakefeed").glob("*.taken"))
        assert len(records) < 32
        assert made.take() == 0
        assert len(made.files()) == 40


@pytest.mark.slow
def test_each_lake_that_keeps_from_an_inbox_gets_all_of_it(tmp_path: Path) -> None:
    with service(tmp_path, keep=True, pack_files=1) as made:
        drop(made.root, "a", b"1")
        assert made.take() == 1
        with Lake.create(tmp_path / "other") as lake:
            other = Service(lake, made.root, made.options)
            assert other.take() == 1
            for number in range(40):
                drop(made.root, f"{number:02d}", b"%d" % number)
            assert other.take() == 40  # its records are written anew as one
            assert made.take() == 40
            deleted(made, "a")
            deleted(other, "00")
            assert (made.take(), other.take()) == (0, 0)
            assert made.files().keys() ^ other.files().keys() == {"a", "00"}


def test_the_recovery_of_one_lake_leaves_the_batches_of_another_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path, keep=True) as made, Lake.create(tmp_path / "other") as lake:
        drop(made.root, "a", b"1")
        dying(monkeypatch, Ingest, "_publish", after=True)
        with pytest.raises(Died):
            made.take()
        assert Service(lake, made.root, made.options).take() == 1
        deleted(made, "a")
        assert made.take() == 0
        assert made.files() == {}


def deleted(made: Service, *paths: str) -> None:
    with made.lake.writer() as writer:
        for path in paths:
            writer.delete(path)


def test_what_the_lake_has_from_elsewhere_is_remembered_as_well(tmp_path: Path) -> None:
    with service(tmp_path, keep=True) as made:
        drop(made.root, "a", b"1")
        with made.lake.writer() as writer:  # as an import does
            writer.put("a", b"1", mtime_ns=LONG_AGO_NS)
        assert made.take() == 1
        assert made.commits() == 0
        deleted(made, "a")
        assert made.take() == 0
        assert made.files() == {}


def test_a_batch_that_was_given_up_for_lost_and_committed_after_all_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Ingest._publish

    def slow(self: Ingest, *args: object) -> object:
        monkeypatch.setattr(Ingest, "_publish", publish)
        other._open()  # another replica looks, and drops the record
        return publish(self, *args)  # type: ignore[arg-type]

    with service(tmp_path, keep=True) as made:
        drop(made.root, "a", b"1")
        other = made.inbox()
        monkeypatch.setattr(Ingest, "_publish", slow)
        assert made.take() == 1
        other.close()
        deleted(made, "a")
        assert made.take() == 0
        assert made.files() == {}


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["directory", "early"])
def test_what_a_walk_does_not_see_as_complete_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with service(tmp_path, keep=True, pack_files=1) as made:
        file = drop(made.root, "sub/a", b"1", mtime_ns=LONG_AGO_NS * 5)  # a camera's wrong clock
        assert made.take(quiet_seconds=0.0) == 1
        for number in range(40):
            drop(made.root, f"{number:02d}", b"%d" % number)
        if hidden == "directory":
            monkeypatch.setattr(os, "scandir", refusing)
        file.chmod(0o600)
        assert made.take(quiet_seconds=3600.0) == 40
        monkeypatch.setattr(os, "scandir", scandir)
        assert len([*(made.root / ".lakefeed").glob("*.taken")]) == 1
        deleted(made, "sub/a")
        assert made.take(quiet_seconds=0.0) == 0
        assert "sub/a" not in made.files()


@pytest.mark.slow
def test_files_that_left_do_not_fill_the_memory(tmp_path: Path) -> None:
    with service(tmp_path, keep=True, pack_files=1) as made:
        box = made.inbox()

        async def story() -> None:
            for day in range(2):
                for number in range(40):
                    drop(made.root, f"{day}/{number}", b"%d" % number)
                assert await box.run(everything=True) == 40
                for number in range(40):
                    (made.root / f"{day}/{number}").unlink()

        asyncio.run(story())
        box.close()
        assert len(box._taken) <= 40
