"""Two writers on the same names, merges, compaction, collection and readers, in any order of calls.

A seed decides who makes the next volume call. Whatever the order: the history is one chain (I4),
every snapshot is exactly what the commits before it say, replayed in their order on a dictionary
(I1, I5, I7), and tagged and pinned snapshots stay readable under garbage collection (I3, I6).
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.errors import Conflict, NotFound, SnapshotExpired
from lakefeed.lake import copying, layout
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.repacking import CopyOptions
from lakefeed.volume.base import write_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import small_groups
from tests.survival.lakes import audit, files_of
from tests.survival.stepped import Scheduler, SteppedVolume

pytestmark = pytest.mark.slow

SEEDS = 50
SEEDS_PER_TEST = 10
MANUAL = WriterOptions(flush_age_seconds=3600.0, merge_after=0)
NAMES = ("a", "b", "c", "d/e")
# The clock ticks once for every file made: what lay there before the run is old, the rest is not.
TICK_NS = 10**9
LONG_SECONDS = 10_000.0
COLLECT = Retention(keep_seconds=0.0, grace_seconds=LONG_SECONDS)

Model = dict[str, bytes]


@dataclass(frozen=True)
class Change:
    """What one step of a batch does; `data` is new content, or what the writer saw it move."""

    verb: str
    path: str
    target: str = ""
    data: bytes = b""

    def apply(self, model: Model) -> None:
        if self.verb == "put":
            model[self.path] = self.data
        elif self.verb == "rename":
            # Somebody else may have moved or deleted it since: then its bytes are what they were.
            model[self.target] = model.pop(self.path, self.data)
        else:
            model.pop(self.path, None)


@dataclass
class World:
    """One run: the shared volume, what the base holds, and which commit made which changes."""

    seed: int
    volume: MemoryVolume
    base: Model
    base_number: int
    scheduler: Scheduler
    commits: dict[int, list[Change]] = field(default_factory=dict)

    def open(self, actor: str) -> Lake:
        return Lake.open(SteppedVolume(self.volume, self.scheduler, actor))


def clock() -> Callable[[], int]:
    ticks = itertools.count(1)
    return lambda: next(ticks) * TICK_NS


def world(seed: int) -> World:
    """Return a lake with two runs of segments, an unmerged pack, a tag, and old garbage."""
    time_ns = clock()
    volume = MemoryVolume(clock_ns=time_ns)
    with Lake.create(volume) as lake, lake.writer(MANUAL) as writer:
        for round_ in range(3):
            for name in NAMES:
                writer.put(name, f"{name} base {round_}".encode() * 20)
            writer.flush()
            if round_ < 2:
                lake.merge_index()
        lake.tag("kept")
        base, number = files_of(lake.snapshot()), lake.snapshot().number
    write_file(volume, layout.pack_path("0" * 32), b"an orphan")
    write_file(volume, layout.tmp_path("0" * 32), b"left behind")
    for _ in range(int(LONG_SECONDS) + 1):
        time_ns()
    return World(seed, volume, base, number, Scheduler(seed))


def write(world: World, actor: str) -> None:
    numbers = random.Random(f"{world.seed} {actor}")
    with world.open(actor) as lake, lake.writer(MANUAL) as writer:
        for batch in range(3):
            changes: list[Change] = []
            handles = []
            for step in range(numbers.randint(1, 3)):
                verb = numbers.choice(("put", "rename", "rename", "delete"))
                path, target = numbers.sample(NAMES, 2)
                try:
                    if verb == "put":
                        data = f"{actor} {batch} {step}".encode() * 300
                        handles.append(writer.put(path, data))
                    elif verb == "rename":
                        data = writer.get(path)
                        handles.append(writer.rename(path, target))
                    else:
                        data = b""
                        handles.append(writer.delete(path))
                except NotFound:
                    continue
                changes.append(Change(verb, path, target, data))
            try:
                writer.flush()
            except Conflict:
                continue  # what it wanted to move is gone: the batch did not happen
            if handles:
                (number,) = {handle.wait() for handle in handles}
                world.commits[number] = changes


def merge(world: World, actor: str) -> None:
    numbers = random.Random(f"{world.seed} {actor}")
    with world.open(actor) as lake:
        for _ in range(2):
            try:
                lake.merge_index(everything=numbers.random() < 0.5)
            except Conflict:
                continue  # the other merge was first


class Inline:
    """An executor without threads: the scheduler knows one for each actor."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, action: Callable[..., object], *arguments: object) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(action(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        pass


def rewrite(world: World, actor: str) -> None:
    numbers = random.Random(f"{world.seed} {actor}")
    with world.open(actor) as lake:
        for _ in range(3):
            options = CompactionOptions(
                target_bytes=numbers.choice((1, 1000, 1 << 20)),
                live_ratio=numbers.choice((0.2, 0.8)),
            )
            try:
                compact(lake, options, CopyOptions(makes_way=False))
            except Conflict:
                continue  # another was first, or somebody refers to what was to go


def sweep(world: World, actor: str) -> None:
    with world.open(actor) as lake:
        for _ in range(2):
            collect(lake, COLLECT)


def read_pinned(world: World, actor: str) -> None:
    numbers = random.Random(f"{world.seed} {actor}")
    with world.open(actor) as lake:
        for _ in range(3):
            # The older a snapshot, the likelier that it is being given up right now.
            number = numbers.randint(world.base_number, lake.snapshot().number)
            try:
                pin = lake.pin(number, holder=actor, lifetime_seconds=LONG_SECONDS * 1000)
            except SnapshotExpired:
                continue
            first = files_of(lake.snapshot(number))
            with world.open(actor) as fresh:
                assert files_of(fresh.snapshot(number)) == first
            lake.refs.unpin(pin)
        assert files_of(lake.snapshot("kept")) == world.base


def read_unpinned(world: World, actor: str) -> None:
    with world.open(actor) as lake:
        for _ in range(3):
            snapshot = lake.snapshot()
            try:
                assert files_of(snapshot) == files_of(snapshot)
            except SnapshotExpired:
                assert snapshot.number < lake.log.head().horizon


ACTORS = {
    "writer 1": write,
    "writer 2": write,
    "merge 1": merge,
    "merge 2": merge,
    "compaction 1": rewrite,
    "compaction 2": rewrite,
    "gc": sweep,
    "pinned": read_pinned,
    "unpinned": read_unpinned,
}


def explore(seed: int) -> World:
    here = world(seed)
    here.scheduler.run({actor: partial(act, here, actor) for actor, act in ACTORS.items()})
    with Lake.open(here.volume) as lake:
        head = audit(here.volume)
        model = dict(here.base)
        for number in range(here.base_number + 1, head + 1):
            for change in here.commits.pop(number, []):
                change.apply(model)
            if number >= lake.log.head().horizon:
                assert files_of(lake.snapshot(number)) == model, f"snapshot {number}"
        assert files_of(lake.snapshot("kept")) == here.base
        assert not here.commits, "an acknowledged commit is not in the history"
        assert [*lake.volume.list(layout.TMP)] == []
        with pytest.raises(NotFound):
            lake.volume.stat(layout.pack_path("0" * 32))
    return here


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "lakefeed")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Segments and merges so small that runs are pushed down range by range."""
    monkeypatch.setattr(copying, "ThreadPoolExecutor", Inline)
    with small_groups():
        yield


@pytest.fixture(autouse=True)
def seeded_ids(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ids decide how many directories there are to list, so the seed has to decide the ids."""
    numbers = random.Random()
    monkeypatch.setattr(layout, "new_id", lambda: f"{numbers.getrandbits(128):032x}")
    return numbers.seed


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_every_order_of_calls_gives_one_history(
    first: int, seeded_ids: Callable[[int], None]
) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        seeded_ids(seed)
        try:
            explore(seed)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def test_the_same_seed_gives_the_same_history(seeded_ids: Callable[[int], None]) -> None:
    def story(seed: int) -> tuple[int, list[str]]:
        seeded_ids(seed)
        here = explore(seed)
        with Lake.open(here.volume) as lake:
            return here.scheduler.steps, [commit.operation for commit in lake.history()]

    assert story(1) == story(1)
    assert len({story(seed)[0] for seed in range(5)}) > 1
