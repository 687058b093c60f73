"""A simulated volume keeps every promise, and no more comes through than its model says."""

from __future__ import annotations

import multiprocessing

import pytest

from lakefeed.bench.emulation import Delays, Pace, SlowVolume, shared_state
from lakefeed.volume.base import Volume, write_file
from lakefeed.volume.memory import MemoryVolume
from tests.volume.conformance import VolumePromises

SPAWN = multiprocessing.get_context("spawn")


class TestSlowMemory(VolumePromises):
    @pytest.fixture
    def volume(self) -> Volume:
        return SlowVolume(MemoryVolume(), Pace(Delays("test", 1e-5), shared_state(SPAWN)))


class NotingPace(Pace):
    """Waits for nothing, and notes the bytes of each call."""

    def __init__(self) -> None:
        super().__init__(Delays("test", 0.0), None)
        self.calls: list[int] = []

    def call(self, transferred_bytes: int = 0) -> None:
        self.calls.append(transferred_bytes)


def test_every_call_waits_for_the_bytes_that_it_moves() -> None:
    inner, pace = MemoryVolume(), NotingPace()
    write_file(inner, "a", bytes(5000))
    volume = SlowVolume(inner, pace)
    with volume.open("a") as file:
        file.read_at(0, 10)
        file.read_into(0, [memoryview(bytearray(1000)), memoryview(bytearray(1500))])
    volume.link("a", "b")
    assert [*volume.list("")]
    assert pace.calls == [0, 10, 2500, 0, 0]


def test_a_large_read_is_several_of_the_servers_calls() -> None:
    shared = shared_state(SPAWN)
    pace = Pace(Delays("test", 0.0, calls_per_second=0.125, call_bytes_max=1000), shared)
    pace._due(1)
    busy_until = shared[0]
    pace._due(2500)
    assert shared[0] == busy_until + 3 / 0.125


def test_all_ranks_share_one_servers_calls_and_bytes() -> None:
    shared = shared_state(SPAWN)
    delays = Delays("test", 0.0, calls_per_second=1e6, bytes_per_second=1e12)
    one, other = Pace(delays, shared), Pace(delays, shared)
    one.call(3 << 20)
    first = list(shared)
    other.call(1 << 20)
    # The other's call begins where the first one's three ended, unless that is past already.
    assert shared[0] >= first[0] + 1e-6
    assert shared[1] >= first[1] + (1 << 20) / 1e12


def test_a_call_is_due_after_its_latency_and_its_bytes() -> None:
    shared = shared_state(SPAWN)
    pace = Pace(Delays("test", 5.0, bytes_per_second=100.0), shared)
    dues = [pace._due(0), pace._due(1000), pace._due(1000)]
    assert dues[1] - dues[0] == pytest.approx(5.0, abs=1.0)
    assert dues[2] - dues[1] == pytest.approx(10.0, abs=1.0)
