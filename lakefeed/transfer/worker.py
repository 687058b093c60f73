"""One process of an import's crew: takes names from standard input, imports them, says how it went.

Everything that reads and writes is the importer's, as in an import of one process; this only stands
between it and the pipes. Standard input belongs to one thread, which hears of it at once when the
parent wants an end, or is gone: then the process ends as if killed, and leaves an orphan at most.
"""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import BinaryIO

from lakefeed.errors import LakefeedError
from lakefeed.format.bridge import spare_pandas
from lakefeed.lake.lake import Lake
from lakefeed.transfer.crew import Chunk, Done, Finish, Going, Wanting, receive
from lakefeed.transfer.filling import Counts
from lakefeed.transfer.importing import Importer, Progress, Task
from lakefeed.transfer.problems import Problems
from lakefeed.transfer.walk import Found
from lakefeed.volume.base import Volume

# As often as a person looks.
_TELL_SECONDS = 0.1
# Objects made and not yet dropped; more than the rows that wait to become columns.
_GARBAGE_AFTER = 200_000


class _Worker:
    """Between one importer and the pipes; the lock guards the outgoing one."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()
        self._chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        self._problems = Problems()
        self._told_seconds = 0.0
        self._importer: Importer

    def run(self) -> None:
        """Import until there is no more; the last message says how that ended."""
        job = receive(self._incoming)
        if job is None:
            return
        volume, task = job
        try:
            self.send(self._import(volume, task))
        except LakefeedError as error:
            self.send(error)

    def _import(self, volume: Volume, task: Task) -> Done:
        with Lake.open(volume) as lake:
            lake.log.take_as_whole()  # packs without a commit are the other workers'
            self._importer = Importer(lake, task, self._problems, self._tell)
            self._importer.begin(self._found())
            threading.Thread(target=self._listen, name="lakefeed-parent", daemon=True).start()
            counts = self._importer.run()
        return Done(counts, self._problems.count, self._problems.first())

    def send(self, message: object) -> None:
        """Tell the parent something."""
        with self._lock:
            try:
                self._outgoing.write(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
                self._outgoing.flush()
            except BrokenPipeError:
                os._exit(1)

    def _listen(self) -> None:
        while (message := receive(self._incoming)) is not None:
            if isinstance(message, Chunk):
                self._chunks.put(message)
                continue
            assert isinstance(message, Finish)
            if message.soon:
                self._importer.stop(abandon=message.abandon)
            self._chunks.put(None)
        os._exit(1)

    def _found(self) -> Iterator[Found]:
        planner = self._importer.planner
        seen: set[str] = set()
        while (chunk := self._chunks.get()) is not None:
            self.send(Wanting())
            found = chunk.found()
            yield from planner.replaced_above(found, seen)
            yield from found

    def _tell(self, progress: Progress) -> None:
        now_seconds = time.monotonic()
        if now_seconds - self._told_seconds >= _TELL_SECONDS:
            self._told_seconds = now_seconds
            counts = Counts(progress.files, 0, progress.bytes, progress.skipped)
            self.send(Going(counts, progress.errors))


def main() -> None:
    """Work for the parent at the other end of the standard streams."""
    # What others print must not get among the messages.
    outgoing = os.fdopen(os.dup(1), "wb")
    # A file leaves a few tuples behind until its chunk of rows is full, and no cycles.
    gc.set_threshold(_GARBAGE_AFTER)
    os.dup2(2, 1)
    spare_pandas()
    _Worker(os.fdopen(os.dup(0), "rb"), outgoing).run()
    # The thread that listens is still reading.
    os._exit(0)
