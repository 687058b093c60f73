"""A mounted filesystem: the promises, and the errors that only a real one gives."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from lakefeed.errors import Conflict, NotFound, VolumeFailed
from lakefeed.volume import directories
from lakefeed.volume.base import Listed, Volume, read_file, write_file
from lakefeed.volume.posix import PosixVolume
from tests.support.descriptors import open_below
from tests.support.patience import PATIENCE_SECONDS
from tests.volume.conformance import VolumePromises


class TestPosix(VolumePromises):
    @pytest.fixture
    def volume(self, tmp_path: Path) -> Volume:
        return PosixVolume(tmp_path)


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    """A fresh tmpfs, or a skip with the reason where mounting is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "lakefeed-test", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def remount(directory: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(directory)], check=True)


@pytest.mark.root
def test_a_full_disk_is_enospc_and_keeps_what_it_has(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=1m") as root:
        volume = PosixVolume(root)
        write_file(volume, "a", b"x" * 500_000)
        with volume.create("b") as file, pytest.raises(VolumeFailed) as failure:
            for _ in range(100):
                file.write([b"y" * 30_000, b"z" * 30_000])
        assert failure.value.errno == errno.ENOSPC
        assert not failure.value.retryable
        assert "free space" in str(failure.value)
        assert volume.space().free_bytes < 60_000
        assert read_file(volume, "a") == b"x" * 500_000
        volume.unlink("b")
        write_file(volume, "c", b"y" * 300_000)


@pytest.mark.root
def test_a_disk_without_inodes_is_enospc(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=1m,nr_inodes=8") as root:
        volume = PosixVolume(root)
        with pytest.raises(VolumeFailed) as failure:
            for number in range(20):
                write_file(volume, f"d/{number}", b"")
        assert failure.value.errno == errno.ENOSPC


@pytest.mark.root
def test_a_read_only_volume_is_erofs_and_readable(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=1m") as root:
        volume = PosixVolume(root)
        write_file(volume, "d/a", b"bytes")
        remount(root, "ro")
        for act in (
            lambda: volume.create("d/b"),
            lambda: volume.create("new/b"),
            lambda: volume.link("d/a", "d/b"),
            lambda: volume.replace("d/a", "d/b"),
            lambda: volume.unlink("d/a"),
            lambda: volume.make_directory("e"),
        ):
            with pytest.raises(VolumeFailed) as failure:
                act()
            assert failure.value.errno == errno.EROFS
            assert "remount" in str(failure.value)
        assert read_file(volume, "d/a") == b"bytes"
        assert [*volume.list("d")] == [Listed("a", False)]


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that others may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def test_denied_is_eacces(public_path: Path) -> None:
    """Root is denied nothing, so a child gives root's rights up first."""
    PosixVolume(public_path).make_directory("closed")
    write_file(PosixVolume(public_path), "closed/a", b"")
    (public_path / "closed").chmod(0)
    program = textwrap.dedent(f"""
        import errno, os, sys
        sys.path[:0] = {sys.path!r}
        from lakefeed.errors import VolumeFailed
        from lakefeed.volume.posix import PosixVolume
        volume = PosixVolume({str(public_path)!r})
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        for act in (
            lambda: volume.open("closed/a"), lambda: volume.stat("closed/a"),
            lambda: volume.create("closed/b"), lambda: volume.unlink("closed/a"),
            lambda: [*volume.list("closed")], lambda: volume.sync_directory("closed"),
            lambda: volume.refresh("closed"), lambda: volume.make_directory("closed/d"),
        ):
            try:
                act()
            except VolumeFailed as error:
                assert error.errno == errno.EACCES, error
                assert "owner" in str(error) and not error.retryable
            else:
                sys.exit("not denied")
    """)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
    finally:
        (public_path / "closed").chmod(0o755)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_cut_short_while_open_is_a_failure(tmp_path: Path) -> None:
    volume = PosixVolume(tmp_path)
    write_file(volume, "a", b"0123456789")
    with volume.open("a") as file:
        os.truncate(tmp_path / "a", 4)
        assert file.size == 10
        assert file.stat().size == 4
        with pytest.raises(VolumeFailed, match=r"expected 10 bytes, found 4 bytes"):
            file.read_at(0, 10)
        buffers = [memoryview(bytearray(3)), memoryview(bytearray(3))]
        with pytest.raises(VolumeFailed, match=r"expected 6 bytes, found 4 bytes"):
            file.read_into(0, buffers)


def test_a_kernel_that_moves_little_at_a_time_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux moves at most 0x7ffff000 bytes a call; here it is seven, in every real call."""
    real = (os.writev, os.write, os.pread, os.preadv)
    monkeypatch.setattr(os, "writev", lambda fd, buffers: real[1](fd, b"".join(buffers)[:7]))
    monkeypatch.setattr(os, "write", lambda fd, data: real[1](fd, data[:7]))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: real[2](fd, min(length, 7), at))
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, at: real[3](fd, [next(filter(len, buffers))[:7]], at)
    )
    volume = PosixVolume(tmp_path)
    data = bytes(range(100))
    with volume.create("a") as file:
        assert file.write([data[:3], b"", data[3:50], memoryview(data)[50:]]) == 100
        assert file.tell() == 100
    assert read_file(volume, "a") == data
    with volume.open("a") as reader:
        parts = [bytearray(size) for size in (1, 0, 20, 7, 8)]
        assert reader.read_into(2, [memoryview(part) for part in parts]) == 36
        assert b"".join(parts) == data[2:38]
        with pytest.raises(VolumeFailed, match="expected 11 bytes, found 10 bytes"):
            reader.read_at(90, 11)


def test_the_kernel_is_asked_for_nothing_behind_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, asked = PosixVolume(tmp_path), list[tuple[int, int]]()
    write_file(volume, "a", b"0123456789")

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        asked.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    with volume.open("a") as reader:
        assert reader.will_need([(2, 3), (8, 1 << 40), (10, 1), (1 << 40, 1 << 40)])
    assert asked == [(2, 3), (8, 2)]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    volume = PosixVolume(tmp_path)
    volume.make_directory("d")
    with pytest.raises(VolumeFailed, match="regular file"):
        volume.open("d")
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("path", ["pipe", "d/pipe"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / path)
    code = f"""
        from lakefeed.volume.posix import PosixVolume
        PosixVolume({str(tmp_path)!r}).open({path!r})
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert "expected a regular file" in done.stderr


def test_a_link_below_the_root_shows_nothing_of_what_it_leads_to(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of whoever serves the volume")
    root = tmp_path / "volume"
    (root / "packs").mkdir(parents=True)
    (root / "packs" / "x.pack").symlink_to(secret)
    (root / "federation").symlink_to(secret)
    volume = PosixVolume(root)
    with pytest.raises(VolumeFailed, match="a regular file, found a symbolic link"):
        volume.open("packs/x.pack")
    assert read_file(volume, "federation") == secret.read_bytes()


def test_a_file_whose_lease_is_called_back_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"leased")
    real = os.open

    def leased(path: str, flags: int, *more: int) -> int:
        if flags & os.O_NONBLOCK:
            raise BlockingIOError(errno.EAGAIN, "")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", leased)
    assert read_file(PosixVolume(tmp_path), "a") == b"leased"


def test_what_nfs_leaves_of_deleted_files_is_not_listed(tmp_path: Path) -> None:
    volume = PosixVolume(tmp_path)
    write_file(volume, ".nfs0000000123", b"")
    write_file(volume, "a", b"")
    assert [*volume.list("")] == [Listed("a", False)]


def test_errors_name_the_whole_path(tmp_path: Path) -> None:
    volume = PosixVolume(tmp_path)
    write_file(volume, "d/a", b"")
    with pytest.raises(Conflict, match=str(tmp_path / "d/a")):
        volume.create("d/a")


def test_a_sync_is_one_of_the_kernel_and_a_made_directory_is_synced_where_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def noting(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
        sync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    volume = PosixVolume(tmp_path)
    volume.make_directory("a/b")
    assert synced == [".", "a"]
    with volume.create("a/b/c") as file:
        file.write([b"1"])
        file.sync()
    volume.sync_directory("a/b")
    assert synced[2:] == ["a/b/c", "a/b"]


def test_no_call_leaves_a_descriptor_open(tmp_path: Path) -> None:
    volume = PosixVolume(tmp_path)
    write_file(volume, "d/a", b"1")
    volume.link("d/a", "d/b")
    volume.replace("d/b", "d/c")
    volume.sync_directory("d")
    volume.refresh("d")
    assert sorted(entry.name for entry in volume.list("d")) == ["a", "c"]
    assert read_file(volume, "d/a") == b"1"
    volume.stat("d/a")
    volume.space()
    volume.unlink("d/a")
    with pytest.raises(NotFound):
        volume.open("d/a")
    with pytest.raises(Conflict):
        volume.create("d/c")
    assert open_below(tmp_path) == []


def test_files_that_are_dropped_are_closed(tmp_path: Path) -> None:
    volume = PosixVolume(tmp_path)
    write_file(volume, "a", b"1")
    written, read = volume.create("b"), volume.open("a")
    assert len(open_below(tmp_path)) == 2
    del written, read
    gc.collect()
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_only_a_filesystem_that_syncs_no_directory_may_refuse_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refusing(fd: int) -> None:
        raise OSError(refusal, os.strerror(refusal))

    volume = PosixVolume(tmp_path)
    volume.make_directory("d")
    monkeypatch.setattr(os, "fsync", refusing)
    if refusal == errno.EIO:
        with pytest.raises(VolumeFailed):
            volume.sync_directory("d")
    else:
        volume.sync_directory("d")
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("refusal", [None, errno.EPERM, errno.EIO])
def test_a_shared_directory_is_touched_until_its_time_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None
) -> None:
    touched: list[int] = []

    def stat(fd: int) -> SimpleNamespace:
        return SimpleNamespace(st_dev=os.makedev(0, 41), st_ctime_ns=7 + (len(touched) >= 3))

    def touch(fd: int) -> None:
        touched.append(fd)
        if refusal is not None:
            raise OSError(refusal, os.strerror(refusal))

    ticks = count()
    monkeypatch.setattr(directories, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 1e3))
    monkeypatch.setattr(os, "fstat", stat)
    monkeypatch.setattr(os, "utime", touch)
    volume = PosixVolume(tmp_path)
    if refusal == errno.EIO:
        with pytest.raises(VolumeFailed):
            volume.sync_directory("")
    else:
        volume.sync_directory("")
    assert len(touched) == (3 if refusal is None else 1)


def test_a_time_that_never_moves_is_waited_for_no_longer_than_a_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([0.0, 0.01, 0.04, 0.06])
    touched: list[int] = []

    def touch(fd: int) -> None:
        touched.append(fd)
        assert len(touched) < 100

    still = SimpleNamespace(st_dev=os.makedev(0, 41), st_ctime_ns=7)
    monkeypatch.setattr(directories, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(os, "fstat", lambda fd: still)
    monkeypatch.setattr(os, "utime", touch)
    PosixVolume(tmp_path).sync_directory("")
    assert len(touched) == 2
