"""What a contestant is, and the data that all of them get.

A contestant prepares its own format from the same files, then delivers every sample once in an
order of its own choice, as shuffled as it can: the samples' bytes, in this process, in whatever the
framework hands over. It counts samples and bytes; a whole epoch must come to what was put in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BATCH = {"img": 64, "tiny": 256, "big": 8}
_SIZES = {"img": (90_000, 130_000), "tiny": (2_048, 6_144), "big": (2_400_000, 2_600_000)}
COUNTS = {"img": 4_000, "tiny": 60_000, "big": 160}
SMALL = {"img": 400, "tiny": 8_000, "big": 24}


@dataclass(frozen=True, slots=True)
class Task:
    """Where a contestant works: `files` are the plain files, `where` is a directory of its own."""

    kind: str
    files: Path
    where: Path
    deadline: float

    @property
    def batch(self) -> int:
        """How many samples make a batch."""
        return BATCH[self.kind]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came out; `whole` says that it was an epoch to its end."""

    samples: int
    bytes: int
    whole: bool


class Contestant(Protocol):
    """One way to read samples; `needs` are modules, "root" or "program:NAME" that must be there."""

    name: str
    needs: tuple[str, ...]

    def prepare(self, task: Task) -> None:
        """Make the contestant's own format from the files."""

    def run(self, task: Task) -> Delivered:
        """Deliver one epoch, or as much of it as fits before the deadline."""


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


def count(task: Task, batches: Iterable[Iterable[object]]) -> Delivered:
    """Count samples and bytes of batches of things that have a length, until the deadline."""
    found = size = 0
    for batch in batches:
        for sample in batch:
            size += len(sample)  # type: ignore[arg-type]
            found += 1
        if time.monotonic() > task.deadline:
            return Delivered(found, size, False)
    return Delivered(found, size, True)


def tally(task: Task, batches: Iterable[tuple[int, int]]) -> Delivered:
    """Add up (samples, bytes) of batches that are one buffer each, until the deadline."""
    found = size = 0
    for some, more in batches:
        found += some
        size += more
        if time.monotonic() > task.deadline:
            return Delivered(found, size, False)
    return Delivered(found, size, True)
