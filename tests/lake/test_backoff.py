"""Compaction makes way: it rests while reads are slow, and works on once they are quick again."""

from __future__ import annotations

import pytest

from lakefeed.lake import compactor
from lakefeed.lake.backoff import (
    FLOOR_SECONDS,
    LEARN_READS,
    PROBE_SECONDS,
    REST_MAX,
    SLOWDOWN,
    Backoff,
)
from lakefeed.lake.compactor import compact
from lakefeed.lake.repacking import CopyOptions
from tests.lake.tools import contents, new_lake, write


class Volume:
    """A clock, and a probe that takes as long as the test says."""

    def __init__(self, latency_seconds: float) -> None:
        self.now = 100.0
        self.latency_seconds = latency_seconds
        self.probes = 0
        self.rests: list[float] = []
        self.backoff = Backoff(self.probe, lambda: self.now, self.wait)
        self.backoff.learn()

    def probe(self) -> None:
        self.probes += 1
        self.now += self.latency_seconds

    def wait(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds

    def work(self, seconds: float, pieces: int = 1) -> float:
        """Work a while; return how much of the time until the next piece was rest."""
        self.rests.clear()
        for _ in range(pieces):
            self.now += seconds
            self.backoff.rest()
        return sum(self.rests)


def test_it_learns_first_and_looks_only_now_and_then() -> None:
    volume = Volume(0.010)
    assert volume.probes == LEARN_READS
    assert volume.work(PROBE_SECONDS / 10, 100) == 0
    assert 9 <= volume.probes - LEARN_READS <= 11


def test_reads_as_quick_as_before_cost_no_rest() -> None:
    volume = Volume(0.010)
    volume.latency_seconds *= SLOWDOWN * 0.99
    assert volume.work(0.2, 50) == 0


def test_slow_reads_cost_more_and_more_rest_up_to_a_limit() -> None:
    volume = Volume(0.010)
    volume.latency_seconds *= SLOWDOWN * 1.5
    first = volume.work(0.2)
    assert 0 < first < 0.2
    volume.work(0.2, 20)
    assert volume.work(0.2, 10) == pytest.approx(10 * REST_MAX * (0.2 + 0.030), rel=0.01)
    assert volume.backoff.rested_seconds > 10


def test_once_reads_are_quick_again_the_rests_end() -> None:
    volume = Volume(0.010)
    volume.latency_seconds = 0.1
    volume.work(0.2, 10)
    volume.latency_seconds = 0.010
    assert volume.work(0.2) > 0
    volume.work(0.2, 10)
    assert volume.work(0.2, 50) == 0


def test_a_single_rest_is_short_however_long_the_piece() -> None:
    volume = Volume(0.010)
    volume.latency_seconds = 0.1
    assert volume.work(100.0, 10) <= 10 * 2.0


def test_nobody_notices_a_page_cache_that_is_twice_as_slow() -> None:
    volume = Volume(FLOOR_SECONDS / 100)
    volume.latency_seconds = FLOOR_SECONDS
    assert volume.work(0.2, 50) == 0


def test_compaction_rests_when_its_probes_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    class Slow(Backoff):
        def __init__(self, probe: object) -> None:
            ticks = iter(range(10**9))

            def clock() -> float:
                # The first look at the volume is quick, each later one is slower than before.
                return float(next(ticks)) ** 2

            super().__init__(probe, clock, rests.append)  # type: ignore[arg-type]

    monkeypatch.setattr(compactor, "Backoff", Slow)
    with new_lake() as lake:
        for number in range(4):
            write(lake, {f"{number}/{n}": bytes(5000) for n in range(20)})
        before = contents(lake.snapshot())
        done = compact(lake, None, CopyOptions())
        assert done.rested_seconds == sum(rests) > 0
        assert contents(lake.snapshot()) == before
        write(lake, {"more": bytes(5000)})
        write(lake, {"and more": bytes(5000)})
        rests.clear()
        assert compact(lake, None, CopyOptions(makes_way=False)).rested_seconds == 0
        assert not rests
