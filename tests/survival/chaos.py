"""Two replicas of compactd under fire, `python -m tests.survival.chaos CONFIG`.

On one lake at the same time: writers that put, overwrite, rename and delete; readers that hold a
snapshot and read it again and again; a producer that drops files into the inbox, drops some of them
again with other bytes, and deletes some from the lake once they have arrived; and two daemons that
take in, compact and collect, of which a random one is killed with SIGKILL at random moments. A
writer or reader that ends by itself ends the run with exit code 1.

Then everybody but the daemons stops, the inbox runs empty, and the run prints what was done.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lakefeed import Lake
from lakefeed.errors import SnapshotExpired
from lakefeed.volume.base import Volume
from lakefeed.volume.posix import PosixVolume
from tests.support.patience import PATIENCE_SECONDS
from tests.survival.journal import content, id_of
from tests.survival.lakes import files_of
from tests.survival.writers import forked, write_forever

# A start takes a second or two of a busy processor: kills come some while after it, at any step.
PAUSE_SECONDS = (0.5, 3.0)
PATHS = 400


@dataclass(frozen=True)
class Config:
    """What to run, for how long at least, and until how much was killed and dropped."""

    lake: str
    inbox: str
    journals: str
    seconds: float
    seed: int
    kills: int
    drops: int
    writers: int = 2
    readers: int = 2


@dataclass
class Told:
    """What the producer did: the last bytes of each path, and the paths it deleted for good."""

    dropped: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    drops: int = 0
    kills: int = 0


def read_held(volume: Volume, seed: int) -> None:
    """Hold snapshots and read them over and over; any error or wrong byte ends the process."""
    numbers = random.Random(seed)
    with Lake.open(volume) as lake:
        while True:
            try:
                hold = lake.hold(holder=f"reader {seed}", lifetime_seconds=60)
            except SnapshotExpired:
                continue  # collected between looking for the newest and pinning it
            with hold:
                snapshot = lake.snapshot(hold.number)
                was = files_of(snapshot)
                for data in was.values():
                    id_of(data)
                while numbers.random() < 0.7:
                    assert files_of(snapshot) == was
                    hold.check()


class Chaos:
    """One run; used by one thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._numbers = random.Random(config.seed)
        self._told = Told()
        self._children: list[int] = []
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}
        self._inbox = Path(config.inbox)

    def run(self) -> Told:
        """Do it all, and return what was done."""
        config = self._config
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        volume = PosixVolume(config.lake)
        try:
            for number in range(config.writers):
                directory, journals = f"w{number}", Path(config.journals)
                self._children.append(
                    forked(lambda d=directory, j=journals: write_forever(volume, j, d))
                )
            for number in range(config.readers):
                self._children.append(forked(lambda n=number: read_held(volume, n)))
            self._daemons = [self._daemon(), self._daemon()]
            self._storm()
            for pid in self._children:
                _kill(pid)
            self._children = []
            self._drain()
        finally:
            for pid in self._children:
                _kill(pid)
            for daemon in self._daemons:
                daemon.kill()
                daemon.wait()
        return self._told

    def _daemon(self) -> subprocess.Popen[bytes]:
        config, born = self._config, len(self._logs) + 1
        log = Path(config.journals) / f"daemon-{born}.log"
        words = [
            *("--inbox", f"{config.inbox}=in", "--inbox-quiet", "0s", "--pack-age", "0s"),
            *("--interval", "1s", "--packs-min", "2", "--lease", "2s", "--pack-files", "50"),
            *("--gc-interval", "2s", "--keep", "10s", "--listen", "127.0.0.1:0"),
            *("--scrub-interval", "5s", "--scrub-duration", "1s", "--name", f"r{born}"),
        ]
        with log.open("wb") as said:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "lakefeed", "compactd", config.lake, *words],
                stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip
        self._logs[daemon.pid] = log
        return daemon

    def _storm(self) -> None:
        """Drop, delete and kill, until the time is over and enough was done."""
        config, told = self._config, self._told
        end = time.monotonic() + config.seconds
        next_kill = time.monotonic() + self._numbers.uniform(*PAUSE_SECONDS)
        with Lake.open(self._config.lake) as lake:
            while time.monotonic() < end or told.kills < config.kills or told.drops < config.drops:
                self._drop()
                self._delete(lake)
                self._watch()
                if time.monotonic() >= next_kill:
                    self._kill_one()
                    next_kill = time.monotonic() + self._numbers.uniform(*PAUSE_SECONDS)

    def _drop(self) -> None:
        """Drop some files, new ones or other bytes for old names; never for a deleted one."""
        told = self._told
        for _ in range(self._numbers.randrange(1, 8)):
            path = f"{self._numbers.randrange(PATHS)}"
            if f"in/{path}" in told.deleted:
                continue
            told.drops += 1
            content_id = f"{path}#{told.drops}"
            hidden = self._inbox / f".{path}.part"
            hidden.write_bytes(content(content_id))
            hidden.rename(self._inbox / path)
            told.dropped[f"in/{path}"] = content_id

    def _delete(self, lake: Lake) -> None:
        """Delete a file from the lake that has arrived as it was dropped last."""
        told = self._told
        if self._numbers.random() > 0.3 or not told.dropped:
            return
        path = self._numbers.choice(sorted(told.dropped))
        if path in told.deleted or (self._inbox / path.removeprefix("in/")).exists():
            return
        with lake.hold(holder="producer", lifetime_seconds=60) as hold:
            snapshot = lake.snapshot(hold.number)
            arrived = snapshot.exists(path) and id_of(snapshot.get(path)) == told.dropped[path]
        if arrived:
            with lake.writer(operation="producer") as writer:
                writer.delete(path)
            told.deleted.append(path)

    def _watch(self) -> None:
        """Fail if a writer or reader has ended."""
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        for pid in self._children:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._children.remove(pid)
                sys.exit(f"a writer or reader ended by itself, status {status}")

    def _kill_one(self) -> None:
        at = self._numbers.randrange(len(self._daemons))
        daemon = self._daemons[at]
        if daemon.poll() is not None:
            said = self._logs[daemon.pid].read_text()[-2000:]
            sys.exit(f"a daemon ended by itself, {daemon.returncode}: {said}")
        daemon.kill()
        daemon.wait()
        self._told.kills += 1
        self._daemons[at] = self._daemon()

    def _drain(self) -> None:
        """Let the daemons take in what is left, then end them in good order."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(not name.startswith(".") for name in os.listdir(self._inbox)):
            if time.monotonic() > deadline:
                sys.exit("the inbox did not run empty")
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
        for daemon in self._daemons:
            daemon.send_signal(signal.SIGTERM)
        codes = [daemon.wait(PATIENCE_SECONDS) for daemon in self._daemons]
        # 143, or the signal itself: it was put in place anew so late that it had not begun yet.
        if not {*codes} <= {0, 143, -signal.SIGTERM}:
            sys.exit(f"daemons ended with {codes} on SIGTERM")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


if __name__ == "__main__":
    print(json.dumps(asdict(Chaos(Config(**json.loads(sys.argv[1]))).run())))
