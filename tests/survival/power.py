"""Pulls the plug on writers, round after round: `python -m tests.survival.power CONFIG`.

Each round: make an ext4 filesystem with a lake on it, let writers work until some batches are
acknowledged, and cut the power a random moment later. Then mount the filesystem again, as a booting
machine would, and compare the lake with the journals, which lie on another disk. Prints one JSON
line a round: what was acknowledged, which directories lost something, and what is damaged. Wrong
bytes end the run: they are never an acceptable loss.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from lakefeed import Lake
from lakefeed.errors import LakefeedError
from lakefeed.volume.base import Volume, WritableFile
from lakefeed.volume.posix import PosixVolume
from tests.survival.journal import losses, told
from tests.survival.lakes import audit, picture
from tests.survival.mounts import Image, cut_power
from tests.survival.writers import forked, write_forever


@dataclass(frozen=True)
class Config:
    """How many rounds with how many writers; `sync` off takes away what makes data durable."""

    directory: str
    rounds: int
    writers: int
    sync: bool
    seed: int


@dataclass(frozen=True)
class Round:
    """What one power cut did."""

    acknowledged: int
    lost: list[str]
    damage: str


class LyingVolume(PosixVolume):
    """A disk that says "synced" without doing it."""

    def create(self, path: str) -> _LyingFile:  # type: ignore[override]
        """Create a file whose `sync` does nothing."""
        return _LyingFile(super().create(path))

    def make_directory(self, path: str) -> None:
        """Make a directory, its name not durable."""
        os.makedirs(self._path(path), exist_ok=True)

    def sync_directory(self, path: str) -> None:
        """Do nothing."""


class _LyingFile:
    def __init__(self, inner: WritableFile) -> None:
        self._inner = inner
        self.write, self.tell, self.stat = inner.write, inner.tell, inner.stat
        self.close = inner.close

    def sync(self) -> None:
        """Do nothing."""

    def __enter__(self) -> _LyingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rounds(config: Config) -> Iterator[Round]:
    """Yield what each power cut did."""
    numbers = random.Random(config.seed)
    for number in range(config.rounds):
        place = Path(config.directory) / str(number)
        image = Image(place)
        journals = place / "journals"
        journals.mkdir()
        with image.mounted() as path:
            _work_until_cut(config, path, journals, numbers)
        acknowledged = sum(story.batches for story in told(journals).values())
        with image.mounted() as path:
            lost, damage = _look(path / "lake", journals)
        yield Round(acknowledged, lost, damage)


def _work_until_cut(config: Config, path: Path, journals: Path, numbers: random.Random) -> None:
    lake = path / "lake"
    Lake.create(lake).close()
    volume: Volume = PosixVolume(lake) if config.sync else LyingVolume(lake)
    names = [f"w{number}" for number in range(config.writers)]
    pids = [forked(partial(write_forever, volume, journals, name)) for name in names]
    try:
        _await_batches(journals, numbers.randint(2, 12))
        threading.Event().wait(numbers.uniform(0, 0.03))
        cut_power(path)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _await_batches(journals: Path, wanted: int) -> None:
    """Return once this many batches are acknowledged, by all writers together."""
    pause = threading.Event()
    for _ in range(6000):
        if sum(story.batches for story in told(journals).values()) >= wanted:
            return
        pause.wait(0.005)
    raise AssertionError("the writers acknowledge nothing")


def _look(lake: Path, journals: Path) -> tuple[list[str], str]:
    try:
        lost = losses(journals, picture(lake).files)
        audit(lake)
    except LakefeedError as error:
        return [], str(error)
    return lost, ""


if __name__ == "__main__":
    for done in rounds(Config(**json.loads(sys.argv[1]))):
        print(json.dumps(asdict(done)), flush=True)
