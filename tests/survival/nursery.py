"""Runs writers and readers on one lake and kills them, `python -m tests.survival.nursery CONFIG`.

One process imports everything once and forks the rest. It kills a random writer with SIGKILL at
random moments and puts a new one in its place, with a directory of its own; a child that ends
without being killed ends the run with exit code 1. At the end everybody is killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lakefeed.volume.posix import PosixVolume
from tests.survival.writers import forked, read_forever, write_forever

# Between two kills: some writers die while they start, most in the middle of a batch.
PAUSE_SECONDS_MAX = 0.25
# On a busy machine killing would outrun writing: at most this many deaths for a batch done.
KILLS_PER_BATCH = 2


@dataclass(frozen=True)
class Config:
    """What to run: on which lake, where the journals go, how many processes, for how long at least
    and until how many batches are done and writers killed, by which seed."""

    lake: str
    journals: str
    writers: int
    readers: int
    seconds: float
    batches: int
    kills: int
    seed: int


class Nursery:
    """The children of one run; used by one thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._volume = PosixVolume(config.lake)
        self._numbers = random.Random(config.seed)
        self._writers: list[int] = []
        self._readers: list[int] = []
        self._born = 0

    def run(self) -> int:
        """Return how many writers were killed."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        deadline = time.monotonic() + self._config.seconds
        kills = 0
        try:
            self._readers = [self._reader(number) for number in range(self._config.readers)]
            self._writers = [self._writer() for _ in range(self._config.writers)]
            while (
                time.monotonic() < deadline
                or self._batches() < self._config.batches
                or kills < self._config.kills
            ):
                self._watch(self._numbers.uniform(0, PAUSE_SECONDS_MAX))
                if kills < KILLS_PER_BATCH * self._batches() + self._config.writers:
                    victim = self._numbers.randrange(len(self._writers))
                    self._kill(self._writers[victim])
                    self._writers[victim] = self._writer()
                    kills += 1
        finally:
            for pid in (*self._writers, *self._readers):
                self._kill(pid)
        return kills

    def _batches(self) -> int:
        """Return how many batches were acknowledged so far."""
        journals = Path(self._config.journals).glob("*.journal")
        return sum(path.read_bytes().count(b'"done"') for path in journals)

    def _reader(self, number: int) -> int:
        return forked(lambda: read_forever(self._volume, number))

    def _writer(self) -> int:
        self._born += 1
        directory = f"w{self._config.seed}-{self._born}"
        journals = Path(self._config.journals)
        return forked(lambda: write_forever(self._volume, journals, directory))

    def _watch(self, seconds: float) -> None:
        """Wait, and fail if a child ends meanwhile."""
        if signal.sigtimedwait({signal.SIGCHLD}, seconds) is not None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                role = "reader" if pid in self._readers else "writer"
                sys.exit(f"a {role} ended by itself, status {status}")

    def _kill(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return
        # The signal of this death is no news to `_watch`.
        signal.sigtimedwait({signal.SIGCHLD}, 0)
        if status != signal.SIGKILL:
            sys.exit(f"process {pid} ended by itself, status {status}")


if __name__ == "__main__":
    print(Nursery(Config(**json.loads(sys.argv[1]))).run())
