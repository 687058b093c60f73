"""A tree of files into a lake: walked, read ahead, packed in path order, committed pack by pack.

1. Walk the source in path order (`walk`).
2. For some thousand paths at a time, ask the lake what it has of them already.
3. Read what is new or differs in size, time or mode, several at a time (`reading`).
4. Fill a pack up to its size, its rows or its age; seal it while the next one is being filled.
5. Commit each pack as soon as it is durable (I2), so whatever stops the import keeps what was done.

A stopped import is continued by running it again: step 2 skips what was committed. An interrupt
seals and commits the pack at hand. Files that fail are counted and named. What left the source
stays in the lake: an import adds and replaces, it never deletes.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

from lakefeed.errors import Conflict, Invalid, from_local_error
from lakefeed.format.pack import PackSealed, PackWriter
from lakefeed.format.paths import check_prefix
from lakefeed.format.rows import Codec, Kind
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.transfer.behind import BehindFile
from lakefeed.transfer.crew import Crew, can_travel
from lakefeed.transfer.filling import Counts, Filling, Full
from lakefeed.transfer.planning import Planner
from lakefeed.transfer.problems import Problem, Problems, decodable
from lakefeed.transfer.reading import THREADS_MAX, Block, Blocks, ReadOptions
from lakefeed.transfer.recruiting import Recruits
from lakefeed.transfer.walk import Found, Walk, WalkOptions
from lakefeed.volume.base import WritableFile

# One is filled while the one before is sealed and synced.
_PACKS_AT_ONCE = 2
# Names are held until a pack is sealed. Workers share this.
_NAMES_BYTES_MAX = 24 << 20
# As many as a writer leaves unmerged: each one costs every look-up a probe.
_MERGE_AFTER = 64


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import. A pack ends at `pack_bytes`, `pack_rows` or after `commit_seconds`.

    `pack_rows` bounds memory: a pack's rows are sorted before they are written. The language of
    `exclude` is that of `transfer.exclude`. Sources of `workers_from` names and more are imported
    by `workers` processes, which share `pack_rows`.
    """

    prefix: str = ""
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False
    skip_special: bool = False
    codec: Codec = Codec.NONE
    pack_bytes: int = 1 << 30
    pack_rows: int = 200_000
    commit_seconds: float = 60.0
    dry_run: bool = False
    workers: int = 1
    workers_from: int = 8192


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import or export has come; `bytes` are logical ones of the files done."""

    files: int = 0
    bytes: int = 0
    skipped: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `files` counts symlinks too; `skipped` were in the lake already."""

    files: int
    directories: int
    bytes: int
    skipped: int
    excluded: int
    errors: int
    problems: tuple[Problem, ...]
    packs: int
    snapshot: int
    seconds: float
    dry_run: bool

    @classmethod
    def of(
        cls, lake: Lake, options: ImportOptions, counts: Counts, problems: Problems, began: float
    ) -> ImportReport:
        """Return the report of an import that has ended now; `began` is of `time.monotonic`."""
        return cls(
            files=counts.files,
            directories=counts.directories,
            bytes=counts.bytes,
            skipped=counts.skipped,
            excluded=counts.excluded,
            errors=problems.count,
            problems=problems.first(),
            packs=counts.packs,
            snapshot=lake.log.head().number,
            seconds=time.monotonic() - began,
            dry_run=options.dry_run,
        )


def import_tree(
    lake: Lake,
    source: str | os.PathLike[str],
    options: ImportOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    recruits: Recruits | None = None,
) -> ImportReport:
    """Import everything below a directory; return what was done and which files were left out.

    A lake that lies in the source is left out, and counted as excluded.
    `recruits` are worker processes that were started before; those not needed are left to end.
    `progress` is called from one thread at a time, after each few files. KeyboardInterrupt comes
    out after the packs at hand are committed. Whatever fails on the lake's own volume is raised,
    and what was committed before stays.
    """
    options = checked(options or ImportOptions())
    began = time.monotonic()
    root = os.path.abspath(os.fspath(source))
    _check_source(root)
    problems = Problems()
    with closing(Walk(root, _walk_options(lake, root, options), problems)) as walk:
        Planner(lake.snapshot(), options.prefix, problems).check()
        with Recruits() as own:
            run = _Run(
                lake, Task(root, options), problems, progress or (lambda _: None), recruits or own
            )
            counts = run.run(walk)
    counts.excluded = walk.excluded
    return ImportReport.of(lake, options, counts, problems, began)


@dataclass(frozen=True, slots=True)
class _Run:
    """One import: into what, what, who hears of it, and who may help."""

    lake: Lake
    task: Task
    problems: Problems
    progress: Callable[[Progress], None]
    recruits: Recruits

    def run(self, walk: Walk) -> Counts:
        """Import what a walk finds; by several processes where that was asked for and pays."""
        options = self.task.options
        top = [Found("", Kind.DIR)] if options.prefix else []
        found: Iterator[Found] = chain(top, walk)
        if options.workers > 1 and can_travel(self.lake.volume):
            first = list(islice(found, options.workers_from))
            found = chain(first, found)
            if len(first) == options.workers_from:
                return self._by_crew(found)
        alone = Importer(self.lake, self.task, self.problems, self.progress)
        alone.begin(found)
        return alone.run()

    def _by_crew(self, found: Iterator[Found]) -> Counts:
        options = self.task.options
        rows = max(options.pack_rows // options.workers, 1)
        task = replace(self.task, options=replace(options, pack_rows=rows))
        crew = Crew(options.workers, self.recruits, (self.lake.volume, task), self.problems)

        def tell(counts: Counts, errors: int) -> None:
            self.progress(Progress(counts.files, counts.bytes, counts.skipped, errors))

        return crew.run(found, tell)


def checked(options: ImportOptions) -> ImportOptions:
    """Return options with a clean prefix; Invalid where one of them makes no sense."""
    for name in ("pack_bytes", "pack_rows", "workers", "workers_from"):
        value = getattr(options, name)
        if value < 1:
            raise Invalid(name, expected="at least 1", found=value)
    return replace(options, prefix=check_prefix(options.prefix))


def _check_source(root: str) -> None:
    try:
        os.close(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.ENOTDIR and os.path.exists(root):
            raise Invalid(f"source {root}", expected="a directory", found="a file",
                          hint='`import_archives` takes tar archives; "lakefeed put" stores one '
                          'file as it is') from error  # fmt: skip
        raise from_local_error(error, f"source {root}") from error


def _walk_options(lake: Lake, root: str, options: ImportOptions) -> WalkOptions:
    """Return how to walk: not into the lake, which would hold itself, each time twice as big."""
    own = os.path.realpath(lake.name) if can_travel(lake.volume) else ""
    if own and f"{os.path.realpath(root)}/".startswith(f"{own}/"):
        raise Invalid(f"source {root}", expected="a directory of files", found="the lake itself")
    return WalkOptions(options.exclude, options.follow_symlinks, options.skip_special, own)


@dataclass(frozen=True, slots=True)
class Task:
    """What an importer has to do; `root` is an absolute path."""

    root: str
    options: ImportOptions


class Importer:
    """One run. Packs are filled by one thread at a time, the one that holds the turn."""

    def __init__(
        self, lake: Lake, task: Task, problems: Problems, progress: Callable[[Progress], None]
    ) -> None:
        options = task.options
        self._lake = lake
        self._options = options
        self._progress = progress
        self._problems = problems
        self.counts = Counts()
        width = max(THREADS_MAX // options.workers, 1)
        follow, dry = options.follow_symlinks, options.dry_run
        self._reading = ReadOptions(task.root, options.codec, follow, dry, width)
        snapshot = lake.snapshot()
        self._base = snapshot.number
        self.planner = Planner(snapshot, options.prefix, problems)
        self._blocks: Blocks
        self._source: Iterator[Block]
        self._left: Block | None = None
        self._draft = Draft("import", f"from {decodable(task.root)}")
        names_bytes = _NAMES_BYTES_MAX // options.workers
        full = Full(options.pack_bytes, options.pack_rows, names_bytes)
        self._filling = Filling(options.prefix, full, self._reading, self.counts, problems)
        self._abandoned = False

    def begin(self, found: Iterable[Found]) -> None:
        """Say what `run` is to import."""
        self._blocks = Blocks(self.planner.plan(found), self._reading, self._problems)
        self._source = iter(self._blocks)

    def run(self) -> Counts:
        """Do it all, once."""
        try:
            if self._options.dry_run:
                while (block := self._take_block()) is not None:
                    self.counts.add(block.items)
                    self._finish(block, None)
            else:
                self._make_packs()
        finally:
            self._blocks.close()
            self._filling.close()
        return self.counts

    def stop(self, *, abandon: bool) -> None:
        """Let a running `run` end soon: the packs at hand are committed, or thrown away."""
        self._abandoned = abandon
        self._blocks.stop()

    # -- packs -----------------------------------------------------------------------------------

    def _make_packs(self) -> None:
        """Let each pack be filled by a thread; this one only waits, so interrupts land here."""
        with ThreadPoolExecutor(_PACKS_AT_ONCE, "lakefeed-pack") as pool:
            made: list[Future[bool]] = []
            try:
                more = True
                while more:
                    filled = threading.Event()
                    made.append(pool.submit(self._make_pack, filled))
                    filled.wait()
                    while len(made) >= _PACKS_AT_ONCE or (made and made[0].done()):
                        more = made.pop(0).result() and more
                for future in made:
                    future.result()
            except BaseException as error:
                self._stop(made, abandon=not isinstance(error, KeyboardInterrupt))
                raise

    def _stop(self, made: list[Future[bool]], *, abandon: bool) -> None:
        """Let the packs at hand be sealed and committed, or thrown away; wait for it."""
        self.stop(abandon=abandon)
        try:
            wait(made)
        except KeyboardInterrupt:
            self._abandoned = True
            wait(made)
            raise

    def _make_pack(self, filled: threading.Event) -> bool:
        """Fill, seal and commit one pack; False when there was nothing left to put into it."""
        try:
            self._left = self._take_block()
            if self._left is None or self._abandoned:
                return False
            files: list[BehindFile] = []

            def behind(file: WritableFile) -> WritableFile:
                files.append(BehindFile(file))
                return files[0]

            def fill(writer: PackWriter, now_ns: int) -> None:
                self._fill(writer, files[0])
                filled.set()

            sealed = new_pack(self._lake.volume, self._base, fill, behind)
        except _NothingToKeep:
            return True
        finally:
            filled.set()
        self._commit(sealed)
        return True

    def _take_block(self) -> Block | None:
        """Return what the pack before had no room for, or else the next block."""
        block, self._left = self._left, None
        return next(self._source, None) if block is None else block

    def _fill(self, writer: PackWriter, file: BehindFile) -> None:
        due_seconds = time.monotonic() + self._options.commit_seconds
        self._filling.begin()
        full = False
        while not full and not self._abandoned and (block := self._take_block()) is not None:
            taken = self._filling.add(writer, block.items)
            if taken < len(block.items):
                # The rest goes to the next pack; both use the buffer, so nobody gets it back.
                self._left = Block([], block.items[taken:], skipped=block.skipped)
            else:
                writer.flush()
                self._finish(block, file)
            full = self._filling.is_full(writer) or time.monotonic() >= due_seconds
        if self._abandoned or not writer.rows:
            raise _NothingToKeep

    def _finish(self, block: Block, file: BehindFile | None) -> None:
        """Give a block's buffer back once it is written, and tell the progress."""
        if file is None:
            self._blocks.give_back(block)
        elif block.buffer:
            file.then(partial(self._blocks.give_back, block))
        counts = self.counts
        counts.skipped += block.skipped
        errors = self._problems.count
        self._progress(Progress(counts.files, counts.bytes, counts.skipped, errors))

    def _commit(self, sealed: PackSealed) -> None:
        snapshot = self._lake.append([sealed], self._draft)
        self.counts.packs += 1
        unmerged = sum(not info.indexed for info in snapshot.state.packs.values())
        if unmerged >= _MERGE_AFTER:
            # Whoever merged the same packs meanwhile has done it for us too.
            with suppress(Conflict):
                self._lake.merge_index()


class _NothingToKeep(Exception):
    """The pack at hand holds no row, or nobody wants it any more."""
