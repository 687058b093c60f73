"""Tar archives into a lake: each read once from beginning to end (`members`), as tar unpacks it.

1. Gather small members up to a block; a big one is a block of its own, streamed.
2. Ask the lake what it has of a block's paths already; same size, time and mode are skipped.
3. Put the rest with a writer, which commits in groups (I2) and knows what was put before.

Of members of one name the last one stands. A hard link shows the file that its name shows below the
prefix; nothing outside of that is ever looked at. What an archive's damage leaves whole stays, and
the damage is named. Running it again does only what is still to do; it never deletes.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import BinaryIO

from lakefeed.errors import Invalid, NotFound, SnapshotExpired, from_local_error
from lakefeed.format.pack import Meta
from lakefeed.format.paths import check_path, parents
from lakefeed.format.rows import Kind
from lakefeed.lake.batch import PutHandle
from lakefeed.lake.lake import Lake
from lakefeed.lake.writer import Writer, WriterOptions
from lakefeed.transfer.exclude import Exclude
from lakefeed.transfer.filling import Counts
from lakefeed.transfer.importing import ImportOptions, ImportReport, Progress, checked
from lakefeed.transfer.members import Archive, Damaged, Member, Unfit, member_of
from lakefeed.transfer.planning import Planner
from lakefeed.transfer.problems import Problems, decodable
from lakefeed.transfer.reading import STREAM_BYTES, Known

# A writer holds one group while the one before is written, each with a file more than that.
_GROUP_BYTES_MAX = 128 << 20
_GROUP_FILES_MAX = 50_000
_BIG_BYTES = 32 << 20
# Some milliseconds of look-up for each block.
_BLOCK_MEMBERS = 512
_BLOCK_BYTES = 8 << 20
# What was replaced, by the names' hashes: another one of the same costs a look-up.
_MARKS = 1 << 20

_Held = tuple[Member, bytes | BinaryIO]


def import_archives(
    lake: Lake,
    sources: Sequence[str | os.PathLike[str]],
    options: ImportOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Import what tar archives hold, one after the other; return what was done and left out.

    Archives that are damaged, or none, are among the problems, under their own names; a single
    source that is none is Invalid. Groups are of 128 MiB at most, whatever `pack_bytes`; `workers`
    are not used. `progress` is called after each few files. KeyboardInterrupt comes out after what
    is gathered is committed. Failures of the lake's volume are raised; what is committed stays.
    """
    options = checked(options or ImportOptions())
    if options.follow_symlinks:
        raise Invalid("follow_symlinks", expected="a directory as source", found="an archive")
    began = time.monotonic()
    names = [os.path.abspath(os.fspath(source)) for source in sources]
    for name in names:
        _check_source(name)
    problems = Problems()
    planner = Planner(lake.snapshot(), options.prefix, problems)
    planner.check()
    with lake.writer(_grouping(options), operation="import", message=_message(names)) as writer:
        unpacking = Unpacking(writer, planner, options, problems, progress or (lambda _: None))
        try:
            for name in names:
                unpacking.run(name, alone=len(names) == 1)
        except KeyboardInterrupt:
            writer.close()
            raise
        writer.flush()
        unpacking.settle()
    return ImportReport.of(lake, options, unpacking.counts, problems, began)


def _check_source(name: str) -> None:
    try:
        with open(name, "rb"):
            return
    except IsADirectoryError as error:
        raise Invalid(f"source {name}", expected="an archive", found="a directory") from error
    except OSError as error:
        raise from_local_error(error, f"source {name}") from error


def _grouping(options: ImportOptions) -> WriterOptions:
    return WriterOptions(
        flush_bytes=min(options.pack_bytes, _GROUP_BYTES_MAX),
        flush_files=min(options.pack_rows, _GROUP_FILES_MAX),
        flush_age_seconds=options.commit_seconds,
        big_bytes=_BIG_BYTES,
        codec=options.codec,
    )


def _message(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"from {decodable(names[0])}{more}" if names else "from nothing"


class Unpacking:
    """One import of archives; `run` each of them, then flush the writer, then `settle`."""

    def __init__(
        self,
        writer: Writer,
        planner: Planner,
        options: ImportOptions,
        problems: Problems,
        progress: Callable[[Progress], None],
    ) -> None:
        self._writer = writer
        self._planner = planner
        self._options = options
        self._problems = problems
        self._progress = progress
        self._above = f"{options.prefix}/" if options.prefix else ""
        self._exclude = Exclude(options.exclude)
        self._block: list[_Held] = []
        self._block_bytes = 0
        self._handles: deque[tuple[PutHandle, bool]] = deque()
        self._settled = 0
        self._replaced = bytearray(_MARKS)
        self.counts = Counts()

    def run(self, name: str, *, alone: bool) -> None:
        """Put what one archive holds; damage ends it, and is a problem; Invalid for none at all."""
        with Archive(name) as archive:
            try:
                for info in archive:
                    member = self._member(info)
                    if member is not None:
                        self._take(archive, info, member)
            except Damaged as damage:
                if damage.is_none and alone:
                    hint = '"lakefeed put" stores one file as it is'
                    raise Invalid(f"source {name}", expected="a directory or a tar archive",
                                  found=damage.reason, hint=hint) from damage  # fmt: skip
                self._problems.add(name, damage.text)
            self._put_block()

    def settle(self) -> None:
        """Take notice of what is durable by now; raise what kept some of it from becoming so."""
        while self._handles and self._handles[0][0].done():
            handle, alone = self._handles.popleft()
            number = handle.wait()
            self.counts.packs += alone or number != self._settled
            self._settled = self._settled if alone else number

    # -- what is to be put -----------------------------------------------------------------------

    def _member(self, info: tarfile.TarInfo) -> Member | None:
        """Return a member under its path in the lake, None where it is left out."""
        try:
            member = member_of(info)
            if not member.path and member.kind is Kind.DIR:
                return member._replace(path=self._options.prefix) if self._above else None
            check_path(member.path)
            if self._is_excluded(member):
                self.counts.excluded += 1
                return None
            path = check_path(self._above + member.path)
            if member.linked is None:
                return member._replace(path=path)
            return member._replace(path=path, linked=check_path(self._above + member.linked))
        except Unfit as unfit:
            if not (unfit.special and self._options.skip_special):
                self._problems.add(info.name, str(unfit))
        except Invalid as error:
            self._problems.add(info.name, f"expected a path with {error.expected}")
        return None

    def _is_excluded(self, member: Member) -> bool:
        if not self._exclude:
            return False
        matches = self._exclude.matches
        above = any(matches(path, is_directory=True) for path in parents(member.path))
        return above or matches(member.path, is_directory=member.kind is Kind.DIR)

    def _take(self, archive: Archive, info: tarfile.TarInfo, member: Member) -> None:
        content: bytes | BinaryIO = b""
        with archive.reading():
            if member.kind is Kind.FILE and member.linked is None and not self._options.dry_run:
                content = archive.content(info)
                if member.size > STREAM_BYTES:
                    self._put_block()
                else:
                    content = content.read()
            self._block.append((member, content))
            self._block_bytes += min(member.size, STREAM_BYTES)
            full = len(self._block) >= _BLOCK_MEMBERS or self._block_bytes >= _BLOCK_BYTES
            if full or not isinstance(content, bytes):
                self._put_block()

    # -- putting it ------------------------------------------------------------------------------

    def _put_block(self) -> None:
        block, self._block, self._block_bytes = self._block, [], 0
        if not block:
            return
        known, attrs = self._known([member.path for member, _ in block])
        fresh = [
            member.path
            for (member, _), there in zip(block, known, strict=True)
            if member.kind is not Kind.DIR and (there is None or there.kind == Kind.DIR)
        ]
        refused = set(self._writer.directories(fresh)) if fresh else set()
        for (member, content), there, kept in zip(block, known, attrs, strict=True):
            if member.path in refused:
                self._refuse(member, "in the lake this is a directory with files below it")
            elif there is not None and self._stands(member, there):
                self.counts.skipped += 1
            else:
                same_kind = there is not None and there.kind == member.kind
                self._replaced[hash(member.path) % _MARKS] |= there is not None
                self._put(member, content, kept if same_kind else None)
        self.settle()
        counts = self.counts
        errors = self._problems.count
        self._progress(Progress(counts.files, counts.bytes, counts.skipped, errors))

    def _known(
        self, paths: list[str]
    ) -> tuple[list[Known | None], Sequence[dict[str, str] | None]]:
        if self._planner.nothing_there:
            return [None] * len(paths), [None] * len(paths)
        return self._planner.known(paths)

    def _stands(self, member: Member, there: Known) -> bool:
        """Tell whether the lake has a member already, and nothing was put over it since."""
        size = there.size if member.linked is not None else member.size
        facts = Known(member.kind, size, member.mtime_ns, member.mode)
        if there != facts or not self._replaced[hash(member.path) % _MARKS]:
            return there == facts
        try:
            row = self._writer.stat(member.path)
        except SnapshotExpired:
            raise
        except NotFound:
            return False
        return facts == (row.kind, row.size, row.mtime_ns, row.mode)

    def _put(self, member: Member, content: bytes | BinaryIO, attrs: dict[str, str] | None) -> None:
        # Holes make a file of any size out of a few bytes.
        if not isinstance(content, bytes) and member.size > (free := self._planner.free_bytes):
            self._refuse(member, f"takes {member.size} bytes, of which the volume has {free} left")
            return
        try:
            if not self._options.dry_run:
                handle = _put(self._writer, member, content, attrs)
                self._handles.append((handle, member.size > _BIG_BYTES))
        except SnapshotExpired:
            raise
        except NotFound:
            self._refuse(member, f"a hard link to {member.linked!r}, which is not in the lake")
            return
        except Invalid as error:
            self._refuse(member, f"expected {error.expected}, found {error.found}")
            return
        is_directory = member.kind is Kind.DIR
        self.counts.directories += is_directory
        self.counts.files += not is_directory
        self.counts.bytes += member.size

    def _refuse(self, member: Member, reason: str) -> None:
        self._problems.add(member.path[len(self._above) :], reason)


def _put(
    writer: Writer, member: Member, content: bytes | BinaryIO, attrs: dict[str, str] | None
) -> PutHandle:
    path, mode, mtime_ns = member.path, member.mode, member.mtime_ns
    if member.linked is not None:
        return writer.copy(member.linked, path)
    if member.kind is Kind.DIR:
        return writer.mkdir(path, mode, mtime_ns=mtime_ns, attrs=attrs)
    if member.kind is Kind.SYMLINK:
        return writer.symlink(path, member.target, meta=Meta(mtime_ns, mode, attrs))
    if isinstance(content, bytes):
        return writer.put(path, content, mtime_ns=mtime_ns, mode=mode, attrs=attrs)
    return writer.put_file(path, content, meta=Meta(mtime_ns, mode, attrs))
