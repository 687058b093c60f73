"""Which operations share a commit, and how a big file streams into the lake.

- A `Group` gathers the operations of one call (`rm` of a tree, `pipe` of many) or of a transaction,
  and commits them together: one commit in each lake concerned, and one more where a move to
  another lake removes what it has copied.
- `Lanes` serve single files. Whoever writes while somebody else's commit is under way shares the
  next one, so many threads that write one file each still commit in groups.
- An `Upload` turns the pushes of an open file into the stream that a writer pulls from.

Nothing here outlives the call that needs it: durability is the writer's, and waiting for it is what
returning from `close`, or from the end of a transaction, means.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from lakefeed.adapters.fsspec.places import Place
from lakefeed.errors import LakefeedError
from lakefeed.format.pack import Meta
from lakefeed.format.rows import Row
from lakefeed.lake.batch import WHEN_TOLD, PutHandle
from lakefeed.lake.lake import Lake
from lakefeed.lake.writer import Writer, WriterOptions
from lakefeed.volume.base import Buffer

# A tree from another disk: commits of the usual size, so that memory stays bounded.
IN_PARTS = WriterOptions(flush_age_seconds=60.0)
# Whatever is there is committed at once; what comes meanwhile makes the next commit.
AT_ONCE = WriterOptions(flush_age_seconds=0.0)
# Chunks of an upload in memory besides the ones the writer holds.
CHUNKS_MAX = 2
OPERATION = "fsspec"


class Dropped(Exception):
    """What was gathered is not wanted any more."""


class Group:
    """Writers, one for each lake, whose operations are committed when the group is."""

    def __init__(self, options: WriterOptions = WHEN_TOLD) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._writers: dict[str, Writer] = {}
        self._files: list[Place] = []
        self._afterwards: list[Callable[[], None]] = []

    def writer(self, lake: Lake) -> Writer:
        """Return the group's writer for a lake."""
        with self._lock:
            writer = self._writers.get(lake.name)
            if writer is None:
                writer = lake.writer(self._options, operation=OPERATION)
                self._writers[lake.name] = writer
            return writer

    def will_hold(self, place: Place) -> None:
        """Take notice of a file that the commit puts, so that `commit` checks its name."""
        self._files.append(place)

    def check_files(self, places: Sequence[Place]) -> None:
        """Refuse files that would bury a directory: all those of a lake looked up at once."""
        lakes = {place.lake.name: place.lake for place in places}
        for name, lake in lakes.items():
            paths = [place.path for place in places if place.lake.name == name]
            for path in self.writer(lake).directories(paths):
                raise IsADirectoryError(errno.EISDIR, "is a directory", path)

    def afterwards(self, step: Callable[[], None]) -> None:
        """Do something once all that the writers hold is durable."""
        self._afterwards.append(step)

    def commit(self) -> None:
        """Make everything durable, lakes in the order they came in; an error drops the rest."""
        self.check_files(self._files)
        steps = self._afterwards
        self._let_go().close()
        for step in steps:
            step()

    def drop(self) -> None:
        """Forget everything."""
        reason = Dropped("given up")
        self._let_go().__exit__(type(reason), reason, None)

    def _let_go(self) -> ExitStack:
        """Return the writers, to be left one after the other."""
        stack = ExitStack()
        for writer in reversed(self._writers.values()):
            stack.push(writer)  # the last one in is the first one out
        self._writers, self._files, self._afterwards = {}, [], []
        return stack


@dataclass(slots=True)
class _Lane:
    writer: Writer
    users: int = 0


class Lanes:
    """Writers that callers share for as long as their calls overlap; the lock guards the table."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}

    @contextmanager
    def use(self, lake: Lake) -> Iterator[Writer]:
        """Lend a writer that commits at once; the block waits for its own handles."""
        if self._pid != os.getpid():
            # The parent's writers, and a lock that one of its threads may have held, stay behind.
            self._lock, self._lanes, self._pid = threading.Lock(), {}, os.getpid()
        with self._lock:
            lane = self._lanes.get(lake.name)
            if lane is None:
                lane = self._lanes[lake.name] = _Lane(lake.writer(AT_ONCE, operation=OPERATION))
            lane.users += 1
        try:
            yield lane.writer
        finally:
            with self._lock:
                lane.users -= 1
                last = not lane.users
                if last:
                    del self._lanes[lake.name]
            if last:
                lane.writer.close()


class Upload:
    """A file too big for memory on its way into a pack: one thread pushes, another pulls."""

    def __init__(self, writer: Writer, path: str, meta: Meta | None) -> None:
        self._writer = writer
        self._path = path
        self._meta = meta
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._handle: PutHandle | None = None
        self._thread = threading.Thread(target=self._run, name="lakefeed-upload", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Hand on a chunk; waits while the volume is behind, raises what stopped the upload."""
        with self._changed:
            while len(self._chunks) >= CHUNKS_MAX and self._error is None:
                self._changed.wait()
            self._check()
            self._chunks.append(data)
            self._changed.notify_all()

    def finish(self) -> PutHandle:
        """Say that nothing follows; return the handle of the file."""
        self._end()
        with self._changed:
            self._check()
        assert self._handle is not None
        return self._handle

    def abandon(self) -> None:
        """Give up: the pack is discarded. Works twice."""
        with self._changed:
            self._error = self._error or Dropped(f"{self._path!r} was given up")
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _check(self) -> None:
        error = self._error
        if isinstance(error, LakefeedError):
            raise error
        if error is not None:
            raise OSError(f"upload of {self._path!r}: {error!r}") from error

    def _run(self) -> None:
        try:
            stream = cast(BinaryIO, self)
            self._handle = self._writer.put_file(self._path, stream, meta=self._meta)
        except BaseException as error:  # noqa: BLE001 - it goes to the thread that writes
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def read(self, size: int) -> Buffer:
        """Return `size` bytes, fewer only at the end: what the writer pulls."""
        parts: list[bytes] = []
        have = 0
        while have < size:
            chunk = self._next(size - have)
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        return b"".join(parts)

    def _next(self, size: int) -> bytes:
        with self._changed:
            while not self._chunks and not self._ended:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            self._changed.notify_all()
            return chunk


class Sink:
    """Where one open file goes: a lane that commits at once, or a group that commits later.

    `own` says that the group is this file's alone, to be committed or dropped with it. The file
    gets the mode and the attributes of `like`.
    """

    def __init__(
        self,
        place: Place,
        lanes: Lanes,
        group: Group | None,
        *,
        own: bool = False,
        like: Row | None = None,
    ) -> None:
        self._place = place
        self._lanes = lanes
        self._group = group
        self._own = own
        self._like = like
        self._stack = ExitStack()

    def put(self, data: Buffer) -> None:
        """Store the whole file; durable on return where a lane takes it, copied where not."""
        held = data if self._group is None else bytes(data)
        mode, attrs = (self._like.mode, self._like.attrs) if self._like else (0o644, None)
        path = self._place.path
        self._settle(lambda: self._writer().put(path, held, mode=mode, attrs=attrs))

    def upload(self) -> Upload:
        """Start storing a file in chunks; `finish` or `abandon` ends it."""
        like = self._like
        meta = None if like is None else Meta(time.time_ns(), like.mode, like.attrs)
        return Upload(self._writer(), self._place.path, meta)

    def finish(self, upload: Upload) -> None:
        """Store what was uploaded; durable on return where a lane takes it."""
        self._settle(upload.finish)

    def _writer(self) -> Writer:
        if self._group is not None:
            self._group.will_hold(self._place)
            return self._group.writer(self._place.lake)
        return self._stack.enter_context(self._lanes.use(self._place.lake))

    def _settle(self, store: Callable[[], PutHandle]) -> None:
        with self._stack:
            handle = store()
            if self._group is None:
                handle.wait()

    def commit(self) -> None:
        """Commit the file's own group."""
        if self._own and self._group is not None:
            self._group.commit()

    def drop(self) -> None:
        """Leave nothing of the file's own behind. Works twice."""
        self._stack.close()
        if self._own and self._group is not None:
            self._group.drop()
