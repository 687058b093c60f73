"""Every error lakefeed raises, in one tree.

    LakefeedError
    ├── NotFound          (FileNotFoundError)  no such file, tag, snapshot or lake
    │   └── SnapshotExpired                    the snapshot's packs were garbage collected
    ├── Corrupt           (ValueError)         bytes on the volume are not what was written
    ├── Conflict                               somebody else committed first, or it exists already
    ├── Invalid           (ValueError)         the caller asked for something that cannot be
    └── VolumeFailed      (OSError)            the volume refused or lost a call

Each kind knows its `errno` (for FUSE), its `exit_code` (for the command line) and whether the same
call may succeed when repeated (`retryable`). A message is a small report: the object, what was
expected, what was found, what to do next. The same facts are attributes, so tests assert fields.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_CONFLICT = 4
EXIT_CORRUPT = 5
EXIT_VOLUME = 6


class LakefeedError(Exception):
    """The root of the tree; `subject` names the object that the error is about."""

    exit_code = EXIT_BUG
    retryable = False
    default_errno = _errno.EIO
    errno: int | None  # declared as OSError declares it, which some kinds are as well

    def __init__(
        self,
        subject: str,
        *,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
        errno: int | None = None,
    ) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found
        self.hint = hint
        text = _report(subject, expected, found, hint)
        super().__init__(text)
        self.text = text
        # OSError owns `errno` as a slot of its own, so it is set after construction for every kind.
        self.errno = errno if errno is not None else self.default_errno

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.text}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries (loader workers); keyword-only fields need this.
        fields = (self.subject, self.expected, self.found, self.hint, self.errno)
        return _rebuild, (type(self), *fields)


def _rebuild(
    kind: type[LakefeedError], subject: str, expected: object, found: object, *rest: Any
) -> LakefeedError:
    hint, errno = rest
    return kind(subject, expected=expected, found=found, hint=hint, errno=errno)


def _report(subject: str, expected: object, found: object, hint: str | None) -> str:
    parts = [subject]
    if expected is not None:
        parts.append(f"expected {expected}")
    if found is not None:
        parts.append(f"found {found}")
    text = ", ".join(parts)
    return f"{text}; {hint}" if hint else text


class NotFound(LakefeedError, FileNotFoundError):
    """No such file, tag, snapshot or lake."""

    exit_code = EXIT_NOT_FOUND
    default_errno = _errno.ENOENT


class SnapshotExpired(NotFound):
    """The snapshot existed, but garbage collection has removed what it needs."""

    default_errno = _errno.ESTALE


class Corrupt(LakefeedError, ValueError):
    """Bytes on the volume are not the bytes that were written."""

    exit_code = EXIT_CORRUPT


class Conflict(LakefeedError):
    """Somebody else was first: the name exists, or the input of this change went away."""

    exit_code = EXIT_CONFLICT
    retryable = True
    default_errno = _errno.EEXIST


class Invalid(LakefeedError, ValueError):
    """The request itself is wrong; repeating it cannot help."""

    exit_code = EXIT_USAGE
    default_errno = _errno.EINVAL


class VolumeFailed(LakefeedError, OSError):
    """The volume refused a call, lost it, or did not answer; `errno` says which."""

    exit_code = EXIT_VOLUME

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        """True where the cause may pass by itself: a stale handle, a time-out, a dropped link."""
        return self.errno in _PASSING


_PASSING = frozenset(
    {
        _errno.ESTALE,
        _errno.ETIMEDOUT,
        _errno.EAGAIN,
        _errno.EINTR,
        _errno.ECONNRESET,
        _errno.ENOTCONN,
        _errno.EIO,
    }
)

_HINTS = {
    _errno.ENOSPC: 'free space on the volume, or inodes ("df -i"), then repeat',
    _errno.EDQUOT: "raise the quota or free space, then repeat",
    _errno.EROFS: "remount the volume read-write",
    _errno.EACCES: "run as the owner of the lake's directory",
    _errno.EPERM: "run as the owner of the lake's directory",
    _errno.EMFILE: 'allow the process more open files ("ulimit -n"), then repeat',
    _errno.ETIMEDOUT: "check that the file server answers, then repeat",
    _errno.ESTALE: "reopen the snapshot, then repeat",
}
# What file systems without hard links say to one, and those that allow a file no second name.
_NO_LINKS = frozenset({_errno.EPERM, _errno.EOPNOTSUPP, _errno.ENOSYS, _errno.EMLINK})
# Of these the hints hold for paths outside of a lake as well.
_ANYWHERE = frozenset({_errno.ENOSPC, _errno.EDQUOT, _errno.EROFS, _errno.EMFILE, _errno.ETIMEDOUT})


def from_os_error(error: OSError, subject: str) -> LakefeedError:
    """Return the lakefeed error for what the operating system said about `subject`."""
    number = error.errno or _errno.EIO
    reason = os.strerror(number)
    if number == _errno.ENOENT:
        return NotFound(subject, found=reason.lower())
    if number == _errno.EEXIST:
        return Conflict(subject, found="a file of that name already")
    hint = _HINTS.get(number)
    return VolumeFailed(subject, found=reason.lower(), hint=hint, errno=number)


def from_link_error(error: OSError, subject: str) -> LakefeedError:
    """Return what `from_os_error` does for a hard link, which not every file system has."""
    failure = from_os_error(error, subject)
    if failure.errno not in _NO_LINKS:
        return failure
    hint = "ext4, XFS, ZFS and NFS have them; FAT, most SMB and FUSE mounts do not"
    return VolumeFailed(subject, expected="a file system with hard links", found=failure.found,
                        hint=hint, errno=failure.errno)  # fmt: skip


@contextmanager
def needing(extra: str, module: str) -> Iterator[None]:
    """Say which extra brings the libraries that a module does not find when it is imported."""
    try:
        yield
    except ModuleNotFoundError as error:
        # Of modules that import each other, the one that the caller imported has the word.
        lacking = f"No module named {error.name!r}" if error.name else str(error)
        text = f'{lacking}; {module} needs: pip install "lakefeed[{extra}]"'
        raise ModuleNotFoundError(text, name=error.name) from error


def from_local_error(error: OSError, subject: str) -> LakefeedError:
    """Return what `from_os_error` does for a path that is no part of a lake."""
    failure = from_os_error(error, subject)
    hint = failure.hint if failure.errno in _ANYWHERE else "check the path and its permissions"
    return type(failure)(subject, found=failure.found, hint=hint, errno=failure.errno)
