"""A directory for a while on a volume that may stop answering meanwhile.

It is made and removed by a process of its own (`apart`), which can be ended where the volume never
answers: a directory that cannot be removed in time is left behind and named, and so is one whose
removal is interrupted.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from lakefeed.bench.apart import Line, run_apart
from lakefeed.bench.probing import NO_DIRECTORY
from lakefeed.errors import LakefeedError, NotFound, VolumeFailed, from_os_error

_log = logging.getLogger(__name__)

# Whoever was interrupted, or has waited for the volume already, is not kept for long again.
_FAILED_SECONDS = 10.0


@contextmanager
def lent(beside: str, prefix: str, timeout_seconds: float) -> Iterator[str]:
    """Lend a new directory in `beside`; it goes at the end, with all that lies in it.

    NotFound if `beside` is no directory, VolumeFailed once a call has taken `timeout_seconds` (0:
    it may for ever). Where the block fails its own error comes out, whatever becomes of the place.
    """
    where = run_apart(partial(_make, beside, prefix), _hear_nothing, timeout_seconds)
    try:
        yield where
    except BaseException:
        try:
            _remove_in_time(where, min(timeout_seconds, _FAILED_SECONDS))
        except LakefeedError as left:
            _log.warning("%s", left.text)
        raise
    _remove_in_time(where, timeout_seconds)


def _hear_nothing(*_: object) -> None:
    """There is nothing to tell."""


def _make(beside: str, prefix: str, line: Line) -> str:
    line.waits()
    if not os.path.isdir(beside):
        raise NotFound(f"directory {beside}", hint=NO_DIRECTORY)
    try:
        return tempfile.mkdtemp(prefix=prefix, dir=beside)
    except OSError as error:
        raise from_os_error(error, beside) from error


def _remove_in_time(where: str, timeout_seconds: float) -> None:
    try:
        run_apart(partial(_remove, where), _hear_nothing, timeout_seconds)
    except VolumeFailed as error:
        raise VolumeFailed(
            f"directory {where}",
            expected="to remove it",
            found=error.found,
            hint="remove it when the file server answers",
            errno=error.errno,
        ) from error
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
        _log.warning("directory %s is left behind; remove it", where)
        raise


def _remove(where: str, line: Line) -> None:
    """Remove a tree; its directories may have modes that keep us out."""
    line.waits()
    try:
        directories = [where]
        for directory in directories:
            with suppress(FileNotFoundError):  # somebody else removes it as well
                directories += _emptied(directory, line)
        for directory in reversed(directories):
            with suppress(FileNotFoundError):
                os.rmdir(directory)
            line.waits()
    except OSError as error:
        raise from_os_error(error, where) from error


def _emptied(directory: str, line: Line) -> list[str]:
    """Remove the files in a directory; return the directories in it."""
    with suppress(PermissionError):  # some file servers let nobody change modes
        os.chmod(directory, 0o700)
    with os.scandir(directory) as found:
        entries = [*found]
    inner = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            inner.append(entry.path)
        else:
            with suppress(FileNotFoundError):  # of NFS, which removes some by itself
                os.unlink(entry.path)
        line.waits()
    return inner
