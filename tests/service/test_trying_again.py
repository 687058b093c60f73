"""A batch that cannot be committed is tried again and again, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from pathlib import Path

import pytest

from lakefeed.errors import Corrupt, LakefeedError, VolumeFailed
from lakefeed.lake import layout
from lakefeed.service.inbox import Inbox
from lakefeed.service.ingest import Ingest
from lakefeed.service.records import Records
from tests.service.tools import Service, drop, run_once, service, waiting

TIMES = 3


def fail(box: Inbox, kind: type[LakefeedError]) -> None:
    """Walk an inbox several times; each time it fails."""

    async def story() -> None:
        for _ in range(TIMES):
            with pytest.raises(kind):
                await box.run(everything=True)

    asyncio.run(story())
    box.close()


def packs(made: Service) -> int:
    return len([*Path(made.lake.name, "packs").glob("*/*.pack")])


def left(made: Service) -> list[str]:
    return sorted(os.listdir(made.root / ".lakefeed"))


def nothing_stays(made: Service, box: Inbox) -> None:
    assert packs(made) == 0
    assert left(made) == ["claims", "id"]
    assert not box._ingest._doubtful


def test_no_pack_is_written_where_a_damaged_commit_is_in_the_way(tmp_path: Path) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        damaged = tmp_path / "lake" / layout.commit_path(1)
        damaged.write_bytes(b"torn")
        box = made.inbox()
        fail(box, Corrupt)
        nothing_stays(made, box)
        damaged.unlink()
        assert made.take() == 1


def test_a_commit_that_is_refused_takes_its_packs_and_its_record_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str) -> None:
        raise VolumeFailed(f"link {target}", errno=errno.EDQUOT)

    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        monkeypatch.setattr(made.lake.volume, "link", full)
        box = made.inbox()
        fail(box, VolumeFailed)
        nothing_stays(made, box)
        monkeypatch.undo()
        assert made.take() == 1
        assert packs(made) == 1


def test_a_commit_that_stands_keeps_its_packs_whatever_was_refused_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str) -> None:
        if path == layout.LOG:
            raise VolumeFailed(f"sync {path}", errno=errno.ENOSPC)

    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        monkeypatch.setattr(made.lake.volume, "sync_directory", full)
        with pytest.raises(VolumeFailed):
            made.take()
        monkeypatch.undo()
        assert packs(made) == 1
        assert made.take() == 0
        assert waiting(made.root) == []
        assert made.files() == {"a": b"1"}


def test_a_record_that_a_full_disk_cuts_short_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def full(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".open.tmp"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(fd)

    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        monkeypatch.setattr(os, "fsync", full)
        fail(made.inbox(), VolumeFailed)
        assert packs(made) == 0
        assert left(made) == ["claims", "id"]


def test_what_a_crash_leaves_in_the_middle_of_a_call_is_removed_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path, keep=True) as made:
        drop(made.root, "a", b"1")
        assert made.take() == 1
        home = made.root / ".lakefeed"
        kept = left(made)
        record = f"{1:020d}-{layout.new_id()}"
        momentary = [f"now.{layout.new_id()}", f"id.{layout.new_id()}", f"{record}.open.tmp",
                     f"{record}.taken.tmp"]  # fmt: skip
        for name in momentary:
            (home / name).touch()
            os.utime(home / name, (0, 0))  # as NFS shows a file that is being made
        box = made.inbox()
        assert run_once(box) == 0
        assert left(made) == sorted([*kept, *momentary])  # another replica may be at it
        assert math.isfinite(box._recover_at)  # it looks again later
        hours_ns = 2 * 3600 * 10**9
        monkeypatch.setattr(Records, "server_time_ns", lambda records: time.time_ns() + hours_ns)
        box = made.inbox()
        assert run_once(box) == 0
        assert left(made) == kept
        assert math.isinf(box._recover_at)


def test_batches_given_up_for_lost_are_forgotten_once_another_one_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*args: object) -> None:
        raise VolumeFailed("publish", found="no answer", errno=errno.ETIMEDOUT)

    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        box = made.inbox()
        with monkeypatch.context() as patch:
            patch.setattr(Ingest, "_publish", silent)
            fail(box, VolumeFailed)
        assert box._ingest._doubtful  # the server may carry it out yet
        again = made.inbox()
        again._ingest = box._ingest
        assert run_once(again) == 1
        assert not box._ingest._doubtful


def test_a_batch_is_noted_for_good_before_it_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        home = str(made.root / ".lakefeed")
        synced: list[tuple[str, int]] = []
        committed: list[list[tuple[str, int]]] = []
        sync, link = os.fsync, made.lake.volume.link

        def noting(fd: int) -> None:
            synced.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
            sync(fd)

        def committing(source: str, target: str) -> None:
            if layout.parse_commit(target.rpartition("/")[2]) is not None:
                committed.append([one for one in synced if one[0].startswith(home)])
            link(source, target)

        monkeypatch.setattr(os, "fsync", noting)
        monkeypatch.setattr(made.lake.volume, "link", committing)
        made.take()
        (before,) = committed
        (record, record_bytes), (directory, _) = before[-2:]
        assert record.endswith(".open.tmp")  # its bytes, then its name
        assert record_bytes
        assert directory == home
