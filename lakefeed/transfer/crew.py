"""Several processes that import one source: the parent walks it and deals the names out.

One interpreter handles some 25,000 files a second however many threads it has. So the parent only
walks, and deals chunks of neighbouring names to whichever worker asks next; each worker plans,
reads, packs and commits as an import of its own does (`worker`), beside the others as any writers
are. Commits keep I1 and I2 as ever: the crew shares nothing but pipes.

Workers ignore the terminal; the parent tells them to stop. One whose pipe ends has lost its parent
and ends at once, like one that is killed: what it had committed stays, the rest is garbage to
collect. When a worker fails, the others are stopped and its error is raised.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import islice
from queue import SimpleQueue
from typing import IO, Any

from lakefeed.errors import LakefeedError, VolumeFailed
from lakefeed.format.rows import Kind
from lakefeed.transfer.filling import Counts
from lakefeed.transfer.problems import Problem, Problems
from lakefeed.transfer.recruiting import Recruits
from lakefeed.transfer.walk import Found
from lakefeed.volume.base import Volume
from lakefeed.volume.deadline import DeadlineVolume
from lakefeed.volume.posix import PosixVolume

# Some ten milliseconds of work: little to wait for at the end, and few messages.
CHUNK_NAMES = 512
# One to work on, one to go on with while the next is on its way.
CHUNKS_AHEAD = 2
_KINDS = tuple(Kind)


# -- what goes over the pipes, as pickles ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring names for a worker, in two strings that pickle quickly."""

    paths: str
    kinds: bytes

    @classmethod
    def of(cls, found: list[Found]) -> Chunk:
        """Pack names up."""
        return cls("\0".join([one.path for one in found]), bytes([one.kind for one in found]))

    def found(self) -> list[Found]:
        """Return the names again."""
        kinds = [_KINDS[kind] for kind in self.kinds]
        return list(map(Found, self.paths.split("\0"), kinds))


@dataclass(frozen=True, slots=True)
class Finish:
    """No more names: seal and commit, or throw the packs at hand away. `soon`: read no more."""

    soon: bool = False
    abandon: bool = False


@dataclass(frozen=True, slots=True)
class Wanting:
    """A worker has begun with a chunk and would like another."""


@dataclass(frozen=True, slots=True)
class Going:
    """How far a worker is."""

    counts: Counts
    errors: int


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has committed everything it was dealt."""

    counts: Counts
    errors: int
    problems: tuple[Problem, ...]


def receive(pipe: IO[bytes]) -> Any:
    """Return the next message, None when there will be no other."""
    try:
        return pickle.load(pipe)
    except (EOFError, pickle.UnpicklingError):
        # Both are how a pipe reads whose other end was killed, between messages or within one.
        return None


def can_travel(volume: Volume) -> bool:
    """Tell whether another process can open the same volume."""
    if isinstance(volume, DeadlineVolume):
        volume = volume.inner
    return type(volume) is PosixVolume


# -- the parent ------------------------------------------------------------------------------------


class _Member:
    """A worker process, and the threads that listen and talk to it.

    An interrupt lands in the main thread, so no other way of sending leaves messages whole.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        job: object,
        inbox: SimpleQueue[tuple[_Member, Any]],
    ) -> None:
        self.process = process
        self.counts = Counts()
        self.errors = 0
        self._inbox = inbox
        self._outbox: SimpleQueue[object] = SimpleQueue()
        self._listener = threading.Thread(target=self._listen, name="lakefeed-crew", daemon=True)
        self._listener.start()
        self._talker = threading.Thread(target=self._talk, name="lakefeed-crew", daemon=True)
        self._talker.start()
        self.send(job)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        message: Any = Wanting()
        while message is not None:
            message = receive(self.process.stdout)
            self._inbox.put((self, message))

    def _talk(self) -> None:
        assert self.process.stdin is not None
        # Of a worker that is gone the listener hears.
        with suppress(BrokenPipeError), self.process.stdin:
            while (message := self._outbox.get()) is not None:
                self.process.stdin.write(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
                self.process.stdin.flush()

    def send(self, message: object) -> None:
        """Tell the worker something, soon."""
        self._outbox.put(message)

    def wait(self) -> None:
        """Return when the worker has ended."""
        self._listener.join()

    def failure(self) -> LakefeedError:
        """Return why the worker ended without a word."""
        code = self.process.wait()
        found = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        return VolumeFailed(
            f"import worker {self.process.pid}",
            found=found,
            hint="run the import again: it goes on where it was",
        )

    def end(self) -> None:
        """Close the pipe, which ends a worker that still lives, and wait."""
        assert self.process.stdout is not None
        self._outbox.put(None)
        self._talker.join()
        self.wait()
        self.process.wait()
        self.process.stdout.close()


class Crew:
    """Some workers for one import; `job` is what each needs to begin."""

    def __init__(self, size: int, recruits: Recruits, job: object, problems: Problems) -> None:
        self._size = size
        self._recruits = recruits
        self._job = job
        self._problems = problems
        self._inbox: SimpleQueue[tuple[_Member, Any]] = SimpleQueue()
        self._members: list[_Member] = []
        self._busy: set[_Member] = set()

    def run(self, found: Iterator[Found], progress: Callable[[Counts, int], None]) -> Counts:
        """Deal everything out and return the sum of what the workers did."""
        try:
            for _ in range(self._size):
                member = _Member(self._recruits.take(), self._job, self._inbox)
                self._members.append(member)
                self._busy.add(member)
            for member in self._members * CHUNKS_AHEAD:
                self._deal(member, found)
            self._listen(lambda member: self._deal(member, found), progress)
        except KeyboardInterrupt:
            self._dismiss(abandon=False)
            raise
        except BaseException:
            self._dismiss(abandon=True)
            raise
        finally:
            for member in self._members:
                member.end()
        return self._sum()

    def _deal(self, member: _Member, found: Iterator[Found]) -> None:
        chunk = list(islice(found, CHUNK_NAMES))
        member.send(Chunk.of(chunk) if chunk else Finish())

    def _listen(
        self, wanting: Callable[[_Member], None], progress: Callable[[Counts, int], None]
    ) -> None:
        """Take what the workers say until all are done."""
        while self._busy:
            member, message = self._inbox.get()
            if isinstance(message, Wanting):
                wanting(member)
                continue
            if isinstance(message, Going):
                member.counts, member.errors = message.counts, message.errors
            elif isinstance(message, Done):
                self._busy.discard(member)
                self._problems.take_some(message.errors, message.problems)
                member.counts, member.errors = message.counts, 0
            elif isinstance(message, LakefeedError):
                raise message
            elif member in self._busy:
                raise member.failure()
            errors = self._problems.count + sum(one.errors for one in self._members)
            progress(self._sum(), errors)

    def _dismiss(self, *, abandon: bool) -> None:
        """Have the packs at hand committed or thrown away; a second interrupt does the latter."""
        for member in self._members:
            member.send(Finish(soon=True, abandon=abandon))
        try:
            for member in self._members:
                member.wait()
        except KeyboardInterrupt:
            self._dismiss(abandon=True)
            raise

    def _sum(self) -> Counts:
        return Counts(*map(sum, zip(*(astuple(one.counts) for one in self._members), strict=True)))
