"""A full disk, and damage in the middle of a pack: the service goes on and nothing is lost."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import VolumeFailed
from lakefeed.lake import copying, layout
from lakefeed.lake.check import check
from lakefeed.lake.compactor import compact
from lakefeed.lake.findings import Progress
from lakefeed.lake.garbage import stored_files
from lakefeed.volume.posix import PosixVolume
from tests.service.daemons import compactd, eventually
from tests.service.tools import drop, waiting
from tests.survival.mounts import Image, skip_for, why_no_loop

pytestmark = [pytest.mark.slow, pytest.mark.root]
PACKS, FILES, SIZE = 6, 16, 64 << 10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB of its own."""
    skip_for(why_no_loop(tmp_path / "probe"))
    with Image(tmp_path / "image", "32M").mounted() as mount:
        yield mount


def content(number: int) -> bytes:
    return bytes([number % 251]) * SIZE


def fill(where: Path) -> dict[str, bytes]:
    """Make a lake of several packs of a megabyte."""
    files: dict[str, bytes] = {}
    with Lake.create(where) as lake:
        for pack in range(PACKS):
            with lake.writer() as writer:
                for number in range(FILES):
                    path = f"{pack}/{number:02d}"
                    files[path] = content(pack * FILES + number)
                    writer.put(path, files[path])
    return files


def eat(disk: Path, leave_bytes: int) -> Path:
    """Take up the room of a disk, but for some."""
    ballast = disk / "ballast"
    free = PosixVolume(disk).space().free_bytes
    ballast.write_bytes(b"x" * max(free - leave_bytes, 0))
    return ballast


def files_of(lake: Lake) -> dict[str, bytes]:
    snapshot = lake.snapshot()
    paths = [path for table in snapshot.find("") for path in table["path"].to_pylist()]
    return dict(zip(paths, snapshot.get_many(paths), strict=True))


def test_compaction_says_beforehand_that_there_is_no_room(disk: Path) -> None:
    files = fill(disk / "lake")
    eat(disk, 2 << 20)
    with Lake.open(disk / "lake") as lake:
        before = {*stored_files(lake.volume)}
        with pytest.raises(VolumeFailed) as told:
            compact(lake)
        assert told.value.errno == errno.ENOSPC
        assert {*stored_files(lake.volume)} == before
        assert files_of(lake) == files


def test_a_disk_that_fills_up_during_compaction_costs_nothing(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "WINDOW_BYTES", 256 << 10)
    files = fill(disk / "lake")
    ballast: list[Path] = []

    def others_write(stage: str, done: int, total: int) -> None:
        if stage == "copying" and not ballast:
            ballast.append(eat(disk, 1 << 20))

    progress: Progress = others_write
    with Lake.open(disk / "lake") as lake:
        before = {*stored_files(lake.volume)}
        with pytest.raises(VolumeFailed) as told:
            compact(lake, progress=progress)
        assert told.value.errno == errno.ENOSPC
        assert {*stored_files(lake.volume)} == before
        assert files_of(lake) == files
        assert check(lake, deep=True).clean
        ballast[0].unlink()
        assert len(compact(lake).packs_removed) == PACKS
        assert files_of(lake) == files


def test_an_inbox_waits_while_the_disk_is_full_and_the_daemon_goes_on(
    disk: Path, tmp_path: Path
) -> None:
    files = fill(disk / "lake")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    # Root may use a twentieth more than is free, so the files are bigger than that.
    ballast = eat(disk, 256 << 10)
    for number in range(4):
        drop(inbox, f"{number}", content(number) * 16)
    words = ("--inbox", f"{inbox}=in", "--pack-age", "0s", "--lease", "3s", "--interval", "1s")
    with compactd(disk / "lake", *words) as daemon:
        job = f"inbox {inbox}"
        eventually(lambda: job in daemon.status()["last_failure"], daemon.log())
        assert "no space left" in daemon.status()["last_failure"][job]
        assert len(waiting(inbox)) == 4
        ballast.unlink()
        eventually(lambda: daemon.status()["files_packed"] == 4, daemon.log())
        eventually(lambda: job not in daemon.status()["last_failure"])
        assert daemon.stop() == 0
    with Lake.open(disk / "lake") as lake:
        assert files_of(lake) == {**files, **{f"in/{n}": content(n) * 16 for n in range(4)}}
        assert check(lake, deep=True).clean
    assert waiting(inbox) == []


def test_damage_in_the_middle_of_a_pack_is_named_and_the_rest_moves(
    disk: Path, tmp_path: Path
) -> None:
    where = disk / "lake"
    files = fill(where)
    with Lake.open(where) as lake:
        row = lake.snapshot().stat("2/07")
    pack = where / layout.pack_path(row.pack)
    data = bytearray(pack.read_bytes())
    data[row.offset + SIZE // 2] ^= 1
    pack.write_bytes(bytes(data))
    words = ("--interval", "1s", "--packs-min", "2", "--lease", "3s", "--scrub-interval", "1s")
    with compactd(where, *words) as daemon:
        eventually(lambda: "2/07 in pack" in daemon.log(), daemon.log())
        eventually(lambda: daemon.status()["corrupt_payloads"] == 1, daemon.log())
        assert 'result="damaged"' in daemon.get("/metrics")[1]
        assert daemon.stop() == 0
    with Lake.open(where) as lake:
        snapshot = lake.snapshot()
        assert len(snapshot.state.packs) == 2
        assert row.pack in snapshot.state.packs
        for path, expected in files.items():
            if path != "2/07":
                assert snapshot.get(path) == expected
        findings = check(lake, deep=True).findings
        assert [finding.subject for finding in findings] == ["2/07"]
