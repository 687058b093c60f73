"""The steps of a training of any length, kept in bounded memory.

When there are more stretches of steps than a report needs, neighbours are put together, and from
then on twice as many steps make a stretch. Times and bytes are sums, so what a report says of them
stays exact. Of the waits of a stretch one, drawn by chance, stands for all in their distribution
(loaders have rhythms: each tenth step would be seen always or never); the longest of an epoch is
kept beside. An epoch's first step stays alone: utilisation leaves it out. Epochs are all kept, at
0.7 kB each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TypeVar

from lakefeed.bench.steps import Epoch

# A time line has 120 points and a p99 wants some thousand waits; a report of so many stretches
# takes a second.
STRETCHES_MAX = 1 << 15

N = TypeVar("N", int, float)


@dataclass(slots=True)
class KeptEpoch(Epoch):
    """An epoch whose lists have one value for each stretch of steps."""

    steps: int = 0
    counts: list[int] = field(default_factory=list)  # steps of each stretch
    waits: list[float] = field(default_factory=list)  # of one step of each stretch
    wait_max: float = 0.0

    def add(self, began: float, loaded: float, ended: float, size_bytes: int) -> None:
        """Take over a step as a stretch of its own."""
        self.counts.append(1)
        self.began.append(began)
        self.waits.append(loaded - began)
        self.wait_seconds.append(loaded - began)
        self.busy_seconds.append(ended - loaded)
        self.sample_bytes.append(size_bytes)

    def join(
        self, began: float, loaded: float, ended: float, size_bytes: int, chance: random.Random
    ) -> None:
        """Take over a step as a part of the last stretch."""
        self.counts[-1] += 1
        if chance.random() * self.counts[-1] < 1:
            self.waits[-1] = loaded - began
        self.wait_seconds[-1] += loaded - began
        self.busy_seconds[-1] += ended - loaded
        self.sample_bytes[-1] += size_bytes

    def halve(self, chance: random.Random) -> None:
        """Put neighbours together; an epoch's last one is shorter, and weighs less by as much."""
        self.began[1:] = self.began[1::2]
        self.waits[1:] = [
            chance.choices(self.waits[at : at + 2], self.counts[at : at + 2])[0]
            for at in range(1, len(self.waits), 2)
        ]
        self.counts[1:] = _pairs(self.counts)
        self.wait_seconds[1:] = _pairs(self.wait_seconds)
        self.busy_seconds[1:] = _pairs(self.busy_seconds)
        self.sample_bytes[1:] = _pairs(self.sample_bytes)


def _pairs(values: list[N]) -> list[N]:
    return [sum(values[at : at + 2]) for at in range(1, len(values), 2)]


class Keeper:
    """The epochs of one training."""

    def __init__(self, stretches_max: int = STRETCHES_MAX) -> None:
        self._stretches_max = stretches_max
        self._kept = 0
        self._kept_max = stretches_max
        self._steps_each = 1
        self._chance = random.Random(0)
        self.epochs: list[KeptEpoch] = []

    def begin(self, now: float) -> None:
        """Begin an epoch."""
        self.epochs.append(KeptEpoch(start=now, end=now))

    def add(self, began: float, loaded: float, ended: float, batch: tuple[int, int]) -> KeptEpoch:
        """Take over a step of the last epoch and return that; `batch` is its samples and bytes."""
        epoch = self.epochs[-1]
        samples, size_bytes = batch
        if len(epoch.counts) > 1 and epoch.counts[-1] < self._steps_each:
            epoch.join(began, loaded, ended, size_bytes, self._chance)
        else:
            epoch.add(began, loaded, ended, size_bytes)
            self._kept += 1
        epoch.steps += 1
        epoch.samples += samples
        epoch.wait_max = max(epoch.wait_max, loaded - began)
        epoch.end = ended
        if self._kept > self._kept_max:
            self._halve()
        return epoch

    def _halve(self) -> None:
        for epoch in self.epochs:
            epoch.halve(self._chance)
        self._steps_each *= 2
        self._kept = sum(len(epoch.counts) for epoch in self.epochs)
        # Epochs of a step or two become no shorter.
        self._kept_max = max(self._stretches_max, 2 * self._kept)
