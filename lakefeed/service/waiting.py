"""What lies in an inbox: found slice by slice, sorted into complete, not yet, and never.

A walk holds one directory listing open and hands out at most SLICE names at a time, so a million
files waiting cost no more memory than a thousand. A file is *complete* when its content has been
quiet for a while by the file server's clock. A file that was renamed into place after that needs no
more waiting; one that was seen under a temporary name in the walk before is complete at once.

Symbolic links are never followed. Links, devices and names that a lake cannot hold are *bad*: they
are moved aside. Hidden names and those of unfinished downloads are left alone. So is a directory
that is a lake or that cannot be listed: it is named, and the walk goes on. The decisions are pure
(`judge`); reading files is left to `taking`.
"""

from __future__ import annotations

import errno
import inspect
import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lakefeed.errors import Invalid
from lakefeed.format.paths import check_path
from lakefeed.format.rows import TIMES_NS
from lakefeed.lake import layout

# Some milliseconds of work on a local disk: how long a walk stays away from the event loop.
SLICE = 1024
# How programs name what they have not finished, some in capitals; a rename says that it is.
TEMPORARY = (".tmp", ".part", ".partial", ".filepart", ".crdownload")
# More unfinished files than this at once are waited for by their time alone.
_TEMPORARY_MAX = 100_000
# A directory that stayed empty for so long is one that nobody drops files into any more.
_EMPTY_SECONDS = 24 * 3600.0
# What a listing says of names that went away, or became something else, since they were seen.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Candidate(NamedTuple):
    """A file in the inbox: its path there, and what tells this content from another."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @property
    def identity(self) -> tuple[int, int, int]:
        """Differs once anybody writes to the file or puts another in its place."""
        return self.size, self.mtime_ns, self.inode


class Bad(NamedTuple):
    """A name that can never be taken in, and why."""

    path: str
    reason: str


class Left(NamedTuple):
    """A name that stays where it is, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What complete means now: by the server's time, below which prefix."""

    now_ns: int
    quiet_ns: int
    prefix: str
    renamed: frozenset[int]


@dataclass(slots=True)
class Seen:
    """One slice of a walk: what can be taken in, what has to wait, what never can, what is left."""

    complete: list[Candidate] = field(default_factory=list)
    early: list[Candidate] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def judge(path: str, info: os.stat_result, rules: Rules) -> tuple[Candidate, bool] | Bad:
    """Return the file and whether it is complete, or why it is none. Pure."""
    if not stat.S_ISREG(info.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "a special file"
        return Bad(path, f"{kind}, not a file")
    try:
        check_path(rules.prefix + path)
    except Invalid as error:
        return Bad(path, f"no path for a lake: expected {error.expected}")
    if info.st_mtime_ns not in TIMES_NS:
        return Bad(path, "modified at a time that a lake cannot hold: expected 1677 to 2262")
    # A time in the future was made up by whoever wrote the file; the change time is the server's.
    # So was one of a file that is being made: NFS keeps the CREATE's verifier there for a moment.
    made_up = info.st_mtime_ns > rules.now_ns or info.st_size == 0
    written_ns = info.st_ctime_ns if made_up else info.st_mtime_ns
    quiet = rules.now_ns - written_ns >= rules.quiet_ns
    file = Candidate(path, info.st_size, info.st_mtime_ns, info.st_ino, info.st_ctime_ns)
    # A rename is a change, but no writing. Without one this is another file, not finished, that was
    # given the inode number of a temporary one.
    renamed = info.st_ino in rules.renamed and info.st_ctime_ns > info.st_mtime_ns
    return file, quiet or renamed


def is_temporary(name: str) -> bool:
    """Tell whether a name says that its file is not finished, or not meant for us."""
    return name.startswith(".") or name.lower().endswith(TEMPORARY)


def check_root(root: str) -> None:
    """Refuse an inbox that is a lake: its files would be taken for arrivals."""
    if _is_lake(root):
        raise Invalid(f"inbox {root}", expected="a directory of its own", found="a lake")


def _is_lake(directory: str) -> bool:
    marks = (layout.SUPERBLOCK, layout.LOG)
    return all(os.path.lexists(os.path.join(directory, name)) for name in marks)


class Walk:
    """One pass over an inbox. Used by one thread at a time."""

    def __init__(self, root: str, rules: Rules, *, tidy: bool) -> None:
        self._root = root
        self._rules = rules
        self._tidy = tidy
        self._seen = Seen()
        self._slices = self._run()
        self.temporary: set[int] = set()

    def next_slice(self) -> Seen | None:
        """Return what the next names are, None at the end."""
        return next(self._slices, None)

    def close(self) -> None:
        """Close the listing at hand; one that hangs is its thread's."""
        if inspect.getgeneratorstate(self._slices) != inspect.GEN_RUNNING:
            self._slices.close()

    def _run(self) -> Generator[Seen, None, None]:
        for names, (path, entry) in enumerate(self._entries(), 1):
            self._look(path, entry)
            if names % SLICE == 0:
                yield self._seen
                self._seen = Seen()
        yield self._seen

    def _look(self, path: str, entry: os.DirEntry[str]) -> None:
        seen = self._seen
        try:
            info = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._leave(path, error)
            return
        if is_temporary(entry.name):
            if len(self.temporary) < _TEMPORARY_MAX:
                self.temporary.add(info.st_ino)
            return
        verdict = judge(path, info, self._rules)
        if isinstance(verdict, Bad):
            seen.bad.append(verdict)
            return
        file, complete = verdict
        (seen.complete if complete else seen.early).append(file)

    def _leave(self, path: str, error: OSError) -> None:
        if error.errno not in _GONE:
            self._seen.left.append(Left(path, error.strerror or str(error)))

    def _entries(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield (path in the inbox, entry) of everything that is no directory."""
        pending = [""]
        while pending:
            directory = pending.pop()
            if directory and _is_lake(os.path.join(self._root, directory)):
                self._seen.left.append(Left(directory, "a lake, whose files are no arrivals"))
                continue
            found = 0
            try:
                with os.scandir(os.path.join(self._root, directory)) as entries:
                    for entry in entries:
                        found += 1
                        path = f"{directory}/{entry.name}" if directory else entry.name
                        if not entry.is_dir(follow_symlinks=False):
                            yield path, entry
                        elif not entry.name.startswith("."):
                            pending.append(path)
            except OSError as error:
                if not directory:
                    raise
                self._leave(directory, error)
                continue
            if directory and not found and self._tidy:
                self._remove_if_old(directory)

    def _remove_if_old(self, directory: str) -> None:
        full = os.path.join(self._root, directory)
        try:
            age_ns = self._rules.now_ns - os.stat(full, follow_symlinks=False).st_mtime_ns
            if age_ns > _EMPTY_SECONDS * 1e9:
                os.rmdir(full)
        except OSError:
            # Not empty any more, or not ours to remove: it does no harm where it is.
            return
