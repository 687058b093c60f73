"""What is complete is taken in, committed and then removed; what is not stays or moves aside."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import LakefeedError
from lakefeed.service import taking
from lakefeed.service.aside import move_aside
from lakefeed.service.inbox import Inbox
from lakefeed.service.threads import Stopped
from lakefeed.service.waiting import Bad, Candidate
from lakefeed.volume.base import SMALL_FILE_BYTES_MAX
from tests.service.tools import (
    LONG_AGO_NS,
    Service,
    drop,
    refuse_to_open,
    run_once,
    service,
    waiting,
)
from tests.support.descriptors import open_below


def test_files_are_committed_and_then_removed(tmp_path: Path) -> None:
    with service(tmp_path, prefix="cams") as made:
        for number in range(5):
            drop(made.root, f"a/{number}.jpg", b"%d" % number)
        drop(made.root, "top.jpg", b"top")
        assert made.take() == 6
        assert waiting(made.root) == []
        expected = {f"cams/a/{number}.jpg": b"%d" % number for number in range(5)}
        assert made.files() == {**expected, "cams/top.jpg": b"top"}
        assert made.commits() == 1
        row = made.lake.snapshot().stat("cams/top.jpg")
        assert (row.mtime_ns, row.mode) == (LONG_AGO_NS, 0o644)


def test_count_bytes_and_age_trip_the_threshold(tmp_path: Path) -> None:
    with service(tmp_path, pack_files=4, pack_bytes=1000, pack_age_seconds=3600.0) as made:
        for number in range(10):
            drop(made.root, f"{number}", b"x")
        assert run_once(made.inbox(), everything=False) == 8
        assert made.commits() == 2
        assert len(waiting(made.root)) == 2
        drop(made.root, "big", b"y" * 2000)
        inbox = made.inbox()
        assert run_once(inbox, everything=False) in (1, 2, 3)
        left = len(waiting(made.root))
        assert run_once(made.inbox(pack_age_seconds=0.0), everything=False) == left
        assert waiting(made.root) == []


def test_a_batch_is_as_old_as_its_oldest_file(tmp_path: Path) -> None:
    with service(tmp_path, pack_age_seconds=60.0) as made:
        box = made.inbox()
        batch = [Candidate(str(at), 1, 0, at, at * 10**9) for at in (0, 50, 59)]
        assert not box._is_old(batch, 59 * 10**9)
        assert box._is_old(batch, 60 * 10**9)
        box.close()


def test_big_files_get_a_pack_of_their_own(tmp_path: Path) -> None:
    with service(tmp_path, big_bytes=1000) as made:
        drop(made.root, "small", b"s")
        drop(made.root, "big/1", b"1" * 5000)
        drop(made.root, "big/2", b"2" * 6000)
        assert made.take() == 3
        assert made.commits() == 1
        state = made.lake.snapshot().state
        assert sorted(info.sealed.rows for info in state.packs.values()) == [1, 1, 1]
        assert made.files()["big/2"] == b"2" * 6000
        drop(made.root, "big/2", b"2" * 6000)
        assert made.take() == 1
        assert made.commits() == 1


def test_bad_names_links_and_devices_are_moved_aside_and_reported(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "key").write_bytes(b"key")
        (made.root / "link").symlink_to(secret / "key")
        (made.root / "out").symlink_to(secret)
        os.mkfifo(made.root / "pipe")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(made.root / "socket"))
        (Path(os.fsdecode(os.fsencode(made.root) + b"/\xff"))).write_bytes(b"x")
        drop(made.root, "good", b"1")
        assert made.take() == 1
        listener.close()
        assert made.files() == {"good": b"1"}
        assert waiting(made.root) == []
        reports = [
            json.loads(path.read_text()) for path in (made.root / ".rejected").glob("*.json")
        ]
        assert sorted(report["path"] for report in reports) == [
            "\\xff", "link", "out", "pipe", "socket",
        ]  # fmt: skip
        for report in reports:
            assert report["reason"]
        assert (secret / "key").read_bytes() == b"key"
        assert made.take() == 0


def test_what_stands_in_the_way_in_the_lake_is_refused(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        with made.lake.writer() as writer:
            writer.put("a", b"file")
            writer.mkdir("d")
            writer.put("implied/by", b"this")
        drop(made.root, "a/b", b"1")
        drop(made.root, "implied", b"4")
        drop(made.root, "d", b"2")
        drop(made.root, "e", b"3")
        made.take()
        assert made.files() == {"a": b"file", "e": b"3", "implied/by": b"this"}
        assert len(list((made.root / ".rejected").glob("*.json"))) == 3
        assert waiting(made.root) == []


def test_an_overwritten_file_is_a_new_version(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        made.take()
        drop(made.root, "a", b"2", mtime_ns=LONG_AGO_NS + 1)
        made.take()
        drop(made.root, "a", b"3", mtime_ns=LONG_AGO_NS + 1)
        made.take()
        assert made.files() == {"a": b"3"}
        assert made.commits() == 3


def test_what_cannot_be_read_stays_and_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "good", b"1")
        drop(made.root, "locked", b"2")
        refuse_to_open(monkeypatch, {"locked"}, errno.EACCES)
        assert made.take() == 1
        assert waiting(made.root) == ["locked"]
        assert made.files() == {"good": b"1"}


@pytest.mark.parametrize("known", [False, True])
def test_a_big_file_that_cannot_be_read_to_its_end_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    data = b"2" * 1000
    with service(tmp_path, big_bytes=100) as made:
        if known:
            with made.lake.writer() as writer:
                writer.put("big", data, mtime_ns=LONG_AGO_NS)
        drop(made.root, "good", b"1")
        big = drop(made.root, "big", data)
        read = os.read

        def failing(fd: int, size: int) -> bytes:
            if os.path.sameopenfile(fd, bad):
                raise OSError(errno.EIO, "Input/output error")
            return read(fd, size)

        bad = os.open(big, os.O_RDONLY)
        monkeypatch.setattr(os, "read", failing)
        assert made.take() == 1
        os.close(bad)
        assert waiting(made.root) == ["big"]
        assert made.files()["good"] == b"1"
        assert "'big': Input/output error" in caplog.text


def test_a_big_file_that_grows_while_it_is_read_is_read_no_further(tmp_path: Path) -> None:
    path = drop(tmp_path, "big", b"1" * 100)
    file = taking.Candidate("big", *taking._identity(path.stat()), 0)
    with taking.opened(str(tmp_path)) as root_fd, path.open("ab", 0) as growing:
        read = 0
        with pytest.raises(taking.Moved):
            for piece in taking.stream(root_fd, file, lambda: None):
                read += len(piece)
                growing.write(piece)  # as fast as it is read
                assert read <= file.size


def test_a_directory_that_cannot_be_listed_is_left_and_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "good", b"1")
        drop(made.root, "lost+found/a", b"2")
        drop(made.root, "sub/b", b"3")
        refuse(monkeypatch, "scandir", "lost+found")
        inbox = made.inbox()
        assert run_twice(inbox) == (2, 0)
        assert (made.root / "lost+found" / "a").exists()
        assert caplog.text.count("'lost+found': Permission denied") == 1


def test_a_link_that_cannot_be_moved_aside_stays_and_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "good", b"1")
        (made.root / "link").symlink_to("good")
        refuse(monkeypatch, "rename", "link")
        inbox = made.inbox()
        assert run_twice(inbox) == (1, 0)
        assert waiting(made.root) == ["link"]
        assert list((made.root / ".rejected").iterdir()) == []
        assert caplog.text.count("not moved aside: Permission denied") == 1


@pytest.mark.parametrize("call", ["rename", "replace"])
def test_what_could_not_be_moved_aside_is_where_it_was_and_nothing_else_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(OSError, match="Input/output error"):
            move_aside(str(tmp_path), Bad("link", "a symbolic link"), 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".rejected", "link"]


def failing(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, name: str) -> None:
    """Let a system call fail for one name, as it does for who is not its owner."""
    really = getattr(os, call)

    def refusing(path: str, *args: Any, **kwargs: Any) -> Any:
        if os.path.basename(path) == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return really(path, *args, **kwargs)

    monkeypatch.setattr(os, call, refusing)


def run_twice(inbox: Inbox) -> tuple[int, int]:
    async def story() -> tuple[int, int]:
        return await inbox.run(everything=True), await inbox.run(everything=True)

    try:
        return asyncio.run(story())
    finally:
        inbox.close()


def test_an_inbox_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        made.root.rmdir()
        made.root.write_bytes(b"")
        with pytest.raises(LakefeedError) as told:
            made.take()
        assert "inbox" in told.value.subject


def test_nothing_is_taken_without_the_lease(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        inbox = made.inbox()
        made.guard.allow(False)
        with pytest.raises(Stopped):
            run_once(inbox)
        assert waiting(made.root) == ["a"]
        assert made.commits() == 0


def record_of(made: Service) -> Path:
    """Where a record of this lake may be."""
    return made.root / f".lakefeed/{made.lake.read_id()}-{0:020d}-{'a' * 32}.open"


def link_to(place: Path, target: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target)


def pipe(place: Path, target: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place)


def bound(place: Path, target: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    home = os.open(place.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{home}/socket")  # the path itself is too long
    os.close(home)
    (place.parent / "socket").rename(place)


@pytest.mark.parametrize("make", [link_to, pipe])
@pytest.mark.parametrize("name", [".lakefeed/id", ".lakefeed", ".lakefeed/claims"])
def test_what_an_inbox_keeps_is_not_where_a_link_of_somebody_leads(
    tmp_path: Path, make: Callable[[Path, Path], None], name: str
) -> None:
    secret = tmp_path / "secret"
    if name == ".lakefeed/id":
        secret.write_text("of whoever takes the files in")
    else:
        secret.mkdir()
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        make(made.root / name, secret)
        with pytest.raises(LakefeedError, match=f"inbox/{name}, "):
            made.take()
        assert (waiting(made.root), made.commits()) == (["a"], 0)
    assert not secret.is_dir() or not [*secret.iterdir()]


def test_directories_of_ours_that_are_there_need_no_right_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def refused(path: str, *mode: int, **where: int) -> None:
        if where:  # as an NFS server does, where a name that is there is EEXIST on a disk
            raise PermissionError(errno.EACCES, "Permission denied", path)
        mkdir(path, *mode)

    with service(tmp_path, keep=True) as made:
        drop(made.root, "a", b"1")
        (made.root / ".lakefeed/claims").mkdir(parents=True)
        monkeypatch.setattr(os, "mkdir", refused)
        assert made.take() == 1


@pytest.mark.parametrize("id_", [b"", b"\xff\xfe", b"a" * 33, b"A" * 32])
def test_an_inbox_whose_id_is_none_says_so(tmp_path: Path, id_: bytes) -> None:
    with service(tmp_path) as made:
        (made.root / ".lakefeed").mkdir()
        (made.root / ".lakefeed/id").write_bytes(id_)
        with pytest.raises(LakefeedError, match="lakefeed/id, expected an id"):
            made.take()


@pytest.mark.parametrize("make", [link_to, pipe, bound, lambda place, _: place.mkdir(parents=True)])
def test_a_record_that_is_no_file_is_none_and_stays_open_nowhere(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        make(record_of(made), Path("/dev/zero"))
        assert made.take() == 1
        assert open_below(made.root) == []


def test_a_record_bigger_than_any_is_dropped(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        record = record_of(made)
        record.parent.mkdir()
        with record.open("wb") as file:
            file.truncate(SMALL_FILE_BYTES_MAX + 1)
        assert made.take() == 1
        assert not record.exists()


def test_nothing_is_moved_aside_to_where_a_link_of_somebody_leads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with service(tmp_path) as made:
        (made.root / ".rejected").symlink_to(elsewhere)
        (made.root / "link").symlink_to("nowhere")
        drop(made.root, "a", b"1")
        assert made.take() == 1
        assert waiting(made.root) == ["link"]
    assert [*elsewhere.iterdir()] == []
    assert "not moved aside: Not a directory" in caplog.text
