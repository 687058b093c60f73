"""Files of an inbox are read once, in bounded parts, to their ends, and closed."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from lakefeed.lake import layout
from lakefeed.service import inbox
from lakefeed.service.records import Records
from lakefeed.service.waiting import Candidate
from tests.service.daemons import PATIENCE_SECONDS
from tests.service.tools import drop, refuse_to_open, run_once, service, waiting
from tests.support.descriptors import open_below


@pytest.mark.parametrize(("files", "size"), [(3, 1000), (1000, 3), (3, 5), (1, 1)])
def test_files_are_read_in_bounded_parts_each_once(
    monkeypatch: pytest.MonkeyPatch, files: int, size: int
) -> None:
    monkeypatch.setattr(inbox, "CHUNK_FILES", files)
    monkeypatch.setattr(inbox, "CHUNK_BYTES", size)
    batch = [Candidate(str(at), at % 5, 0, at, 0) for at in range(17)]
    parts = [list(part) for part in inbox._chunks(batch)]
    assert [file for part in parts for file in part] == batch
    assert all(len(part) <= files for part in parts)
    assert all(sum(file.size for file in part) <= size for part in parts if len(part) > 1)
    together = [[*part, after[0]] for part, after in pairwise(parts)]
    assert all(len(some) > files or sum(file.size for file in some) > size for some in together)
    assert [*inbox._chunks([])] == []


def test_a_directory_that_cannot_be_opened_stays_and_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        for name in ("good", "sub/a"):
            drop(made.root, name, b"1")
        refuse_to_open(monkeypatch, {"sub"}, errno.EACCES)
        box = made.inbox()
        assert run_once(box) == 1
        monkeypatch.undo()
        assert waiting(made.root) == ["sub/a"]
        assert [one.path for one in box.left] == ["sub"]
        assert made.take() == 1
        assert made.files() == {"good": b"1", "sub/a": b"1"}


@pytest.mark.parametrize("big_bytes", [10, 1000], ids=["big", "small"])
def test_a_file_whose_bytes_end_before_its_size_says_so_stays_and_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, big_bytes: int
) -> None:
    read = os.read

    def short(fd: int, size: int) -> bytes:
        if not os.path.sameopenfile(fd, cut):
            return read(fd, size)
        return read(fd, 30) if os.lseek(fd, 0, os.SEEK_CUR) == 0 else b""

    with service(tmp_path, big_bytes=big_bytes) as made:
        path = drop(made.root, "a", b"1" * 100)
        cut = os.open(path, os.O_RDONLY)
        monkeypatch.setattr(os, "read", short)
        assert made.take() == 0
        monkeypatch.undo()
        os.close(cut)
        assert (made.files(), waiting(made.root)) == ({}, ["a"])
        assert made.take() == 1
        assert made.files() == {"a": b"1" * 100}


def test_who_is_given_up_waits_for_no_thread_that_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is gone keeps all threads of the pool, and whatever is queued behind them."""
    reading, answers = threading.Event(), threading.Event()

    def hangs(*_: object) -> None:
        reading.set()
        assert answers.wait(PATIENCE_SECONDS)
        raise OSError(errno.EIO, "Input/output error")

    async def give_up(box: inbox.Inbox) -> bool:
        run = asyncio.create_task(box.run(everything=True))
        assert await asyncio.to_thread(reading.wait, PATIENCE_SECONDS)
        run.cancel()
        done, _ = await asyncio.wait({run}, timeout=PATIENCE_SECONDS / 2)
        answers.set()
        await asyncio.wait({run})
        return bool(done)

    with service(tmp_path, threads=1) as made:
        drop(made.root, "a", b"1")
        monkeypatch.setattr(inbox, "read_files", hangs)
        box = made.inbox()
        assert asyncio.run(give_up(box))
        box.close()


@pytest.mark.parametrize("keep", [False, True])
def test_nothing_of_an_inbox_stays_open(tmp_path: Path, keep: bool) -> None:
    with service(tmp_path, big_bytes=10, keep=keep) as made:
        for name in ("big", "sub/big"):
            drop(made.root, name, b"1" * 100)
        for name in ("small", "sub/small"):
            drop(made.root, name, b"2")
        assert made.take() == 4
        assert open_below(made.root) == []


@pytest.mark.parametrize("gone", [True, False])
def test_a_record_that_goes_stale_in_the_moment_of_reading_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    mine = Records(str(tmp_path))
    mine.open(layout.new_id())
    record = mine.new(1)
    mine.begin(record)
    opened = os.open

    def stale(path: str, *flags: int, **where: int) -> int:
        if path.endswith(".open"):
            monkeypatch.setattr(os, "open", opened)
            if gone:
                mine.forget(record)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return opened(path, *flags, **where)

    monkeypatch.setattr(os, "open", stale)
    assert (mine.pending(), os.open) == ([] if gone else [record], opened)
