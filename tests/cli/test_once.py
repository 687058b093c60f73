"""compactd --once: what one pass leaves out, and how it ends when it is not the end."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import VolumeFailed
from lakefeed.service import daemon, keeper
from lakefeed.service.inbox import Inbox
from lakefeed.service.options import InboxOptions, LakeOptions, ServiceOptions
from lakefeed.service.threads import Stopped
from lakefeed.service.waiting import Walk
from tests.cli.conftest import Run
from tests.service.tools import drop, waiting


@pytest.fixture
def box(tmp_path: Path) -> Path:
    made = tmp_path / "drop"
    drop(made, "a", b"1")
    return made


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_who_is_asked_to_end_says_so(
    run: Run, lake: Path, box: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    async def asked(self: Inbox, **_: object) -> int:
        os.kill(os.getpid(), number)
        while True:
            self._guard.check()
            await asyncio.sleep(0)

    monkeypatch.setattr(Inbox, "run", asked)
    done = run("compactd", lake, "--inbox", box, "--once")
    assert done.code == code
    assert done.out == f"{lake}: asked to end before everything was done\n"
    facts = run("compactd", lake, "--inbox", box, "--once", "--json").json
    assert (facts["stopped"], facts["skipped"]) == ([str(lake)], [])


def test_an_inbox_that_fails_keeps_neither_another_nor_the_jobs_from_being_done(
    run: Run, lake: Path, box: Path, tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    sick.write_bytes(b"no directory")
    with Lake.open(lake) as opened:
        for number in range(3):
            with opened.writer() as writer:
                writer.put(f"{number}", b"small")
    done = run("compactd", lake, "--inbox", sick, "--inbox", box, "--once", "--packs-min", "2")
    assert done.code == 6
    assert f"inbox {sick}" in done.err
    assert waiting(box) == []
    with Lake.open(lake) as opened:
        assert "compact" in {commit.operation for commit in opened.history()}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VolumeFailed("compaction", errno=errno.ENOSPC), 6),  # gc is what makes room
        (Stopped("the time of day for compaction is over"), 0),
    ],
)
def test_compaction_that_does_not_end_well_keeps_no_garbage(
    run: Run, lake: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    collections = []

    def failing(*args: object) -> None:
        raise error

    def counting(*args: object) -> object:
        collections.append(args)
        return collect(*args)  # type: ignore[arg-type]

    collect = keeper.run_collection
    monkeypatch.setattr(keeper, "run_compaction", failing)
    monkeypatch.setattr(keeper, "run_collection", counting)
    done = run("compactd", lake, "--once")
    assert done.code == code
    assert len(collections) == 1
    assert "another replica" not in done.out


@pytest.mark.parametrize("once", [True, False])
def test_an_inbox_that_hangs_is_left_behind(
    lake: Path, box: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    once: bool,
) -> None:  # fmt: skip
    answer = threading.Event()

    def entries(walk: Walk) -> Iterator[tuple[str, os.DirEntry[str]]]:
        os.kill(os.getpid(), signal.SIGTERM)
        answer.wait()
        yield from ()

    monkeypatch.setattr(Walk, "_entries", entries)
    monkeypatch.setattr(daemon, "GRACE_SECONDS", 0.01)
    looked_after = LakeOptions(str(lake), (InboxOptions(str(box)),))
    made = daemon.Daemon(ServiceOptions((looked_after,), "us", listen=None))
    try:
        ran = asyncio.run(made.run_once() if once else made.run())
    finally:
        answer.set()
    gc.collect()
    assert ran.abandoned  # the process ends without waiting for the thread
    assert ran.stopped == ([str(lake)] if once else [])
    assert "does not answer" in caplog.text
    assert "Error" not in caplog.text


def test_collection_that_is_turned_off_is_left_out(
    run: Run, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collections = []
    collect = keeper.run_collection

    def counting(*args: object) -> object:
        collections.append(args)
        return collect(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(keeper, "run_collection", counting)
    assert run("compactd", lake, "--once", "--gc-interval", "0s").code == 0
    assert not collections
    assert run("compactd", lake, "--once").code == 0
    assert len(collections) == 1


def test_our_mistake_in_one_lake_does_not_end_the_others(
    run: Run, lake: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    assert run("create", other).code == 0
    config = tmp_path / "c.toml"
    config.write_text(f'[inboxes]\n"{lake}" = ["{box}"]\n')
    calls: list[str] = []
    look = keeper.known_damage

    def looking(opened: keeper.Lake) -> object:
        calls.append(opened.volume.name)
        if opened.volume.name == str(other):
            raise OverflowError("too big")
        return look(opened)

    monkeypatch.setattr(keeper, "known_damage", looking)
    with pytest.raises(OverflowError):
        run("compactd", other, lake, "--config", config, "--once")
    assert sorted(calls) == sorted([str(lake), str(other)])
    assert waiting(box) == []


def test_a_look_that_fails_does_not_hide_what_failed_before(
    run: Run, lake: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(self: keeper.Keeper, lake: Lake) -> None:
        raise VolumeFailed("space", errno=errno.EIO)

    monkeypatch.setattr(keeper.Keeper, "_look", fails)
    sick = tmp_path / "sick"
    sick.write_bytes(b"no directory")
    done = run("compactd", lake, "--inbox", sick, "--inbox", box, "--once")
    assert done.code == 6
    assert f"error: volume failed: inbox {sick}" in done.err
    assert "look failed: VolumeFailed: space" in done.err
    assert "error: volume failed: space" in run("compactd", lake, "--inbox", box, "--once").err
