"""What an inbox remembers: which files belong to which commit, so that each is taken in once.

Below the inbox lies `.lakefeed/`:

    id                         names the inbox in commits; made once
    <lake>-<base>-<batch>.open    files about to be committed to this lake under this batch; `base`
                               is the snapshot before, so its log says later whether they were
    <lake>-<base>-<batch>.taken   the same, committed, where files are kept in the inbox
    claims/<batch>-<inode>     a file on its way out: committed, being removed
    now.<id>, id.<id>, *.tmp   there for a moment only; `tidy` removes what a crash left of them

A record is written and synced before its commit, and goes once it is durable that its files went.
Whatever dies in between, the next one reads the record, asks the log, and finishes the removal; or
it forgets the record, once a commit of its own keeps that one from being made. Records are
envelopes, so a torn one is noticed; the commit cannot have been made then. A lake goes by its own
records: several may keep from one inbox, and one made anew gets all of it. Blocking, used by one
thread at a time.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from lakefeed.errors import Conflict, Corrupt, from_link_error
from lakefeed.format import envelope
from lakefeed.lake import layout
from lakefeed.service.taking import (
    FILE,
    directory_of,
    made_directory,
    named_below,
    opened,
    sync_removals,
)
from lakefeed.service.waiting import Candidate
from lakefeed.volume.base import SMALL_FILE_BYTES_MAX

HOME = ".lakefeed"
CLAIMS = f"{HOME}/claims"
_NAME = re.compile(r"([0-9a-f]{32})-\d{20}-[0-9a-f]{32}\.(open|taken)")
# What is made under one of these names is renamed or removed by the next call or two. An hour: more
# than any server is waited for, and whoever comes later finds no file, and tries again.
_MOMENTARY = re.compile(r"(now|id)\.[0-9a-f]{32}|.+\.(open|taken)\.tmp")
_MOMENT_NS = 3600 * 10**9
# Kept inboxes: from so many records on, they are written anew as one.
_RECORDS_MAX = 32

# What opening says of a name that is gone, a link, a socket, or a device that nobody serves.
_NO_FILE = (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """The files of one batch; the commit that has its id, if any, comes after snapshot `base` of
    the lake with the id `lake`."""

    batch: str
    base: int
    files: tuple[Candidate, ...]
    lake: str


class Records:
    """The records of one inbox."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lake = ""
        self.id = ""

    def open(self, lake: str) -> None:
        """Make what is missing, and read the inbox's own id; `lake` is that of the lake."""
        self._lake = lake
        with opened(self._root) as root_fd, made_directory(root_fd, CLAIMS):
            pass
        with self._home() as home:
            try:
                _create(home, self._name("id"), layout.new_id().encode())
            except FileExistsError:
                _logger.debug("inbox %s has an id already", self._root)
        found = self._read_id()
        if not envelope.is_id(found):
            # It goes into the lake's log, and whoever drops files may have put another one there.
            raise Corrupt(self._name("id"), expected="an id in a regular file",
                          found=repr(found[:40]), hint="remove it")  # fmt: skip
        self.id = found

    def _read_id(self) -> str:
        with self._home() as home:
            return (_content(home, "id") or b"").decode(errors="backslashreplace")

    def check_id(self) -> None:
        """Raise Conflict where the id was removed or made anew: another replica may go by that."""
        found = self._read_id()
        if found != self.id:
            raise Conflict(self._name("id"), expected=self.id, found=repr(found[:40]))

    @contextmanager
    def _home(self) -> Iterator[int]:
        """Lend a descriptor of the directory of records, which is no link to another."""
        with (
            opened(self._root) as root_fd,
            directory_of(root_fd, f"{HOME}/") as fd,
            named_below(HOME),
        ):
            yield fd

    def _name(self, name: str) -> str:
        return os.path.join(self._root, HOME, name)

    def server_time_ns(self) -> int:
        """Return the time of the inbox's file server."""
        name = f"now.{layout.new_id()}"
        with self._home() as home:
            fd = os.open(name, _NEW, 0o644, dir_fd=home)
            try:
                return os.fstat(fd).st_mtime_ns
            finally:
                os.close(fd)
                _discard(home, name)

    def tidy(self) -> bool:
        """Remove what a crash left in the middle of a call; True if there may be more to come."""
        with self._home() as home:
            names = [name for name in os.listdir(home) if _MOMENTARY.fullmatch(name)]
            old_before_ns = self.server_time_ns() - _MOMENT_NS if names else 0
            young = False
            for name in names:
                with suppress(FileNotFoundError):
                    # Not the mtime, in which NFS keeps something else while a file is being made.
                    info = os.stat(name, dir_fd=home, follow_symlinks=False)
                    if info.st_ctime_ns < old_before_ns:
                        os.unlink(name, dir_fd=home)
                    else:
                        young = True
        return young

    def new(self, base: int) -> Record:
        """Return the record of a batch that no file belongs to yet."""
        return Record(layout.new_id(), base, (), self._lake)

    def begin(self, record: Record) -> None:
        """Note a batch durably, before its commit."""
        self._note(record, "open")

    def _note(self, record: Record, state: str) -> None:
        # No one else's: two replicas move one record on at once, and a crash may have left its own.
        tmp = f"{layout.new_id()}.{state}.tmp"
        with self._home() as home:
            _write(home, tmp, _sealed(record))
            os.replace(tmp, _name_of(record, state), src_dir_fd=home, dst_dir_fd=home)
            os.fsync(home)

    def end(self, record: Record) -> None:
        """Drop the note of a batch whose files are gone, once they are gone durably."""
        if record.files:
            sync_removals(self._root, record.files, CLAIMS)
        self.forget(record)

    def forget(self, record: Record) -> None:
        """Drop the note of a batch: it was not committed, or its files are gone."""
        with self._home() as home:
            _discard(home, _name_of(record, "open"))

    def keep(self, record: Record) -> None:
        """Remember that these files, which stay where they are, were taken in."""
        names = (_name_of(record, "open"), _name_of(record, "taken"))
        try:
            with self._home() as home:
                os.replace(*names, src_dir_fd=home, dst_dir_fd=home)
        except FileNotFoundError:
            # Never begun, as the lake had all of it; or moved on by another replica.
            self._note(record, "taken")

    def pending(self) -> list[Record]:
        """Return the batches of which it is not known whether they were committed."""
        return [*self._read("open")]

    def taken(self) -> Iterator[Record]:
        """Yield the batches whose files were kept."""
        yield from self._read("taken")

    def kept(self, lake: str) -> frozenset[bytes]:
        """Return the digests of what was taken into a lake and kept, for a look that changes
        nothing: the inbox need not be open."""
        self._lake = lake
        try:
            records = self._read("taken", drop=False)
            return frozenset(digest(file) for record in records for file in record.files)
        except FileNotFoundError:
            return frozenset()  # nobody took anything yet

    def _names(self, home: int, state: str) -> list[str]:
        """Return the names of this lake's records, the oldest first."""
        matches = filter(None, map(_NAME.fullmatch, sorted(os.listdir(home))))
        return [one[0] for one in matches if one.groups() == (self._lake, state)]

    def _read(self, state: str, *, drop: bool = True) -> Iterator[Record]:
        """Yield the records that can be read; whoever takes drops the others, and takes anew."""
        with self._home() as home:
            for name in self._names(home, state):
                try:
                    data = _content(home, name)
                    if data is not None:
                        yield _unsealed(data, self._name(name), self._lake)
                except Corrupt as error:
                    if drop:
                        _logger.warning("a record that cannot be read is dropped: %s", error)
                        _discard(home, name)

    def claims(self) -> list[str]:
        """Return the names of the files that were on their way out."""
        with (
            opened(self._root) as root_fd,
            directory_of(root_fd, f"{CLAIMS}/") as fd,
            named_below(CLAIMS),
        ):
            return sorted(os.listdir(fd))

    def condense(
        self, there: set[bytes], unseen: Sequence[str], least: int = _RECORDS_MAX
    ) -> Record | None:
        """Write the records of kept files anew as one, without those that left the inbox; return
        it, None if they are less than `least`. What lies at or below an `unseen` path may be there:
        it stays.
        """
        with self._home() as home:
            names = self._names(home, "taken")
            if len(names) < least:
                return None
            below = tuple(f"{path}/" for path in unseen)
            files = {
                mark: file
                for record in self.taken()
                for file in record.files
                if (mark := digest(file)) in there or f"{file.path}/".startswith(below)
            }
            whole = replace(self.new(0), files=tuple(files.values()))
            self._note(whole, "taken")
            for name in names:
                _discard(home, name)
        return whole


def _name_of(record: Record, state: str) -> str:
    return f"{record.lake}-{record.base:020d}-{record.batch}.{state}"


def _create(home: int, path: str, data: bytes) -> None:
    """Make a file that appears whole or not at all; FileExistsError if it is there."""
    name = os.path.basename(path)
    tmp = f"{name}.{layout.new_id()}"
    _write(home, tmp, data)
    try:
        os.link(tmp, name, src_dir_fd=home, dst_dir_fd=home)
    except FileExistsError:
        raise
    except OSError as error:
        raise from_link_error(error, f"inbox {path}") from error
    finally:
        _discard(home, tmp)


def _write(home: int, name: str, data: bytes) -> None:
    """Make a file durable, or none: what a full disk cuts short would take up its last room."""
    fd = os.open(name, _NEW, 0o644, dir_fd=home)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException:
        _discard(home, name)
        raise


def _discard(home: int, name: str) -> None:
    """Remove a file. NotFound may be the answer to a second sending, the first having done it."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=home)


def _content(home: int, name: str) -> bytes | None:
    """Return a record's bytes, None if another replica was first, or it is none of ours: a link, a
    pipe.

    On NFSv3 a file that another client removes between open and read is ESTALE; opening it once
    more asks the server.
    """
    for again in (True, False):
        try:
            fd = os.open(name, FILE, dir_fd=home)
            try:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode):
                    break
                if info.st_size > SMALL_FILE_BYTES_MAX:
                    raise Corrupt(name, expected="a record", found=f"{info.st_size} bytes")
                with open(fd, "rb", closefd=False) as file:
                    return file.read()
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _NO_FILE:
                break
            if error.errno != errno.ESTALE or not again:
                raise
    return None


def digest(file: Candidate) -> bytes:
    """Return 16 bytes that stand for one content under one path."""
    text = f"{file.size} {file.mtime_ns} {file.inode} {file.path}"
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()


def claim_of(name: str) -> tuple[str, int] | None:
    """Return the batch and the inode in a claim's name, None for another name."""
    batch, _, inode = name.partition("-")
    return (batch, int(inode)) if envelope.is_id(batch) and inode.isdecimal() else None


def _sealed(record: Record) -> bytes:
    files = [
        {"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns, "inode": file.inode}
        for file in record.files
    ]
    body = {"type": "taken", "batch": record.batch, "base": record.base, "files": files}
    return envelope.seal(body)


def _unsealed(data: bytes, path: str, lake: str) -> Record:
    fields = envelope.unseal(data, "taken", path)
    files = tuple(
        Candidate(f.text("path"), f.number("size"), f.word("mtime_ns"), f.word("inode"), 0)
        for f in fields.objects("files")
    )
    return Record(fields.id("batch"), fields.number("base"), files, lake)


def sorted_files(files: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return files by path, so that one directory is opened once."""
    return tuple(sorted(files, key=lambda file: file.path))
