"""A volume on a mounted filesystem: NFS, a CSI volume, or a local disk.

Every call that can block releases the interpreter lock, so a thread pool reaches the volume's full
speed. Names are made relative to a root path; the process never changes its working directory.

Keeps V1 to V7 of `volume.base`, on NFS with the rules of nfs(5): opening revalidates (V5), opening
the *directory* drops its cached misses (`refresh`) once its time stamp has moved (`sync_directory`
sees to that), `link(2)` is the one create-if-absent that shows a complete file (V3), `close` is
checked because write errors may surface only there.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections.abc import Iterator, Sequence
from pathlib import Path

from lakefeed.errors import LakefeedError, VolumeFailed, from_link_error, from_os_error
from lakefeed.volume.advice import advice_bytes, cached_share
from lakefeed.volume.base import FileStat, Listed, Space
from lakefeed.volume.descriptor import Descriptor, file_stat
from lakefeed.volume.directories import sync_directory
from lakefeed.volume.lists import QUEUES, ReadList
from lakefeed.volume.pieces import IOV_MAX, preadv, total_bytes
from lakefeed.volume.posix_writing import PosixWritableFile

_READING = os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC


class PosixReadableFile(Descriptor):
    """A descriptor read by position only, so threads share it without a lock."""

    def __init__(self, fd: int, path: str, info: os.stat_result) -> None:
        super().__init__(fd, path)
        self._size = info.st_size
        self._device = info.st_dev

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    def fileno(self) -> int:
        """Return the descriptor, for callers that read many extents in a tight loop."""
        return self._fd

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        try:
            data = os.pread(self._fd, length, offset)  # inline: this is the hot path of every read
        except OSError as error:
            raise self._failed(error, offset) from error
        return data if len(data) == length else self._read_rest(data, offset, length)

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._failed(error, offset) from error

    def _read_rest(self, data: bytes, offset: int, length: int) -> bytes:
        # Linux moves at most 0x7ffff000 bytes a call, so big payloads arrive in pieces.
        parts = [data]
        have = len(data)
        while have < length:
            part = self._pread(length - have, offset + have)
            if not part:
                raise self._short(offset, length, have)
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""
        if offset < 0:
            # preadv2, which the C library may take, reads at the file's own position for -1.
            raise self._failed(OSError(errno.EINVAL, ""), offset)
        if len(buffers) == 1:
            # One buffer that is filled at once is the usual case: no list is walked.
            try:
                done = os.preadv(self._fd, buffers, offset)
            except OSError as error:
                raise self._failed(error, offset) from error
            if done == buffers[0].nbytes:
                return done
        total = 0
        for first in range(0, len(buffers), IOV_MAX):
            total += self._fill(offset + total, buffers[first : first + IOV_MAX])
        return total

    def _fill(self, offset: int, buffers: Sequence[memoryview]) -> int:
        wanted = total_bytes(buffers)
        have, pending = 0, buffers
        while have < wanted:
            try:
                done = preadv(self._fd, pending, offset + have)
            except OSError as error:
                raise self._failed(error, offset + have) from error
            if not done:
                raise self._short(offset, wanted, have)
            have += done
            if have < wanted:
                pending = _skip(pending, done)
        return have

    def read_list(self, reads: ReadList, start: int, end: int) -> None:
        """Do reads [start, end), each wholly, many of them with one call."""
        reads.aim(self._fd, start, end)
        while start < end:
            start += QUEUES.read(reads, start, end)
            if start < end:
                self.read_into(*reads.one(start))
                start += 1

    @property
    def descriptor(self) -> int:
        """The kernel alone reads; -1 once closed."""
        return self._fd

    @property
    def counted(self) -> bool:
        """Whether the kernel counts what it fetches for a thread: from disks it does, always."""
        return os.major(self._device) != 0

    def cached_share(self, ranges: Sequence[tuple[int, int]]) -> float | None:
        """Return which share of these bytes the kernel's page cache holds, where it tells."""
        return cached_share(self._fd, ranges)

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Have the kernel fetch these ranges into its page cache, all at the same time (V8)."""
        step, fd, advise = advice_bytes(self._device), self._fd, os.posix_fadvise
        if not step:
            return False
        try:
            for offset, length in ranges:
                end = min(offset + length, self._size)
                while offset < end:
                    advise(fd, offset, min(step, end - offset), os.POSIX_FADV_WILLNEED)
                    offset += step
        except OSError:
            return False  # whoever reads hears what is wrong
        return True

    def distrust(self, _offset: int, _length: int) -> bool:
        """What the kernel keeps it answers for: there is nothing to forget."""
        return False

    def _failed(self, error: OSError, offset: int) -> LakefeedError:
        return from_os_error(error, f"read of {self._path} at {offset}")

    def _short(self, offset: int, wanted: int, have: int) -> VolumeFailed:
        return VolumeFailed(
            f"read of {self._path} at {offset}",
            expected=f"{wanted} bytes",
            found=f"{have} bytes and the end of the file",
            hint='run "lakefeed fsck"',
        )


class PosixVolume:
    """The tree below one directory of the mounted filesystem.

    `root_mode` is that of the directory itself, less the umask, where it has to be made.
    """

    def __init__(self, root: str | os.PathLike[str], *, root_mode: int = 0o777) -> None:
        self._root = os.path.abspath(os.fspath(root))
        self._root_mode = root_mode

    @property
    def name(self) -> str:
        """The absolute path of the root."""
        return self._root

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def create(self, path: str) -> PosixWritableFile:
        """Create a new file, its parent directories included."""
        full = self._path(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                fd = os.open(full, flags, 0o644)
            except FileNotFoundError:
                self.make_directory(os.path.dirname(path))
                fd = os.open(full, flags, 0o644)
        except OSError as error:
            raise from_os_error(error, f"create {full}") from error
        return PosixWritableFile(fd, full)

    def open(self, path: str) -> PosixReadableFile:
        """Open a file for reading; a handle gone stale during the look-up is looked up again.

        A link is followed in the root alone: the file of a federation is there, whose name its
        user gave. Below, it would show whoever reads the volume any file of whoever serves it.
        """
        full = self._path(path)
        flags = _READING | os.O_NOFOLLOW if "/" in path else _READING
        try:
            try:
                fd, info = _open_for_reading(full, flags)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                self.refresh(os.path.dirname(path))
                fd, info = _open_for_reading(full, flags)
        except OSError as error:
            if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
                raise _irregular(full, "a symbolic link") from error
            raise from_os_error(error, full) from error
        if not stat_module.S_ISREG(info.st_mode):
            os.close(fd)
            raise _irregular(full, "something else")
        return PosixReadableFile(fd, full, info)

    def stat(self, path: str) -> FileStat:
        """Return the facts of a file."""
        full = self._path(path)
        try:
            return file_stat(os.stat(full))
        except OSError as error:
            raise from_os_error(error, full) from error

    def link(self, source: str, target: str) -> None:
        """Give a complete file its published name."""
        try:
            os.link(self._path(source), self._path(target))
        except OSError as error:
            raise from_link_error(error, f"link {self._path(target)}") from error

    def replace(self, source: str, target: str) -> None:
        """Rename over the target."""
        try:
            os.replace(self._path(source), self._path(target))
        except OSError as error:
            raise from_os_error(error, f"rename to {self._path(target)}") from error

    def unlink(self, path: str) -> None:
        """Remove a name."""
        try:
            os.unlink(self._path(path))
        except OSError as error:
            raise from_os_error(error, f"unlink {self._path(path)}") from error

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory; what NFS leaves of deleted open files is skipped."""
        full = self._path(directory)
        try:
            with os.scandir(full) as entries:
                for entry in entries:
                    if not entry.name.startswith(".nfs"):
                        yield Listed(entry.name, entry.is_dir(follow_symlinks=False))
        except OSError as error:
            raise from_os_error(error, full) from error

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents, and make their names durable."""
        full = self._path(path)
        missing: list[str] = []
        parent = full
        while not os.path.isdir(parent) and len(missing) < 64:
            missing.append(parent)
            parent = os.path.dirname(parent)
        try:
            for directory in reversed(missing):
                Path(directory).mkdir(self._root_mode if directory == self._root else 0o777,
                                      exist_ok=True)  # fmt: skip
                sync_directory(os.path.dirname(directory))
        except OSError as error:
            raise from_os_error(error, f"mkdir {full}") from error

    def sync_directory(self, path: str) -> None:
        """Flush a directory (ext4 and xfs need it), and let other clients see its new names."""
        try:
            sync_directory(self._path(path), shared=True)
        except OSError as error:
            raise from_os_error(error, f"fsync of {self._path(path)}") from error

    def refresh(self, directory: str) -> None:
        """Open and close the directory: NFS then revalidates it and drops cached misses."""
        full = self._path(directory)
        try:
            os.close(os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise from_os_error(error, full) from error

    def space(self) -> Space:
        """Return the room that statvfs reports for this user."""
        try:
            info = os.statvfs(self._root)
        except OSError as error:
            raise from_os_error(error, self._root) from error
        return Space(info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize)


def _open_for_reading(full: str, flags: int) -> tuple[int, os.stat_result]:
    """Return a descriptor and its facts, without waiting for a pipe's other end."""
    try:
        fd = os.open(full, flags | os.O_NONBLOCK)
    except BlockingIOError:  # a lease, which only regular files have, is being called back
        fd = os.open(full, flags)
    try:
        os.set_blocking(fd, True)  # some file systems serve those that would not wait otherwise
        return fd, os.fstat(fd)
    except OSError:
        os.close(fd)
        raise


def _irregular(full: str, found: str) -> VolumeFailed:
    return VolumeFailed(full, expected="a regular file", found=found)


def _skip(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    rest = []
    for buffer in buffers:
        if count >= buffer.nbytes:
            count -= buffer.nbytes
        else:
            rest.append(buffer[count:])
            count = 0
    return rest
