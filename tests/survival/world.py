"""Where actors meet: one volume, a base to start from, and what is to become of whom.

All of it follows from the seed: what is damaged, how the server's clock goes, how many calls fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from lakefeed import Lake, WriterOptions
from lakefeed.lake import layout
from lakefeed.volume.base import write_file
from lakefeed.volume.memory import MemoryVolume
from tests.survival.clocks import JUMP_SECONDS, Clock
from tests.survival.oracle import Damage, Model, Told, shown
from tests.survival.stepped import MortalVolume, Scheduler

# Big files get a pack of their own; everything else waits for `flush`.
MANUAL = WriterOptions(flush_age_seconds=3600.0, merge_after=0, big_bytes=2000)
NAMES = ("a", "b", "c", "d/e", "d/f", "g/h/i", "g/h/j", "g/k")
MORE = tuple(f"more/{number}" for number in range(20))
DIRECTORIES = ("d", "g", "g/h", "x", "y")
LONG_SECONDS = 20_000
SHORT_SECONDS = 1
ROUNDS = 3


class Disk(MemoryVolume):
    """A volume whose bytes rot."""

    def rot(self, path: str, at: int) -> None:
        """Change one byte of a file, where it is; nothing else tells of it."""
        node = self._node(path)
        node.data[at] ^= 0xFF
        node.durable = bytes(node.data) if node.durable else b""


@dataclass
class World:
    """One run: the shared volume, what the base holds, what was told, and what becomes of whom."""

    seed: int
    volume: Disk
    clock: Clock
    home: Path
    base: Model = field(default_factory=dict)
    base_number: int = 0
    told: Told = field(default_factory=Told)
    scheduler: Scheduler = field(init=False)
    numbers: random.Random = field(init=False)
    volumes: dict[str, MortalVolume] = field(default_factory=dict)
    fault_share: float = 0.0
    # From which step of the scheduler to which there is no room on the volume.
    full: range = range(0)
    # Whether the power is cut while all are at work.
    is_cut: bool = False
    # Some collect what is young: whoever is slow to commit finds its files gone.
    grace_seconds: float = LONG_SECONDS
    # Where files are moved to; it fails, and loses power, as the other one.
    away: MemoryVolume = field(default_factory=MemoryVolume)
    # Whether the inbox keeps what was taken in.
    keeps: bool = False
    # Tags that were made or deleted, None, and those of which nobody knows.
    tagged: dict[str, int | None] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    # The payloads that are damaged; more may become so.
    damaged: set[Damage] = field(default_factory=set)
    # What a mount was told is durable under its own names, and what it wrote since, in order.
    promised: dict[str, list[bytes | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = random.Random(f"{self.seed} world")
        self.scheduler = Scheduler(self.seed)

    @property
    def is_calm(self) -> bool:
        """Whether nobody dies, and no call fails."""
        return not self.is_faulty and not any(one.is_mortal for one in self.volumes.values())

    @property
    def is_faulty(self) -> bool:
        """Whether calls may fail."""
        return bool(self.fault_share or self.full)

    @property
    def findings(self) -> set[str]:
        """What fsck may find: two writers at one moment may make a file and a directory of one
        name, and a payload that is damaged is."""
        return {"shadowed", "payload"} if self.damaged else {"shadowed"}

    def open(self, actor: str) -> Lake:
        """Open the lake as this actor; a whole run of it is one process."""
        return Lake.open(self.volumes[actor])

    def open_away(self, actor: str) -> Lake:
        """Open the other lake as this actor."""
        return Lake.open(self.volumes[actor].over(self.away))

    def dice(self, *what: object) -> random.Random:
        """Return the numbers that decide one thing, whoever comes between."""
        return random.Random(" ".join(map(str, (self.seed, *what))))


def world(seed: int, home: Path) -> World:
    """Return a lake with two runs of segments, an unmerged pack, a tag, and old garbage."""
    clock = Clock(seed)
    here = World(seed, Disk(clock_ns=clock), clock, home)
    # Beside a big run, compaction takes no segment: its own run comes to lie on top of that one.
    names = NAMES + MORE if here.dice("base").random() < 0.5 else NAMES
    with Lake.create(here.volume) as lake, lake.writer(MANUAL) as writer:
        for round_ in range(3):
            for name in names if not round_ else NAMES:
                writer.put(name, f"{name} base {round_}".encode() * 20)
            if round_ == 1:
                writer.mkdir("d")
                writer.mkdir("e", mode=0o700)
            writer.flush()
            if round_ < 2:
                lake.merge_index()
        lake.tag("kept")
        here.base, here.base_number = shown(lake.snapshot()), lake.snapshot().number
    write_file(here.volume, layout.pack_path("0" * 32), b"an orphan")
    write_file(here.volume, layout.tmp_path("0" * 32), b"left behind")
    here.grace_seconds = here.dice("grace").choice((LONG_SECONDS, SHORT_SECONDS))
    Lake.create(here.away).close()
    here.keeps = here.numbers.random() < 0.3
    if here.numbers.random() < 0.2:
        _damage(here, here.numbers.choice(NAMES))
    for _ in range(LONG_SECONDS + 2 * JUMP_SECONDS):
        clock()
    return here


def _damage(here: World, name: str) -> None:
    """Change a byte of a file's payload: nobody may give it out, and all else stays as it is."""
    with Lake.open(here.volume) as lake:
        row = lake.snapshot().stat(name)
    here.volume.rot(layout.pack_path(row.pack), row.offset)
    here.damaged.add((row.size, row.crc32c))


class Inline:
    """An executor without threads: the scheduler knows one for each actor, and a reader takes more
    where the volume is slow, as it is for whoever waits for a turn."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, action: Callable[..., object], *arguments: object) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(action(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def map(self, action: Callable[[object], object], each: Iterable[object]) -> Iterator[object]:
        return map(action, each)

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        pass
