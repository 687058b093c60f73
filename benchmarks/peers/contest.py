"""What a contestant is, and the data that all of them get.

A contestant prepares its own format from the same files, then delivers every sample once an epoch
in an order of its own choice, as shuffled as it can: the samples' bytes, in this process, in
whatever the framework hands over. It counts samples and bytes; the first epoch that was read to its
end must come to what was put in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BATCH = {"img": 64, "tiny": 256, "big": 8}
_SIZES = {"img": (90_000, 130_000), "tiny": (2_048, 6_144), "big": (2_400_000, 2_600_000)}
COUNTS = {"img": 8_000, "tiny": 150_000, "big": 320}
SMALL = {"img": 400, "tiny": 8_000, "big": 24}


@dataclass(frozen=True, slots=True)
class Task:
    """Where a contestant works: `files` are the plain files, `where` is a directory of its own.

    A run ends `seconds` behind its first batch, or with its epoch unless it goes `again`.
    """

    kind: str
    files: Path
    where: Path
    condition: str = "warm"
    seconds: float = float("inf")
    again: bool = False

    @property
    def batch(self) -> int:
        """How many samples make a batch."""
        return BATCH[self.kind]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came out until when: the first batch, all batches, and the first epoch if it ended."""

    samples: int
    bytes: int
    first_samples: int
    first_at: float
    first_cpu: float
    epoch: tuple[int, int] | None


class Contestant(Protocol):
    """One way to read samples; `needs` are modules, "root" or "program:NAME" that must be there."""

    name: str
    needs: tuple[str, ...]

    def prepare(self, task: Task) -> None:
        """Make the contestant's own format from the files."""

    def run(self, task: Task) -> Delivered:
        """Deliver epochs, or as much of one as fits into the time."""


def sizes(kind: str, count: int) -> list[int]:
    """Return the size of every sample; the same for the same count."""
    low, high = _SIZES[kind]
    chance = random.Random(f"{kind} {count}")
    return [chance.randint(low, high) for _ in range(count)]


def make_files(where: Path, kind: str, count: int) -> None:
    """Write the plain files: unique incompressible bytes, 1,000 to a directory."""
    chance = random.Random(f"bytes {kind}")
    for number, size in enumerate(sizes(kind, count)):
        directory = where / f"{number // 1000:04d}"
        if number % 1000 == 0:
            directory.mkdir(parents=True)
        (directory / f"{number:07d}.bin").write_bytes(chance.randbytes(size))


def listed(files: Path) -> list[str]:
    """Return the plain files, sorted."""
    return sorted(str(path) for path in files.glob("*/*.bin"))


def samples(files: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of every file."""
    for number, path in enumerate(listed(files)):
        yield number, Path(path).read_bytes()


def count(task: Task, epoch: Callable[[], Iterable[Iterable[object]]]) -> Delivered:
    """Count samples and bytes of batches of things that have a length."""

    def counted() -> Iterator[tuple[int, int]]:
        for batch in epoch():
            lengths = list(map(len, batch))  # type: ignore[arg-type]
            yield len(lengths), sum(lengths)

    return tally(task, counted)


def tally(task: Task, epoch: Callable[[], Iterable[tuple[int, int]]]) -> Delivered:
    """Add up (samples, bytes) of batches that are one buffer each; `epoch` starts an epoch."""
    found = size = 0
    first = (0, 0.0, 0.0)
    whole = None
    while whole is None or task.again:
        for some, more in epoch():
            found += some
            size += more
            now = time.perf_counter()
            if not first[0]:
                first = (some, now, time.process_time())
            elif now > first[1] + task.seconds:
                return Delivered(found, size, *first, whole)
        whole = whole or (found, size)
    return Delivered(found, size, *first, whole)
