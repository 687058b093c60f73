"""A slow volume keeps every promise, and its limits."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lakefeed.volume.base import Volume, write_file
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from lakefeed.volume.slow import NAS, Profile, SlowVolume
from tests.volume.conformance import VolumePromises


class TestSlowMemory(VolumePromises):
    @pytest.fixture
    def volume(self) -> Volume:
        return SlowVolume(MemoryVolume(), Profile(1e-5))


def test_calls_and_bytes_are_counted_and_large_reads_are_several_calls() -> None:
    volume = SlowVolume(MemoryVolume(), Profile(transfer_bytes=1000))
    write_file(volume, "a", bytes(5000))
    with volume.open("a") as file:
        file.read_at(0, 10)
        file.read_into(0, [memoryview(bytearray(2500))])
    assert (volume.calls, volume.moved_bytes) == (1 + 1 + 3, 2510)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "least"),
    [
        (Profile(call_seconds=2e-3), 50 / 16 * 2e-3),
        (Profile(calls_per_second=1000), 50 / 1000),
        (Profile(bytes_per_second=1e6), 50 * 1000 / 1e6),
    ],
)
def test_no_more_comes_through_than_the_profile_says(profile: Profile, least: float) -> None:
    volume = SlowVolume(MemoryVolume(), profile)
    write_file(volume, "a", bytes(5000))
    with volume.open("a") as file, ThreadPoolExecutor(16) as pool:
        began = time.perf_counter()
        list(pool.map(lambda at: file.read_at(at, 1000), range(50)))
        # Slower than the profile is the machine's business; quicker would be a lie.
        assert time.perf_counter() - began >= least * 0.99


def test_it_can_be_sent_to_another_process(tmp_path: Path) -> None:
    volume = pickle.loads(pickle.dumps(SlowVolume(PosixVolume(tmp_path), NAS)))
    write_file(volume, "a", b"1")
    assert volume.name == str(tmp_path)
