"""What stays in an inbox is named, once; nothing of it is kept silent."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lakefeed.service import inbox as inboxes
from lakefeed.service import taking
from lakefeed.service.waiting import Candidate
from tests.service.tools import drop, refuse_to_open, service, waiting


def test_names_beyond_the_most_are_counted_and_those_that_are_gone_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    locked: set[str] = set()
    refuse_to_open(monkeypatch, locked, errno.EACCES)
    with service(tmp_path, names_max=3) as made:
        box = made.inbox()

        async def walk(*names: str) -> str:
            caplog.clear()
            locked.clear()
            locked.update(names)
            for name in names:
                drop(made.root, name, b"1")
            await box.run(everything=True)
            assert waiting(made.root) == sorted(names)
            return caplog.text

        async def story() -> None:
            told = await walk("1", "2", "3", "4", "5")
            assert [told.count(f"'{name}': Permission denied") for name in "12345"].count(1) == 3
            assert "2 more, which are not named" in told
            assert await walk("1", "2", "3", "4", "5") == ""
            await walk("1")
            told = await walk("1", "6", "7")
            assert "'6': Permission denied" in told
            assert "'7': Permission denied" in told
            assert "'1'" not in told
            assert "more" not in told

        asyncio.run(story())
        box.close()


def test_what_is_committed_and_stuck_is_named_once_however_often_it_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(taking, "_remove", refusing)
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        box = made.inbox()

        async def story() -> None:
            for recover_at in (0.0, box._recover_at, 0.0):
                box._recover_at = recover_at
                await box.run(everything=True)

        asyncio.run(story())
        box.close()
    assert caplog.text.count("'a'") == 1


def test_what_cannot_be_read_is_let_be_for_a_while_and_makes_no_batch_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, tries = [1000.0], []

    def failing(fd: int, file: Candidate, check: object) -> Iterator[bytes]:
        tries.append(file.path)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(taking, "_pieces", failing)
    monkeypatch.setattr(inboxes, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with service(tmp_path, big_bytes=100, pack_bytes=500, pack_age_seconds=3600.0) as made:
        big = drop(made.root, "big", b"2" * 1000)
        box = made.inbox()

        async def story() -> None:
            await box.run()
            drop(made.root, "young", b"1")
            for _ in range(3):
                assert await box.run() == 0
                assert (box.backlog.files, box.backlog.early) == (2, 0)
            assert len(tries) == 1
            clock[0] += 601.0
            assert await box.run() in (0, 1)  # along with a batch that is due
            assert len(tries) == 2
            big.chmod(0o600)
            await box.run()
            assert len(tries) == 3
            await box.run(everything=True)
            assert len(tries) == 4

        asyncio.run(story())
        box.close()
    assert waiting(made.root) == ["big"]
    assert caplog.text.count("'big'") == 1


def test_a_server_that_hiccuped_is_asked_again_soon_and_a_bad_sector_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tries = [1000.0], 0

    def failing(*_: object) -> bytes:
        nonlocal tries
        tries += 1
        raise OSError(errno.EIO, "Input/output error")

    whole = taking._read_all
    monkeypatch.setattr(taking, "_read_all", failing)
    monkeypatch.setattr(inboxes, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with service(tmp_path, pack_age_seconds=0.0) as made:
        drop(made.root, "a", b"1")
        box = made.inbox()

        async def story() -> None:
            await box.run()
            for number in range(2, 14):
                clock[0] += min(5.0 * 2 ** (number - 2), 600.0) - 1.0
                await box.run()
                assert tries == number - 1
                clock[0] += 1.0
                await box.run()
                assert tries == number
            (made.root / "a").chmod(0o600)
            await box.run()
            monkeypatch.setattr(taking, "_read_all", whole)
            clock[0] += 5.0
            assert await box.run() == 1

        asyncio.run(story())
        box.close()
    assert waiting(made.root) == []
