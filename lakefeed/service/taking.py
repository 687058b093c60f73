"""Files of an inbox as bytes, and their removal: by names that nobody can bend in between.

A path is opened component by component, without following a link, below the descriptor of the
inbox. A file is read between two looks at its size, time and inode; where they differ from what the
walk saw, it is left for the next walk. It is removed by renaming it to a name of ours first and
looking at it there: if somebody wrote to it meanwhile, it goes back and is taken in again later.
So what was not committed is never removed. Blocking; `inbox` runs it on a bounded pool.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import groupby
from typing import NamedTuple

from lakefeed.errors import LakefeedError, from_os_error
from lakefeed.format.payload import Payload, encode
from lakefeed.service.waiting import Candidate, Left

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
STREAM_BYTES = 4 << 20
# Gone, or a link or directory by now: the next walk says what it is.
_MOVED = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE)


class Taken(NamedTuple):
    """A file as it was read. `payload` is None where it is too big to be held."""

    file: Candidate
    mode: int
    payload: Payload | None


class Moved(Exception):
    """A file is not the one that was seen: it changed, or went away."""


class Unreadable(Moved):
    """A file cannot be read; the text says why."""


def inbox_failed(root: str, error: OSError) -> LakefeedError:
    """Return the error of an inbox that cannot be used."""
    where = os.path.join(root, os.fsdecode(error.filename)) if error.filename else root
    return from_os_error(error, f"inbox {where}")


@contextmanager
def opened(root: str) -> Iterator[int]:
    """Lend a descriptor of the inbox."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def directory_of(root_fd: int, path: str) -> Iterator[int]:
    """Lend a descriptor of the directory that holds `path`, reached without a symbolic link."""
    fd = os.dup(root_fd)
    try:
        for name in path.split("/")[:-1]:
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


@contextmanager
def named_below(directory: str) -> Iterator[None]:
    """Let errors of names in an open directory name them by their paths from the inbox."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, int):  # the open directory itself
            error.filename = directory
        elif error.filename and "/" not in os.fsdecode(error.filename):
            error.filename = os.path.join(directory, os.fsdecode(error.filename))
        raise


@contextmanager
def made_directory(root_fd: int, path: str) -> Iterator[int]:
    """Lend a descriptor of a directory of ours, made with those above it where they are missing.

    Who drops files may have put a link there: it is not followed, NotADirectoryError.
    """
    fd, above = os.dup(root_fd), ""
    try:
        for name in path.split("/"):
            with named_below(above):
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                    below = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd, above = below, os.path.join(above, name)
        yield fd
    finally:
        os.close(fd)


def by_directory(files: Sequence[Candidate]) -> Iterator[tuple[str, list[Candidate]]]:
    """Yield (first path, files) for each directory; `files` are sorted by path."""
    for _, group in groupby(files, lambda file: file.path.rpartition("/")[0]):
        together = list(group)
        yield together[0].path, together


def read_files(
    root: str, files: Sequence[Candidate], big_bytes: int
) -> tuple[list[Taken], list[Left]]:
    """Return the files that are still what was seen, and those that cannot be read.

    Those above `big_bytes` come without their bytes.
    """
    taken: list[Taken] = []
    failed: list[Left] = []
    with opened(root) as root_fd:
        for first, group in by_directory(files):
            try:
                with directory_of(root_fd, first) as fd:
                    for file in group:
                        _read_into(taken, failed, fd, file, big_bytes)
            except OSError as error:
                _note(failed, error, first.rpartition("/")[0])
    return taken, failed


def _read_into(
    taken: list[Taken], failed: list[Left], fd: int, file: Candidate, big_bytes: int
) -> None:
    try:
        taken.append(_read(fd, file, big_bytes))
    except Moved:
        return  # the next walk sees what became of it
    except OSError as error:
        _note(failed, error, file.path)


def _note(failed: list[Left], error: OSError, *paths: str) -> None:
    if error.errno not in _MOVED:
        failed += [Left(path, error.strerror or str(error)) for path in paths]


def _read(directory_fd: int, file: Candidate, big_bytes: int) -> Taken:
    fd = os.open(file.path.rpartition("/")[2], FILE, dir_fd=directory_fd)
    try:
        before = os.fstat(fd)
        if _identity(before) != file.identity:
            raise Moved
        if file.size > big_bytes:
            return Taken(file, before.st_mode & 0o7777, None)
        data = _read_all(fd, file.size)
        if _identity(os.fstat(fd)) != file.identity:
            raise Moved
        return Taken(file, before.st_mode & 0o7777, encode(data))
    finally:
        os.close(fd)


def _read_all(fd: int, size: int) -> bytes:
    # One byte more than promised: a full read then shows that the file has grown.
    data = os.read(fd, size + 1)
    parts = [data]
    have = len(data)
    while have < size and (data := os.read(fd, size + 1 - have)):
        parts.append(data)
        have += len(data)
    if have != size:
        raise Moved
    return parts[0] if len(parts) == 1 else b"".join(parts)


def stream(root_fd: int, file: Candidate, check: Callable[[], None]) -> Iterator[bytes]:
    """Yield a big file piece by piece; Moved if it is not the one that was seen, start to end.

    Not a byte more than was seen, however fast it grows; Unreadable where the inbox refuses.
    """
    try:
        with directory_of(root_fd, file.path) as directory_fd:
            fd = os.open(file.path.rpartition("/")[2], FILE, dir_fd=directory_fd)
        try:
            yield from _pieces(fd, file, check)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _MOVED:
            raise Moved from error
        raise Unreadable(error.strerror or str(error)) from error


def _pieces(fd: int, file: Candidate, check: Callable[[], None]) -> Iterator[bytes]:
    if _identity(os.fstat(fd)) != file.identity:
        raise Moved
    have = 0
    while data := os.read(fd, STREAM_BYTES):
        check()
        have += len(data)
        if have > file.size:
            raise Moved
        yield data
    if have != file.size or _identity(os.fstat(fd)) != file.identity:
        raise Moved


def _identity(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ino


def remove_files(root: str, files: Sequence[Candidate], claims: str, batch: str) -> list[Left]:
    """Remove the files that are still what was committed; return those that cannot be removed.

    `claims` is a directory of ours below the inbox; a claim left there by a crash is named
    `<batch>-<inode>`. It is made if it is missing: who tidies empty directories away takes it, too,
    and a file that has nowhere to go looks like one that is gone.
    """
    failed: list[Left] = []
    with opened(root) as root_fd, made_directory(root_fd, claims) as claims_fd:
        for first, group in by_directory(files):
            try:
                with directory_of(root_fd, first) as fd:
                    for file in group:
                        try:
                            _remove(root_fd, fd, file, claims_fd, f"{batch}-{file.inode}")
                        except OSError as error:
                            _note(failed, error, file.path)
            except OSError as error:
                _note(failed, error, *(file.path for file in group))
    return failed


def _remove(root_fd: int, directory_fd: int, file: Candidate, claims_fd: int, claim: str) -> None:
    name = file.path.rpartition("/")[2]
    try:
        if _identity(os.stat(name, dir_fd=directory_fd, follow_symlinks=False)) != file.identity:
            return
        os.rename(name, claim, src_dir_fd=directory_fd, dst_dir_fd=claims_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A mount of its own inside the inbox: nothing can be renamed out of it.
        os.unlink(name, dir_fd=directory_fd)
        return
    try:
        settle_claim(root_fd, claims_fd, claim, file, directory_fd)
    except OSError as error:
        # Whatever the reason is, the file is not gone: recovery has to look after it.
        raise OSError(errno.EIO, f"it stays as claim {claim}: {error.strerror}") from error


def settle_claim(
    root_fd: int, claims_fd: int, claim: str, file: Candidate, directory_fd: int | None = None
) -> bool:
    """Delete a claimed file if it is what was committed, else put it back; tell which.

    False too if it is gone: another replica, which follows the same record, was faster. It goes
    back into the open directory, whatever that is called by now, or else to its path. OSError if it
    cannot be put back, where its directory went away for instance; the claim is still there.
    """
    try:
        found = _identity(os.stat(claim, dir_fd=claims_fd, follow_symlinks=False))
    except FileNotFoundError:
        return False
    if found == file.identity:
        _drop(claims_fd, claim)
        return True
    home = directory_of(root_fd, file.path) if directory_fd is None else nullcontext(directory_fd)
    with home as fd:
        try:
            os.link(claim, file.path.rpartition("/")[2], src_dir_fd=claims_fd, dst_dir_fd=fd,
                    follow_symlinks=False)  # fmt: skip
        except FileExistsError:
            pass  # its writer has put a newer one there, as it would have done over this one
    _drop(claims_fd, claim)
    return False


def sync_removals(root: str, files: Sequence[Candidate], claims: str) -> None:
    """Let it outlive a power cut that files have left the inbox.

    A record that goes is another directory's change, and a filesystem may keep it alone (btrfs):
    then its files would come back, and be taken in again.
    """
    with opened(root) as root_fd:
        # Claims last: one that went back has its own name first.
        for directory in (*sorted({file.path.rpartition("/")[0] for file in files}), claims):
            _sync_nearest(root_fd, directory)


def _sync_nearest(root_fd: int, directory: str) -> None:
    """Sync a directory, or what is left above it where it went away, too."""
    while True:
        try:
            with directory_of(root_fd, f"{directory}/" if directory else "") as fd:
                os.fsync(fd)
            return
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTSUP):
                return  # names are synchronous there
            if error.errno not in _MOVED or not directory:
                raise
        directory = directory.rpartition("/")[0]


def _drop(claims_fd: int, claim: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(claim, dir_fd=claims_fd)
