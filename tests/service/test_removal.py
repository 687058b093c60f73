"""What is committed leaves the inbox; what stays there is neither lost nor taken again."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from lakefeed.format.commit import Commit
from lakefeed.lake.log import Log
from lakefeed.service import inbox, taking
from lakefeed.service.ingest import Ingest
from lakefeed.service.records import CLAIMS, Record, Records
from lakefeed.service.waiting import Candidate
from tests.service.tools import Died, drop, dying, refuse_to_open, run_once, service, waiting


@pytest.mark.parametrize("dies", [False, True])
def test_it_is_durable_that_files_went_before_their_record_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    with service(tmp_path) as made:
        files = {made.root / path for path in ("a", "d/b", "d/e/c")}
        for file in files:
            drop(file.parent, file.name, b"1")
        synced: dict[int, list[str]] = {}
        fsync, forget = os.fsync, Records.forget

        def sync(fd: int) -> None:
            fsync(fd)
            if os.path.isdir(fd):
                synced[os.fstat(fd).st_ino] = os.listdir(fd)

        def forgets(self: Records, record: Record) -> None:
            durable = {file: synced.get(file.parent.stat().st_ino, [file.name]) for file in files}
            assert not [file for file, names in durable.items() if file.name in names]
            assert synced[(made.root / CLAIMS).stat().st_ino] == []
            forget(self, record)

        monkeypatch.setattr(os, "fsync", sync)
        if dies:
            with monkeypatch.context() as patches:
                dying(patches, Ingest, "_publish", after=True)
                with pytest.raises(Died):
                    made.take()
        monkeypatch.setattr(Records, "forget", forgets)
        made.take()
        assert list((made.root / ".lakefeed").glob("*.open")) == []
        assert made.commits() == 1


def test_a_file_overwritten_in_the_moment_of_its_removal_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        path = drop(made.root, "a", b"1")
        rename = os.rename

        def writing(source: Any, target: Any, **where: Any) -> None:
            monkeypatch.setattr(os, "rename", rename)
            path.write_bytes(b"longer")
            rename(source, target, **where)

        monkeypatch.setattr(os, "rename", writing)
        made.take()
        assert made.files() == {"a": b"1"}
        assert path.read_bytes() == b"longer"
        made.take(quiet_seconds=0.0)
        assert made.files() == {"a": b"longer"}
        assert waiting(made.root) == []


@pytest.mark.parametrize("change", ["renamed", "removed"])
def test_a_file_overwritten_in_the_moment_of_its_removal_outlives_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path) as made:
        home = drop(made.root, "sub/a", b"1").parent
        rename = os.rename

        def writing(source: Any, target: str, **where: Any) -> None:
            monkeypatch.setattr(os, "rename", rename)
            rename(source, target, **where)
            (made.root / CLAIMS / target).write_bytes(b"longer")
            if change == "renamed":
                home.rename(made.root / "done")
            else:
                home.rmdir()

        monkeypatch.setattr(os, "rename", writing)
        box = made.inbox()
        assert run_once(box) == 1
        claims = [claim.read_bytes() for claim in (made.root / CLAIMS).iterdir()]
        if change == "renamed":
            assert (made.root / "done" / "a").read_bytes() == b"longer"
            assert claims == []
        else:
            assert claims == [b"longer"]
            assert "'sub/a'" in caplog.text
            assert math.isfinite(box._recover_at)  # it looks again later
            monkeypatch.setattr(inbox, "CLAIM_NS", -1)  # as if it were old
            assert made.take() == 0
            (kept,) = (made.root / ".rejected").glob("*/*")
            assert kept.read_bytes() == b"longer"


def test_what_cannot_be_removed_does_not_have_the_log_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_numbers: list[int] = []
    read = Log.read

    def noting(log: Log, number: int) -> Commit:
        read_numbers.append(number)
        return read(log, number)

    def refusing(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        monkeypatch.setattr(taking, "_remove", refusing)
        box = made.inbox()

        async def story() -> None:
            assert await box.run(everything=True) == 1
            committed = made.lake.snapshot().number
            with made.lake.writer() as writer:
                writer.put("newer", b"2")
            monkeypatch.setattr(Log, "read", noting)
            for times in (1, 0):
                read_numbers.clear()
                monkeypatch.setattr(box, "_recover_at", 0.0)  # as if the time were over
                assert await box.run(everything=True) == 0
                assert read_numbers.count(committed) == times

        asyncio.run(story())
        box.close()
        assert made.commits() == 1
        assert waiting(made.root) == ["a"]


def test_what_cannot_be_removed_is_not_taken_again_and_goes_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "theirs/a", b"1")
        drop(made.root, "b", b"2")
        rename = os.rename

        def refusing(source: str, *args: Any, **kwargs: Any) -> None:
            if source == "a":
                raise PermissionError(13, "Permission denied", source)
            rename(source, *args, **kwargs)

        monkeypatch.setattr(os, "rename", refusing)
        box, next_one = made.inbox(), made.inbox()

        async def story() -> None:
            assert await box.run(everything=True) == 2
            assert await box.run(everything=True) == 0  # who drains an inbox ends here
            assert box.backlog.files == 0
            with made.lake.writer() as writer:
                writer.delete("theirs/a")
            assert await box.run(everything=True) == 0
            assert await next_one.run(everything=True) == 0
            monkeypatch.setattr(os, "rename", rename)
            assert await box.run(everything=True) == 0
            assert waiting(made.root) == ["theirs/a"]
            monkeypatch.setattr(box, "_recover_at", 0.0)  # as if the time were over
            assert await box.run(everything=True) == 0

        asyncio.run(story())
        box.close()
        next_one.close()
        assert waiting(made.root) == []
        assert made.files() == {"b": b"2"}
        assert list((made.root / ".lakefeed").glob("*.open")) == []


def test_files_leave_an_inbox_whose_empty_directories_somebody_tidies_away(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        box = made.inbox()

        async def story() -> None:
            assert await box.run(everything=True) == 1
            (made.root / CLAIMS).rmdir()  # find -type d -empty -delete
            drop(made.root, "b", b"2")
            assert await box.run(everything=True) == 1
            assert waiting(made.root) == []
            assert await box.run(everything=True) == 0  # who drains an inbox ends here

        asyncio.run(story())
        box.close()
        assert made.files() == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("changed", [False, True])
def test_a_claim_whose_directory_went_away_does_not_stop_the_inbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "sub/a", b"1")
        dying(monkeypatch, taking, "settle_claim", after=False)
        with pytest.raises(Died):
            made.take()
        (made.root / "sub").rmdir()
        (claim,) = (made.root / CLAIMS).iterdir()
        if changed:
            claim.write_bytes(b"written by somebody who had it open")
        drop(made.root, "b", b"2")
        box = made.inbox()
        assert run_once(box) == 1
        assert made.files() == {"sub/a": b"1", "b": b"2"}
        assert claim.exists() is changed
        assert math.isfinite(box._recover_at) is changed  # it looks again later
        monkeypatch.setattr(inbox, "CLAIM_NS", -1)  # as if it were old
        assert made.take() == 0
        assert not claim.exists()
        assert len([*(made.root / ".rejected").glob("*.json")]) == changed


@pytest.mark.parametrize("moment", ["before it looks", "behind its look"])
@pytest.mark.parametrize("changed", [False, True])
def test_a_claim_that_another_replica_settles_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, changed: bool
) -> None:
    claim = tmp_path / "claim"
    claim.write_bytes(b"committed")
    found = claim.stat()
    size = found.st_size + changed
    file = Candidate("home", size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)
    look = os.stat

    def look_and_lose(*args: Any, **kwargs: Any) -> os.stat_result:
        found = look(*args, **kwargs)
        if changed:
            os.link(claim, tmp_path / "home")  # the other one puts it back
        claim.unlink()
        return found

    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        if moment == "before it looks":
            claim.unlink()
        else:
            monkeypatch.setattr(taking.os, "stat", look_and_lose)
        try:
            settled = taking.settle_claim(root_fd, root_fd, "claim", file)
        except FileNotFoundError:
            # What cannot be put back is said: whoever recovers looks again, and finds it settled.
            assert changed and moment == "behind its look"
            monkeypatch.setattr(taking.os, "stat", look)
            settled = taking.settle_claim(root_fd, root_fd, "claim", file)
        assert settled == (moment == "behind its look" and not changed)
    finally:
        os.close(root_fd)


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOENT])
def test_what_lies_in_a_directory_that_cannot_be_opened_is_not_taken_for_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    with service(tmp_path) as made:
        names = [drop(made.root, name, b"1").relative_to(made.root) for name in ("sub/a", "sub/b")]
        files = [Candidate(str(name), *taking._identity((made.root / name).stat()), 0)
                 for name in names]  # fmt: skip
        refuse_to_open(monkeypatch, {"sub"}, error)
        left = taking.remove_files(str(made.root), files, CLAIMS, "batch")
        # Who finds no directory knows that its files are gone.
        assert [one.path for one in left] == (["sub/a", "sub/b"] if error == errno.EACCES else [])


def test_a_file_that_cannot_be_renamed_out_of_its_mount_is_removed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*args: Any, **where: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    with service(tmp_path) as made:
        drop(made.root, "mount/a", b"1")
        box = made.inbox()
        monkeypatch.setattr(taking.os, "rename", elsewhere)
        assert run_once(box) == 1
        monkeypatch.undo()
        assert box.left == []
        assert waiting(made.root) == []
        assert made.files() == {"mount/a": b"1"}


def test_a_link_that_took_the_place_of_a_file_goes_back_as_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"somebody's")
    (tmp_path / "claim").symlink_to(target)
    root_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not taking.settle_claim(root_fd, root_fd, "claim", Candidate("home", 1, 1, 1, 1))
    finally:
        os.close(root_fd)
    assert (tmp_path / "home").readlink() == target
    assert not (tmp_path / "claim").is_symlink()


@pytest.mark.parametrize("keep", [False, True])
def test_an_empty_directory_goes_after_a_day_and_no_other_does(tmp_path: Path, keep: bool) -> None:
    with service(tmp_path, keep=keep) as made:
        drop(made.root, "full/a.part", b"not complete")
        for name in ("old", "full/old", "young", ".hidden/old"):
            (made.root / name).mkdir(parents=True)
        now = time.time()
        for name, hours in (("old", 25), ("full/old", 25), ("young", 23), (".hidden/old", 25),
                            ("full", 25)):  # fmt: skip
            os.utime(made.root / name, (now - hours * 3600,) * 2)
        made.take()
        gone = set() if keep else {"old", "full/old"}
        there = {"old", "full", "full/old", "young", ".hidden", ".hidden/old"}
        directories = {str(path.relative_to(made.root)) for path in made.root.rglob("*")
                       if path.is_dir() and ".lakefeed" not in path.parts}  # fmt: skip
        assert directories == there - gone
