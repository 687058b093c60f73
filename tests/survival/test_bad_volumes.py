"""Full, read-only, forbidden and silent volumes: a typed error, nothing half-published.

All of them are real filesystems except where every single call is stalled in turn. In each state
the lake still opens and reads, and it works again once the cause is gone.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.errors import EXIT_VOLUME, VolumeFailed
from lakefeed.volume.base import Listed, Volume
from lakefeed.volume.deadline import DeadlineVolume
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from tests.support.faulty import FaultyVolume
from tests.survival.lakes import audit, picture
from tests.survival.mounts import (
    Image,
    freeze,
    quota,
    run,
    skip_for,
    thaw,
    tmpfs,
    why_no_loop,
    why_no_quota,
)

pytestmark = pytest.mark.slow
T = TypeVar("T")

MANUAL = WriterOptions(flush_age_seconds=3600.0, merge_after=0)
NOBODY = 65534
PAGE_BYTES = 4096


@pytest.fixture
def needs_loop(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_for(why_no_loop(tmp_path_factory.getbasetemp()))


@pytest.fixture
def needs_quota(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_for(why_no_quota(tmp_path_factory.getbasetemp()))


def put(where: Volume | Path, name: str = "new") -> None:
    """Store three files in one commit."""
    with Lake.open(where) as lake, lake.writer(MANUAL) as writer:
        for number in range(3):
            writer.put(f"{name}/{number}", name.encode() * 1500)
        writer.flush()


def make_lake(where: Path) -> None:
    Lake.create(where).close()
    put(where, "old")


def refused(where: Volume | Path, number: int) -> VolumeFailed:
    """A put fails with this errno, and the lake is what it was; return the error."""
    path = Path(where.name if isinstance(where, Volume) else where)
    before, head = picture(path), audit(path)
    with pytest.raises(VolumeFailed) as failure:
        put(where)
    assert failure.value.errno == number
    assert failure.value.exit_code == EXIT_VOLUME
    assert failure.value.hint
    assert picture(path) == before
    assert audit(path) == head
    return failure.value


def works(where: Path) -> None:
    """A put succeeds, and everything before it is still there."""
    before = picture(where)
    put(where)
    audit(where)
    after = picture(where)
    assert before.files.items() <= after.files.items()
    assert after.files["new/2"] == b"new" * 1500


@contextmanager
def full(directory: Path, free_bytes: int) -> Iterator[None]:
    """Leave this much room on the filesystem of `directory`."""
    ballast = directory / "ballast"
    space = os.statvfs(directory)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - free_bytes)
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.root
def test_a_full_disk_refuses_at_whatever_page_it_is_full(tmp_path: Path) -> None:
    failed_at = set()
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        make_lake(disk / "lake")
        for pages in range(32):
            before, head = picture(disk / "lake"), audit(disk / "lake")
            with full(disk, pages * PAGE_BYTES):
                try:
                    put(disk / "lake")
                    break
                except VolumeFailed as error:
                    assert (error.errno, error.exit_code) == (errno.ENOSPC, EXIT_VOLUME)
                    failed_at.add(error.subject.split("/lake/")[1].split("/")[0])
                assert (picture(disk / "lake"), audit(disk / "lake")) == (before, head)
            works(disk / "lake")
        audit(disk / "lake")
    # The last page goes to the commit, which is written to tmp/ first.
    assert {"packs", "tmp"} <= failed_at


@pytest.mark.root
def test_a_disk_out_of_inodes_refuses(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=8m,nr_inodes=400") as disk:
        make_lake(disk / "lake")
        spare = disk / "spare"
        spare.mkdir()
        for count in range(3):
            while os.statvfs(disk).f_ffree > count:
                (spare / str(os.statvfs(disk).f_ffree)).touch()
            refused(disk / "lake", errno.ENOSPC)
            for name in spare.iterdir():
                name.unlink()
            works(disk / "lake")


@pytest.mark.root
def test_a_full_ext4_refuses(tmp_path: Path, needs_loop: None) -> None:
    with Image(tmp_path, "16M").mounted() as disk:
        make_lake(disk / "lake")
        with full(disk, 0):
            # What ext4 keeps for root and for its own tables.
            rest = os.open(disk / "rest", os.O_CREAT | os.O_WRONLY)
            with pytest.raises(OSError, match="No space"):
                while True:
                    os.write(rest, bytes(PAGE_BYTES))
            os.close(rest)
            refused(disk / "lake", errno.ENOSPC)
        (disk / "rest").unlink()
        works(disk / "lake")


@pytest.mark.root
def test_a_quota_refuses_wherever_it_is_reached(tmp_path: Path, needs_quota: None) -> None:
    """A real one, which spares nobody, root included."""
    failed_at = set()
    with quota(tmp_path) as limited:
        lake = limited.path / "lake"
        make_lake(lake)
        for kib in range(0, 4096, 32):
            before, head = picture(lake), audit(lake)
            limited.limit(kib << 10)
            try:
                put(lake)
                break
            except VolumeFailed as error:
                assert (error.errno, error.exit_code) == (errno.EDQUOT, EXIT_VOLUME)
                assert "quota" in f"{error} {error.hint}"
                failed_at.add(error.subject.split("/lake/")[1].split("/")[0])
            assert (picture(lake), audit(lake)) == (before, head)
        assert failed_at
        limited.limit(None)
        works(lake)


@pytest.mark.root
def test_a_read_only_volume_is_read(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=8m") as disk:
        make_lake(disk / "lake")
        run("mount", "-o", "remount,ro", disk)
        refused(disk / "lake", errno.EROFS)
        with Lake.open(disk / "lake") as lake:
            for change in (lake.merge_index, lambda: lake.tag("no")):
                with pytest.raises(VolumeFailed) as failure:
                    change()
                assert failure.value.errno == errno.EROFS
        with pytest.raises(VolumeFailed):
            Lake.create(disk / "another")
        run("mount", "-o", "remount,rw", disk)
        works(disk / "lake")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's rights for a while, in every thread."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.root
def test_a_stranger_may_read_what_the_owner_lets_him() -> None:
    # Not below tmp_path, whose parents only root may enter.
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        make_lake(directory / "lake")
        with as_nobody():
            error = refused(directory / "lake", errno.EACCES)
            assert "owner" in (error.hint or "")
            with pytest.raises(VolumeFailed) as failure:
                Lake.create(directory / "another")
            assert failure.value.errno == errno.EACCES
        (directory / "lake").chmod(0o700)
        with as_nobody(), pytest.raises(VolumeFailed) as failure:
            Lake.open(directory / "lake")
        assert failure.value.errno == errno.EACCES
        works(directory / "lake")


class StallingVolume(FaultyVolume):
    """Call `fail_at` and all later ones wait until `up` is set, and then take effect."""

    def __init__(self, inner: Volume, fail_at: int) -> None:
        super().__init__(inner, fail_at)
        self.up = threading.Event()
        self._settled = threading.Condition()
        self._waiting = 0

    def run(
        self,
        verb: str,
        path: str,
        effect: Callable[[], T],
        half: Callable[[], object] | None = None,
    ) -> T:
        if not self.fired and self._due(verb, path) is None:
            return effect()
        with self._settled:
            self._waiting += 1
        try:
            assert self.up.wait(60.0)
            return effect()
        finally:
            with self._settled:
                self._waiting -= 1
                self._settled.notify_all()

    def list(self, directory: str) -> Iterator[Listed]:
        return self.run("list", directory, lambda: iter([*self.inner.list(directory)]))

    def answer(self) -> None:
        """Let everything that waits take effect, and return when it has."""
        self.up.set()
        with self._settled:
            assert self._settled.wait_for(lambda: not self._waiting, 60.0)


def join_late_threads() -> None:
    """Return once every call that stalled has been answered."""
    for thread in threading.enumerate():
        if thread.name == "lakefeed-deadline":
            thread.join(60.0)


def test_a_volume_silent_from_any_call_on_publishes_all_or_nothing() -> None:
    base = MemoryVolume()
    with Lake.create(base) as lake, lake.writer(MANUAL) as writer:
        writer.put("old/0", b"old")
    done = base.power_cut()
    put(done)
    old, new = picture(base), picture(done)
    fired, number = True, 0
    while fired:
        number += 1
        inner = base.power_cut()
        stalling = StallingVolume(inner, number)
        deadline = DeadlineVolume(stalling, 0.04)
        acknowledged = True
        try:
            put(deadline)
        except VolumeFailed as error:
            assert error.errno == errno.ETIMEDOUT
            acknowledged = False
        stalling.answer()
        deadline.close()
        seen = picture(inner)
        assert seen == new or (not acknowledged and seen == old)
        audit(inner)
        put(inner)
        assert picture(inner) == new
        # On a busy machine a call may be late of its own accord, before the stall is reached.
        fired = stalling.fired or not acknowledged
    assert number > 20


@pytest.fixture
def frozen_disk(tmp_path: Path, needs_loop: None) -> Iterator[Path]:
    with Image(tmp_path).mounted() as disk:
        make_lake(disk / "lake")
        try:
            yield disk
        finally:
            thaw(disk)
            join_late_threads()


@pytest.mark.root
def test_a_frozen_filesystem_is_a_time_out(frozen_disk: Path) -> None:
    lake = frozen_disk / "lake"
    freeze(frozen_disk)
    refused(DeadlineVolume(PosixVolume(lake), 0.3), errno.ETIMEDOUT)
    thaw(frozen_disk)
    join_late_threads()
    works(lake)


@pytest.mark.root
def test_a_link_answered_late_is_still_this_writers_commit(frozen_disk: Path) -> None:
    lake = frozen_disk / "lake"
    attempts: list[str] = []

    class FreezingVolume(PosixVolume):
        def link(self, source: str, target: str) -> None:
            attempts.append(target)
            if len(attempts) == 1:
                freeze(frozen_disk)
            elif len(attempts) == 2:
                thaw(frozen_disk)
            super().link(source, target)

    head = audit(lake)
    put(DeadlineVolume(FreezingVolume(lake), 0.3))
    assert len(attempts) >= 2
    assert audit(lake) == head + 1
    assert picture(lake).files["new/0"] == b"new" * 1500
