"""Those who train while others change the lake: the ranks of a world, each with a feed of its own.

They take their batches step by step from feeds that stay open and read ahead, whatever others
commit, compact and collect meanwhile, and from a volume that refuses a read now and then. After
such an error, and now and then by their own choice, all of them go on from what they have done so
far: in as many ranks as before or others, from the first snapshot or a newer one of the same files.
In each epoch every file is served once, to the byte, or who has pinned nothing is told that it is
gone: no epoch is short.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

from lakefeed import Feed, FeedOptions, Lake
from lakefeed.closing import Closing
from lakefeed.errors import Invalid, NotFound, SnapshotExpired, VolumeFailed
from lakefeed.feed.batch import Batch
from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import Kind
from lakefeed.volume.base import Volume
from tests.support.faulty import HookedVolume
from tests.survival.oracle import Model, shown
from tests.survival.world import LONG_SECONDS, ROUNDS, World

WORLD_MAX = 3
# How often a read is refused.
SHARES = (0.0, 0.02)
# Others make many calls while who trains looks at the log so often.
PAUSE_LOOKS_MAX = 20
# More than an epoch has, refused reads included.
STEPS_MAX = 200


class SickVolume(HookedVolume):
    """A volume that refuses some reads; whoever repeats them is not helped by waiting."""

    def __init__(self, inner: Volume, numbers: random.Random, share: float) -> None:
        super().__init__(inner)
        self._chance = numbers
        self._share = share

    def before(self, verb: str, path: str) -> None:
        """Refuse some reads."""
        if verb == "read" and self._chance.random() < self._share:
            raise VolumeFailed(f"read of {path}", found="an injected fault", errno=errno.EACCES)


class Training(Closing):
    """All ranks of one training; `files` is what snapshot `first` shows."""

    def __init__(self, here: World, first: int, files: Model, numbers: random.Random) -> None:
        self._here, self._first, self._files, self._numbers = here, first, files, numbers
        self._options = FeedOptions(batch_size=numbers.choice((1, 3)), seed=numbers.randrange(9),
                                    shuffle=numbers.choice(("global", "runs=2", None)),
                                    epochs=None, prefetch=4, on_corrupt="skip")  # fmt: skip
        self._share = numbers.choice(SHARES)
        self._open = ExitStack()
        self._feeds: list[Feed] = []
        self._state: Mapping[str, object] | None = None
        self._got: Counter[str] = Counter()
        self.epochs = 0
        # Set once the first snapshot is gone.
        self.is_over = False

    def step(self) -> None:
        """Have each rank take a batch; what is done once a read was refused counts for nothing."""
        if self.is_over:
            return
        try:
            feeds = self._feeds or self._begun()
            batches = [next(feed) for feed in feeds]
        except VolumeFailed:
            self.stop()
            return
        except SnapshotExpired:
            self.is_over = all(feed.snapshot.number == self._first for feed in self._feeds)
            self.stop()
            return
        states = [batch.state for batch in batches]
        assert states == states[:1] * len(states), f"ranks stand apart: {states}"
        self._state = states[0]
        for batch in batches:
            self._count(batch)
        if states[0]["epoch"] != self.epochs:
            assert self._got == Counter(dict.fromkeys(self._files, 1)), "no whole epoch"
            self.epochs, self._got = self.epochs + 1, Counter()

    def stop(self) -> None:
        """Close all feeds; the next step goes on from what was done so far."""
        self._feeds = []
        self._open.close()

    def close(self) -> None:
        """Close all feeds."""
        self.stop()

    def _begun(self) -> list[Feed]:
        """Open the feeds of all ranks, of a newer snapshot where that has the same files."""
        world_size = self._numbers.randint(1, min(WORLD_MAX, len(self._files)))
        volume = SickVolume(self._here.volume, self._numbers, self._share)
        lake = self._open.enter_context(Lake.open(volume))
        newest = self._state is not None and self._numbers.random() < 0.5
        for at in (None, self._first) if newest else (self._first,):
            try:
                self._feeds = [self._feed(lake, at, rank, world_size) for rank in range(world_size)]
                return self._feeds
            except SnapshotExpired:
                raise
            except (Invalid, NotFound):
                if at is not None:
                    raise
        raise AssertionError("the first snapshot serves, or raises")

    def _feed(self, lake: Lake, at: int | None, rank: int, world_size: int) -> Feed:
        options = replace(self._options, rank=rank, world_size=world_size)
        feed = self._open.enter_context(Feed(lake.snapshot(at), "", options))
        if self._state is not None:
            feed.restore(self._state)
        return feed

    def _count(self, batch: Batch) -> None:
        data = memoryview(batch.data)
        for path, (start, end) in zip(batch.paths, pairwise(batch.splits.tolist()), strict=True):
            assert crc32c(data[start:end]) == self._files[path].crc32c, f"{path} served otherwise"
        for path in batch.corrupt:
            facts = self._files[path]
            assert (facts.size, facts.crc32c) in self._here.damaged, f"{path} called damaged"
        self._got.update([*batch.paths, *batch.corrupt])


def train(here: World, actor: str) -> None:
    """Serve epochs of one snapshot, pinned or not, while others go on between the steps."""
    numbers = here.dice(actor)
    pinned = numbers.random() < 0.6
    with here.open(actor) as lake:
        number = lake.snapshot().number
        try:
            pin = lake.pin(number, holder=actor, lifetime_seconds=LONG_SECONDS * 1000)
            model = shown(lake.snapshot(number), here.damaged)
        except SnapshotExpired:
            return  # given up between the look and the pin
        if not pinned:
            lake.refs.unpin(pin)
        files = {path: facts for path, facts in model.items() if facts.kind is Kind.FILE}
        if not files:
            return
        with Training(here, number, files, here.dice(actor, "training")) as training:
            for _ in range(2 * ROUNDS):
                for _ in range(numbers.randint(1, PAUSE_LOOKS_MAX)):
                    lake.log.head()
                for _ in range(numbers.randint(1, 3)):
                    training.step()
                if numbers.random() < 0.4:
                    training.stop()
            _finish(training)
            is_gone = number < lake.log.head().horizon
            assert not training.is_over or (is_gone and not pinned), f"{number} is kept"
        if pinned:
            lake.refs.unpin(pin)


def _finish(training: Training) -> None:
    """Serve an epoch to its end."""
    before = training.epochs
    for _ in range(STEPS_MAX):
        training.step()
        if training.is_over or training.epochs != before:
            return
    raise AssertionError(f"no epoch ended within {STEPS_MAX} steps")
