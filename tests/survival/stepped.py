"""Every interleaving of volume calls that a seed can name.

Each actor has a `SteppedVolume` of its own over one shared volume. Whoever is about to make a
volume call parks; once every actor that is not finished has parked, the scheduler lets one of them
make its call and run on to its next. So one thread runs at a time, and the seed alone decides the
order: the same seed gives the same history. An actor may use threads inside, as a writer does, if
only one of them is at work at a time.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lakefeed.errors import Conflict, NotFound, VolumeFailed
from lakefeed.volume.base import Listed, Volume
from tests.support.faulty import FaultyVolume, HookedVolume

# Longer than any actor computes between two calls; only a deadlock takes as long.
STUCK_SECONDS = 60.0
# How likely the same actor goes on: from turn by turn to one that does nearly all while others park
# in the middle of something.
PATIENCE = (0.0, 0.8, 0.97, 0.995)
# How calls fail on volumes, and what NFS says to one that it has carried out already.
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ETIMEDOUT, errno.ESTALE)
SENT_TWICE = {"link": Conflict, "unlink": NotFound, "replace": NotFound}

TAKES_ROOM = ("create", "write", "sync", "link", "make_directory")

T = TypeVar("T")


class Scheduler:
    """Runs actors one call at a time. The lock guards all fields."""

    def __init__(self, seed: int) -> None:
        self._numbers = random.Random(seed)
        self._patience = self._numbers.choice(PATIENCE)
        self._last = ""
        self._changed = threading.Condition()  # what `run` waits for
        # Who waits, each at a lock of his own: woken all together they would wait for each other.
        self._parked: dict[str, list[threading.Lock]] = {}
        self._errors: list[BaseException] = []
        self.steps = 0
        # Who called what, in order.
        self.calls: list[tuple[str, str, str]] = []

    def step(self, actor: str, verb: str, path: str) -> None:
        """Return when this actor may make its next call; at once where nothing is scheduled."""
        with self._changed:
            if actor not in self._parked:
                return
            turn = threading.Lock()
            turn.acquire()
            self._parked[actor].append(turn)
            self._changed.notify()
        seen = -1
        while not turn.acquire(timeout=STUCK_SECONDS):
            # On a busy machine a turn may be long in coming: as long as others have theirs.
            assert self.steps != seen, f"stuck: nobody let {actor} go on"
            seen = self.steps
        self.calls.append((actor, verb, path))

    def run(self, actors: dict[str, Callable[[], object]]) -> None:
        """Run all actors to their ends, and raise what the first of them to fail raised."""
        threads = [
            threading.Thread(target=self._act, args=(name, work), name=name, daemon=True)
            for name, work in actors.items()
        ]
        self._parked = {name: [] for name in actors}
        for thread in threads:
            thread.start()
        while self._let_one_go():
            pass  # it counts
        for thread in threads:
            thread.join(STUCK_SECONDS)
        if self._errors:
            raise self._errors[0]

    def _act(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)
        finally:
            with self._changed:
                del self._parked[name]
                self._changed.notify()

    def _let_one_go(self) -> bool:
        with self._changed:
            everybody_waits = self._changed.wait_for(
                lambda: all(self._parked.values()), STUCK_SECONDS
            )
            assert everybody_waits, (
                f"stuck: {[name for name, at in self._parked.items() if not at]}"
            )
            if not self._parked:
                return False
            chosen = self._choose()
            self.steps += 1
            self._parked[chosen].pop(0).release()
            return True

    def _choose(self) -> str:
        stays = self._last in self._parked and self._numbers.random() < self._patience
        if not stays:
            self._last = self._numbers.choice(sorted(self._parked))
        return self._last


class SteppedVolume(HookedVolume):
    """One actor's way to the volume: every call, those of open files included, is a step."""

    def __init__(self, inner: Volume, scheduler: Scheduler, actor: str) -> None:
        super().__init__(inner)
        self._scheduler = scheduler
        self._actor = actor

    def before(self, verb: str, path: str) -> None:
        """Wait for this actor's turn."""
        self._scheduler.step(self._actor, verb, path)

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory, read in one step."""
        yield from self.run("list", directory, lambda: [*self.inner.list(directory)])


class Died(BaseException):
    """The process of an actor ended at this call, as by kill -9."""


@dataclass(frozen=True)
class Fate:
    """What becomes of an actor's calls: the share of them that fails, the one it dies at, the
    step of the scheduler at which everybody does, and the steps at which the volume is full."""

    seed: str
    fault_share: float = 0.0
    dies_at: int | None = None
    ends_at: int | None = None
    full: range = range(0)


class MortalVolume(SteppedVolume):
    """One actor's way to the volume, on which calls fail, answers get lost, and the actor dies.

    A lost answer is a failure, or what NFS answers when it carries the same call out again: a link
    exists, a name is gone. Who dies makes its last call, half of it, or not at all; what it still
    does then, as it winds up, does not reach the volume.
    """

    def __init__(self, inner: Volume, scheduler: Scheduler, actor: str, fate: Fate) -> None:
        super().__init__(inner, scheduler, actor)
        self._fate = fate
        self._chance = random.Random(f"{fate.seed} {actor}")
        self._made = 0
        self.is_dead = False

    @property
    def is_mortal(self) -> bool:
        """Whether the actor is to die, if it gets that far."""
        return (self._fate.dies_at, self._fate.ends_at) != (None, None)

    def run(
        self,
        verb: str,
        path: str,
        effect: Callable[[], T],
        half: Callable[[], object] | None = None,
    ) -> T:
        """Wait for this actor's turn, then make the call, or let happen what is due."""
        self._scheduler.step(self._actor, verb, path)
        self._made += 1
        ends_at = self._fate.ends_at
        self.is_dead = self.is_dead or (ends_at is not None and self._scheduler.steps >= ends_at)
        if self.is_dead:
            raise Died
        if self._made == self._fate.dies_at:
            self.is_dead = True
            self._chance.choice((effect, half or effect, lambda: None))()
            raise Died
        if verb in TAKES_ROOM and self._scheduler.steps in self._fate.full:
            if half is not None:
                half()
            raise VolumeFailed(f"{verb} of {path}", found="no room", errno=errno.ENOSPC)
        # Where an answer can be misunderstood, more are lost: there are few such calls.
        share = self._fate.fault_share * (10 if verb in SENT_TWICE else 1)
        if verb == "close" or self._chance.random() >= share:
            return effect()
        return self._fail(verb, path, effect)

    def over(self, inner: Volume) -> Elsewhere:
        """Return the same actor's way to another volume."""
        return Elsewhere(inner, self)

    def _fail(self, verb: str, path: str, effect: Callable[[], T]) -> T:
        found, number = "an injected fault", self._chance.choice(ERRNOS)
        kind = self._chance.random()
        if kind < 0.5:
            raise VolumeFailed(f"{verb} of {path}", found=found, errno=number)
        effect()
        if kind < 0.75 and verb in SENT_TWICE:
            raise SENT_TWICE[verb](f"{verb} of {path}", found="the answer to a second sending")
        raise VolumeFailed(f"{verb} of {path}", found=f"{found}, but it is done", errno=number)


class Elsewhere(FaultyVolume):
    """The way to a second volume of an actor who makes all calls, wherever, one after the other."""

    def __init__(self, inner: Volume, first: MortalVolume) -> None:
        super().__init__(inner)
        self._first = first

    def run(
        self,
        verb: str,
        path: str,
        effect: Callable[[], T],
        half: Callable[[], object] | None = None,
    ) -> T:
        """Make the call as the next one of the actor."""
        return self._first.run(verb, path, effect, half)
