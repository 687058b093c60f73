"""Every call does on the mount what it does on a plain directory: same result, same errno.

Each case is a small script of calls, run in a fresh directory of the mount and in one beside it on
the local file system; the outcomes (results, errnos, and the tree left behind) must be equal. What
differs on purpose is in GAPS with the outcome of the mount; docs/MOUNT.md lists them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from tests.fuse.tools import Mounted, needs_fuse, new_mount

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]

_libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
_numbers = count()


def renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "")


def touch(path: Path, data: bytes = b"data") -> None:
    path.write_bytes(data)


def opened(path: Path, flags: int, mode: int = 0o644) -> int:
    handle = os.open(path, flags, mode)
    os.close(handle)
    return 0


Script = Callable[[Path], Iterator[Callable[[], Any]]]
CASES: dict[str, Script] = {}


def case(script: Script) -> Script:
    CASES[script.__name__] = script
    return script


@case
def create(d: Path) -> Iterator[Callable[[], Any]]:
    yield lambda: opened(d / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    yield lambda: opened(d / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    yield lambda: opened(d / "missing" / "f", os.O_CREAT | os.O_WRONLY)
    yield lambda: opened(d / "f" / "x", os.O_CREAT | os.O_WRONLY)
    yield lambda: opened(d / ("n" * 256), os.O_CREAT | os.O_WRONLY)
    yield lambda: opened(d / ("n" * 255), os.O_CREAT | os.O_WRONLY)
    yield lambda: opened(d / "ü ß\n*", os.O_CREAT | os.O_WRONLY)
    yield lambda: opened(d, os.O_WRONLY)
    yield lambda: opened(d / "f", os.O_RDONLY | os.O_DIRECTORY)
    yield lambda: stat.S_IMODE(os.stat(d / "f").st_mode)
    yield lambda: opened(d / "private", os.O_CREAT | os.O_WRONLY, 0o600)
    yield lambda: stat.S_IMODE(os.stat(d / "private").st_mode)


@case
def write(d: Path) -> Iterator[Callable[[], Any]]:
    handle = os.open(d / "f", os.O_RDWR | os.O_CREAT)
    yield lambda: os.pwrite(handle, b"abc", 0)
    yield lambda: os.pwrite(handle, b"xyz", 10)
    yield lambda: os.pread(handle, 100, 0)
    yield lambda: os.fstat(handle).st_size
    yield lambda: os.ftruncate(handle, 4)
    yield lambda: os.pread(handle, 100, 0)
    yield lambda: os.ftruncate(handle, 8)
    yield lambda: os.pread(handle, 100, 0)
    yield lambda: os.pread(handle, 10, 100)
    yield lambda: os.pwrite(handle, b"", 50)
    yield lambda: os.fstat(handle).st_size
    yield lambda: os.lseek(handle, 0, os.SEEK_END)
    yield lambda: os.fsync(handle)
    yield lambda: os.fdatasync(handle)
    os.close(handle)
    reading = os.open(d / "f", os.O_RDONLY)
    yield lambda: os.write(reading, b"no")
    yield lambda: os.ftruncate(reading, 0)
    os.close(reading)
    yield lambda: (d / "f").read_bytes()


@case
def append(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f", b"one")
    one = os.open(d / "f", os.O_WRONLY | os.O_APPEND)
    other = os.open(d / "f", os.O_WRONLY | os.O_APPEND)
    yield lambda: os.write(one, b"two")
    yield lambda: os.write(other, b"three")
    yield lambda: os.write(one, b"four")
    os.close(one)
    os.close(other)
    yield lambda: (d / "f").read_bytes()
    yield lambda: opened(d / "f", os.O_WRONLY | os.O_TRUNC)
    yield lambda: os.stat(d / "f").st_size


@case
def truncate(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f", bytes(range(256)) * 40)
    yield lambda: os.truncate(d / "f", 5000)
    yield lambda: (d / "f").read_bytes()
    yield lambda: os.truncate(d / "f", 3_000_000)
    yield lambda: (d / "f").read_bytes()
    yield lambda: os.truncate(d / "f", 0)
    yield lambda: os.truncate(d / "missing", 0)
    yield lambda: os.truncate(d, 0)
    yield lambda: os.truncate(d / "f", -1)


@case
def unlink(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f")
    handle = os.open(d / "f", os.O_RDWR)
    yield lambda: os.unlink(d / "f")
    yield lambda: os.unlink(d / "f")
    yield lambda: os.pread(handle, 100, 0)
    yield lambda: os.pwrite(handle, b"still", 2)
    yield lambda: os.pread(handle, 100, 0)
    yield lambda: os.fstat(handle).st_nlink
    yield lambda: os.fsync(handle)
    touch(d / "f", b"another")
    yield lambda: os.pread(handle, 100, 0)
    os.close(handle)
    (d / "dir").mkdir()
    yield lambda: os.unlink(d / "dir")
    yield lambda: os.unlink(d / "missing")
    yield lambda: os.unlink(d / "f" / "x")


@case
def mkdir_rmdir(d: Path) -> Iterator[Callable[[], Any]]:
    yield lambda: os.mkdir(d / "a", 0o750)
    yield lambda: stat.S_IMODE(os.stat(d / "a").st_mode)
    yield lambda: os.mkdir(d / "a")
    yield lambda: os.mkdir(d / "x" / "y")
    touch(d / "a" / "f")
    yield lambda: os.rmdir(d / "a")
    yield lambda: os.unlink(d / "a" / "f")
    yield lambda: os.listdir(d / "a")
    yield lambda: os.rmdir(d / "a")
    yield lambda: os.rmdir(d / "a")
    touch(d / "f")
    yield lambda: os.rmdir(d / "f")
    yield lambda: os.mkdir(d / "f")
    yield lambda: os.mkdir(d / "f" / "x")
    yield lambda: os.rmdir(d / "missing")


@case
def rename_files(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "a", b"A")
    touch(d / "b", b"B")
    (d / "dir").mkdir()
    yield lambda: os.rename(d / "a", d / "c")
    yield lambda: os.rename(d / "a", d / "z")
    yield lambda: os.rename(d / "c", d / "b")
    yield lambda: (d / "b").read_bytes()
    yield lambda: os.rename(d / "b", d / "b")
    yield lambda: os.rename(d / "b", d / "dir")
    yield lambda: os.rename(d / "b", d / "dir" / "b")
    yield lambda: os.rename(d / "dir" / "b", d / "none" / "b")
    yield lambda: (d / "dir" / "b").read_bytes()
    touch(d / "new", b"N")
    yield lambda: renameat2(d / "new", d / "dir" / "b", NOREPLACE)
    yield lambda: renameat2(d / "new", d / "free", NOREPLACE)
    yield lambda: renameat2(d / "free", d / "dir" / "b", EXCHANGE)
    yield lambda: ((d / "free").read_bytes(), (d / "dir" / "b").read_bytes())
    yield lambda: renameat2(d / "free", d / "none", EXCHANGE)


@case
def rename_directories(d: Path) -> Iterator[Callable[[], Any]]:
    (d / "a" / "deep").mkdir(parents=True)
    touch(d / "a" / "deep" / "f", b"deep")
    touch(d / "file")
    (d / "empty").mkdir()
    (d / "full").mkdir()
    touch(d / "full" / "f")
    yield lambda: os.rename(d / "a", d / "file")
    yield lambda: os.rename(d / "a", d / "full")
    yield lambda: os.rename(d / "a", d / "a" / "deep" / "self")
    yield lambda: os.rename(d / "a", d / "empty")
    yield lambda: (d / "empty" / "deep" / "f").read_bytes()
    os.sync()
    handle = os.open(d, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    held = os.open(d / "empty" / "deep" / "f", os.O_RDONLY)
    yield lambda: os.rename(d / "empty", d / "b")
    yield lambda: os.pread(held, 10, 0)
    os.close(held)
    yield lambda: sorted(os.listdir(d))
    yield lambda: (d / "b" / "deep" / "f").read_bytes()
    yield lambda: os.rename(d / "b" / "deep", d / "up")
    yield lambda: sorted(os.listdir(d / "b"))
    yield lambda: (d / "up" / "f").read_bytes()
    touch(d / "up" / "g", b"new")
    yield lambda: os.rename(d / "up", d / "b" / "down")
    yield lambda: (d / "b" / "down" / "g").read_bytes()
    yield lambda: os.rename(d / "missing", d / "m")


@case
def links(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f")
    yield lambda: os.symlink("f", d / "l")
    yield lambda: os.readlink(d / "l")
    yield lambda: (d / "l").read_bytes()
    yield lambda: os.lstat(d / "l").st_size
    yield lambda: os.symlink("f", d / "l")
    yield lambda: os.symlink("../no/where", d / "broken")
    yield lambda: os.stat(d / "broken")
    yield lambda: os.readlink(d / "broken")
    yield lambda: os.readlink(d / "f")
    yield lambda: os.symlink("loop", d / "loop")
    yield lambda: opened(d / "loop", os.O_RDONLY)
    yield lambda: os.rename(d / "l", d / "m")
    yield lambda: os.readlink(d / "m")
    yield lambda: os.unlink(d / "m")
    yield lambda: (d / "f").exists()


@case
def modes_and_times(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f")
    (d / "dir").mkdir()
    yield lambda: os.chmod(d / "f", 0o640)
    yield lambda: oct(os.stat(d / "f").st_mode)
    yield lambda: os.chmod(d / "dir", 0o1777)
    yield lambda: oct(os.stat(d / "dir").st_mode)
    yield lambda: os.utime(d / "f", ns=(1, 1_234_567_890_123_456_789))
    yield lambda: os.stat(d / "f").st_mtime_ns
    yield lambda: os.utime(d / "dir", ns=(1, 5))
    yield lambda: os.stat(d / "dir").st_mtime_ns
    yield lambda: os.chmod(d / "missing", 0o600)
    yield lambda: os.utime(d / "missing")
    yield lambda: os.chown(d / "f", 0, 0)
    before = os.stat(d / "f").st_ctime_ns
    os.chmod(d / "f", 0o600)
    yield lambda: os.stat(d / "f").st_ctime_ns > before
    past = os.stat(d / "dir").st_mtime_ns
    touch(d / "dir" / "x")
    yield lambda: os.stat(d / "dir").st_mtime_ns > past
    yield lambda: os.stat(d / "dir").st_ctime_ns >= os.stat(d / "dir").st_mtime_ns
    os.chmod(d, 0o755)
    os.rename(d / "dir", d / "moved")
    os.chmod(d / "moved", 0o2750)
    os.mkdir(d / "moved" / "sub")
    yield lambda: oct(os.stat(d / "moved" / "sub").st_mode)
    yield lambda: os.stat(d).st_ctime_ns >= os.stat(d).st_mtime_ns


@case
def xattrs(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f")
    yield lambda: os.setxattr(d / "f", "user.label", b"cat")
    yield lambda: os.getxattr(d / "f", "user.label")
    yield lambda: os.setxattr(d / "f", "user.raw", bytes(range(256)))
    yield lambda: os.getxattr(d / "f", "user.raw")
    yield lambda: os.setxattr(d / "f", "user.raw", b"x", os.XATTR_CREATE)
    yield lambda: os.setxattr(d / "f", "user.none", b"x", os.XATTR_REPLACE)
    yield lambda: os.setxattr(d / "f", "user.empty", b"")
    yield lambda: os.getxattr(d / "f", "user.empty")
    yield lambda: os.removexattr(d / "f", "user.raw")
    yield lambda: os.removexattr(d / "f", "user.raw")
    yield lambda: os.getxattr(d / "f", "user.raw")
    yield lambda: sorted(n for n in os.listxattr(d / "f") if "lakefeed" not in n)
    yield lambda: os.setxattr(d / "missing", "user.x", b"")
    yield lambda: os.setxattr(d, "user.dir", b"yes")
    yield lambda: os.getxattr(d, "user.dir")


@case
def hard_links(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f")
    yield lambda: os.link(d / "f", d / "g")


@case
def special_files(d: Path) -> Iterator[Callable[[], Any]]:
    yield lambda: os.mkfifo(d / "pipe")
    yield lambda: os.mknod(d / "plain", 0o644 | stat.S_IFREG)
    yield lambda: os.stat(d / "plain").st_size
    yield lambda: os.mknod(d / "null", 0o644 | stat.S_IFCHR, os.makedev(1, 3))


@case
def owners(d: Path) -> Iterator[Callable[[], Any]]:
    touch(d / "f")
    yield lambda: os.chown(d / "f", 1234, 1234)


@case
def names_that_are_not_text(d: Path) -> Iterator[Callable[[], Any]]:
    yield lambda: opened(Path(os.fsdecode(bytes(d) + b"/\xff")), os.O_CREAT | os.O_WRONLY)


@case
def reserved_room(d: Path) -> Iterator[Callable[[], Any]]:
    handle = os.open(d / "f", os.O_RDWR | os.O_CREAT)
    yield lambda: os.posix_fallocate(handle, 0, 100)
    yield lambda: _libc.fallocate(handle, 3, ctypes.c_long(0), ctypes.c_long(10))
    os.close(handle)


# What a lake does differently: the case, the number of its step, and the outcome on the mount.
GAPS: dict[tuple[str, int], object] = {
    ("hard_links", 0): errno.EPERM,
    ("special_files", 0): errno.EPERM,
    ("special_files", 3): errno.EPERM,
    ("owners", 0): errno.EPERM,
    ("names_that_are_not_text", 0): errno.EILSEQ,
    ("reserved_room", 1): ("result", -1),
}


def outcomes(script: Script, directory: Path) -> list[object]:
    found: list[object] = []
    for step in script(directory):
        try:
            found.append(("result", step()))
        except OSError as error:
            found.append(error.errno)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with new_mount(tmp_path_factory.mktemp("calls")) as here:
        yield here


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("committed", [False, True], ids=["at once", "after commits"])
def test_calls_end_as_on_a_plain_directory(
    shared: Mounted, tmp_path: Path, name: str, committed: bool
) -> None:
    here = shared.path / f"{name}{next(_numbers)}"
    there = tmp_path / "plain"
    here.mkdir()
    there.mkdir()

    def stepping(directory: Path) -> Iterator[Callable[[], Any]]:
        for step in CASES[name](directory):
            if committed:
                shared.sync()
            yield step

    found = outcomes(stepping, here)
    expected = outcomes(CASES[name], there)
    for (case_name, at), outcome in GAPS.items():
        if case_name == name:
            assert expected[at] != outcome, "no gap any more"
            expected[at] = outcome
    assert found == expected


def test_reserved_names_and_attributes_are_refused(shared: Mounted) -> None:
    (shared.path / "plain").write_bytes(b"x")
    with pytest.raises(OSError) as refused:
        os.setxattr(shared.path / "plain", "user.lakefeed.crc32c", b"no")
    assert refused.value.errno == errno.EPERM
    with pytest.raises(OSError) as refused:
        os.setxattr(shared.path / "plain", "trusted.x", b"no")
    assert refused.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError) as refused:
        (shared.path / ".snapshots").mkdir()
    assert refused.value.errno == errno.EEXIST


@pytest.mark.parametrize("seconds", [10_000_000_000, -10_000_000_000])
def test_a_time_that_no_lake_can_hold_becomes_the_nearest_and_stops_no_commit(
    shared: Mounted, seconds: int
) -> None:
    path = shared.path / f"time{seconds}"
    path.write_bytes(b"x")
    os.utime(path, (0, seconds))
    shared.sync()
    nearest = (1 << 63) - 1 if seconds > 0 else -(1 << 63)
    assert os.stat(path).st_mtime_ns == nearest
    with Lake.open(shared.lake) as lake:
        assert lake.snapshot().stat(path.name).mtime_ns == nearest
