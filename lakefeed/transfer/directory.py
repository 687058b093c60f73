"""A directory tree as the target of an export: parents, modes, times and symlinks as they were.

Each file is written beside its place and renamed into it, so a name never shows half a file, and an
export that was stopped is continued by running it again: what has the same size, time and mode is
left alone. So a file gets its time only once its bytes are durable: a power cut may leave its size
without them. Directories are opened one component at a time without following symlinks, so whatever
links the target or the lake holds, nothing is written outside the target. Directories get their
mode and time last, because filling them changes both.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from lakefeed.errors import Corrupt, LakefeedError, from_local_error
from lakefeed.format.rows import Kind, Row
from lakefeed.transfer.exporting import Refuse, Refused, Rows
from lakefeed.transfer.leftovers import remove_leftovers

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNFINISHED = re.compile(r"\.lakefeed-[0-9a-f]{32}")
# So many files are synced one by one: who brings a few need not wait for all that is to be written
# on this disk. The others are together, at most so many or so big; they are what an export that is
# killed repeats.
_SINGLY = 16
_TOGETHER_FILES, _TOGETHER_BYTES = 1000, 256 << 20
# Errors of one name. Others (no space, read-only, a broken disk) would hit every file.
_OF_ONE_NAME = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.ENAMETOOLONG: "the name is too long here",
    errno.EINVAL: "the name is not allowed here",
    errno.EILSEQ: "the name is not allowed here",
    errno.EISDIR: "there is a directory of that name",
    errno.ENOTEMPTY: "there is a directory of that name",
    errno.EEXIST: "there is something of that name",
    errno.ENOTDIR: "something above it is no directory",
    errno.ELOOP: "something above it is a symbolic link",
}


class DirectoryTarget:
    """Writes below `root`, which is made if it is missing. Holds a few open directories."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(os.fspath(root))
        self._open: list[tuple[str, int]] = []
        self._looked: set[int] = set()  # open directories without what killed exports left
        self._refused: set[str] = set()
        self._synced = 0  # files, one by one
        # Files that are not known to be durable: directory, name, and the time they are to get.
        self._fresh: list[tuple[str, str, int]] = []
        self._fresh_bytes = 0

    def wants(self, row: Row, name: str) -> bool:
        """Tell whether a file is not there yet as it is in the lake; directories are looked at."""
        if row.kind is Kind.DIR:
            return True
        with self._failing(name):
            directory, _, last = name.rpartition("/")
            try:
                parent = self._enter(directory)
                info = os.stat(last, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return True
            if stat.S_ISDIR(info.st_mode):
                raise IsADirectoryError(errno.EISDIR, "")
            if (info.st_size, info.st_mtime_ns) != (row.size, row.mtime_ns):
                return True
            if row.kind is Kind.SYMLINK:
                return not stat.S_ISLNK(info.st_mode)
            here = stat.S_IMODE(info.st_mode)
            return not stat.S_ISREG(info.st_mode) or here != stat.S_IMODE(row.mode)

    def put(self, row: Row, name: str, pieces: Iterable[bytes]) -> None:
        """Store one file, symlink or directory."""
        if len(self._fresh) >= _TOGETHER_FILES or self._fresh_bytes >= _TOGETHER_BYTES:
            self._settle()
        with self._failing(name):
            if row.kind is Kind.DIR:
                self._refused.add(name)  # unless it can be entered
                fd = self._enter(name)
                self._refused.discard(name)
                if name:
                    _open_up(fd)
                return
            directory, _, last = name.rpartition("/")
            parent = self._enter(directory)
            _check_name(last, parent)
            tmp = f".lakefeed-{uuid.uuid4().hex}"  # as _UNFINISHED has it
            try:
                if row.kind is Kind.SYMLINK:
                    _make_symlink(tmp, parent, row, b"".join(pieces))
                else:
                    _make_file(tmp, parent, row, pieces, is_synced=self._synced < _SINGLY)
                os.rename(tmp, last, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(tmp, dir_fd=parent)
                raise
            if row.kind is Kind.FILE:
                self._note(row, directory, last)
                self._remove_left(last, parent)

    def _remove_left(self, last: str, parent: int) -> None:
        """Remove from a directory, once, what exports that were killed have left there."""
        if parent not in self._looked:
            self._looked.add(parent)
            with suppress(FileNotFoundError, PermissionError):
                now_ns = os.stat(last, dir_fd=parent, follow_symlinks=False).st_ctime_ns
                remove_leftovers(parent, _UNFINISHED, now_ns)

    def _note(self, row: Row, directory: str, last: str) -> None:
        if self._synced < _SINGLY:
            self._synced += 1
        else:
            self._fresh.append((directory, last, row.mtime_ns))
            self._fresh_bytes += row.size

    def _settle(self) -> None:
        """Make all files durable, and give those their times that have none yet."""
        # If it fails, they are never trusted: a second try would not be told of the loss.
        fresh, self._fresh, self._fresh_bytes = self._fresh, [], 0
        if not fresh:
            return
        with self._failing(""):
            # No directory is left for this: one that is entered anew is listed anew.
            _sync_all(self._open[0][1])
        for directory, last, time_ns in fresh:
            # What somebody else took away meanwhile needs no time.
            with suppress(Refused), self._failing(last), suppress(FileNotFoundError):
                parent = self._enter(directory)
                os.utime(last, ns=(time_ns, time_ns), dir_fd=parent, follow_symlinks=False)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """Tell apart what hits one name, what a reader found, and what ends the export."""
        try:
            yield
        except Corrupt as error:
            raise Refused(error.text) from error
        except LakefeedError:
            raise  # of the lake that is read, not of this directory
        except OSError as error:
            reason = _OF_ONE_NAME.get(error.errno or 0)
            if reason is not None:
                raise Refused(reason) from error
            raise from_local_error(error, f"write {self._root}/{name}") from error

    def _enter(self, directory: str) -> int:
        """Return an open descriptor of a directory below the root, made if missing."""
        if not self._open:
            os.makedirs(self._root, exist_ok=True)
            self._open.append(("", os.open(self._root, _DIRECTORY & ~os.O_NOFOLLOW)))
        names = directory.split("/") if directory else []
        same = 0
        while (
            same < min(len(names), len(self._open) - 1) and self._open[same + 1][0] == names[same]
        ):
            same += 1
        self._leave(same + 1)
        for name in names[same:]:
            self._open.append((name, _open_directory(name, self._open[-1][1])))
        return self._open[-1][1]

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            fd = self._open.pop()[1]
            self._looked.discard(fd)
            os.close(fd)

    def finish(self, rows: Rows, refuse: Refuse) -> tuple[str, ...]:
        """Give directories their modes and times; those that lock us out come last."""
        self._settle()
        locked = []
        for row, name in rows():
            # What could not be made was reported then.
            if row.kind is Kind.DIR and name not in self._refused:
                try:
                    self._dress(row, name, row.mode | 0o700)
                except Refused as error:
                    refuse(row, f"its mode and time: {error}")
                    continue
                if row.mode & 0o700 != 0o700:
                    locked.append((row, name))
        for row, name in reversed(locked):
            try:
                self._dress(row, name, row.mode)
            except Refused as error:
                refuse(row, f"its mode and time: {error}")
        self._leave(0)
        return (self._root,)

    def _dress(self, row: Row, name: str, mode: int) -> None:
        with self._failing(name):
            fd = self._enter(name)
            os.fchmod(fd, stat.S_IMODE(mode))
            os.utime(fd, ns=(row.mtime_ns, row.mtime_ns))

    def abandon(self) -> None:
        """Close what is open; complete files stay, others were never there."""
        # Without its time a file is brought again, no more.
        with suppress(LakefeedError, Refused):
            self._settle()
        self._leave(0)


def _open_directory(name: str, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _open_up(directory: int) -> None:
    """Let the owner write into a directory that an earlier run locked, until `finish`."""
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if mode & 0o700 != 0o700:
        with suppress(PermissionError):  # of somebody else, whose mode may let us in
            os.fchmod(directory, mode | 0o700)


def _check_name(name: str, parent: int) -> None:
    """Refuse to take the place of a device, pipe or socket, as renaming would."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise Refused("there is a device, pipe or socket of that name")


def _make_file(
    tmp: str, parent: int, row: Row, pieces: Iterable[bytes], *, is_synced: bool
) -> None:
    """Write a file; one that is not synced has another time than it is to have in the end."""
    fd = os.open(tmp, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.fchmod(fd, stat.S_IMODE(row.mode))
        if is_synced:
            os.fsync(fd)
        os.utime(fd, ns=(row.mtime_ns, row.mtime_ns))
        if not is_synced:
            os.utime(fd)  # now; that it can have its own is known
    finally:
        os.close(fd)


def _sync_all(directory: int) -> None:
    """Make everything durable that was written to the file system of an open directory."""
    try:
        failed = ctypes.CDLL(None, use_errno=True).syncfs(directory)
    except AttributeError:  # macOS
        os.sync()
        return
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _make_symlink(tmp: str, parent: int, row: Row, target: bytes) -> None:
    if not target or b"\0" in target:
        raise Refused("no file system has a symbolic link to what it names")
    os.symlink(target, tmp, dir_fd=parent)
    times = (row.mtime_ns, row.mtime_ns)
    os.utime(tmp, ns=times, dir_fd=parent, follow_symlinks=False)
