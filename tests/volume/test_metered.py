"""The meter changes nothing and counts right."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed.errors import NotFound
from lakefeed.volume.base import Volume, write_file
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.metered import Meter, MeteredVolume, Reading
from lakefeed.volume.posix import PosixVolume
from tests.volume.conformance import VolumePromises, race


class TestMeteredMemory(VolumePromises):
    @pytest.fixture
    def volume(self) -> Volume:
        return MeteredVolume(MemoryVolume(), Meter())


class TestMeteredPosix(VolumePromises):
    @pytest.fixture
    def volume(self, tmp_path: Path) -> Volume:
        return MeteredVolume(PosixVolume(tmp_path), Meter())


def counts(meter: Meter) -> dict[str, tuple[int, int, int]]:
    return {
        verb: (reading.calls, reading.failures, reading.transferred_bytes)
        for verb, reading in meter.readings().items()
    }


def test_every_call_and_byte_is_counted() -> None:
    meter = Meter()
    volume = MeteredVolume(MemoryVolume(), meter)
    write_file(volume, "d/a", b"12345")
    with volume.open("d/a") as file:
        file.read_at(1, 3)
        file.read_into(0, [memoryview(bytearray(2)), memoryview(bytearray(2))])
        file.stat()
    volume.link("d/a", "d/b")
    volume.replace("d/b", "d/c")
    volume.unlink("d/c")
    assert [*volume.list("d")]
    volume.make_directory("e")
    volume.sync_directory("e")
    volume.refresh("e")
    volume.stat("d/a")
    volume.space()
    assert counts(meter) == {
        "create": (1, 0, 0), "write": (1, 0, 5), "sync": (1, 0, 0), "close": (2, 0, 0),
        "open": (1, 0, 0), "read": (2, 0, 7), "stat": (2, 0, 0), "link": (1, 0, 0),
        "replace": (1, 0, 0), "unlink": (1, 0, 0), "list": (1, 0, 0), "make_directory": (1, 0, 0),
        "sync_directory": (1, 0, 0), "refresh": (1, 0, 0), "space": (1, 0, 0),
    }  # fmt: skip


def test_a_failed_call_is_a_call_without_bytes() -> None:
    meter = Meter()
    volume = MeteredVolume(MemoryVolume(capacity_bytes=1), meter)
    with pytest.raises(NotFound):
        volume.open("none")
    with volume.create("a") as file, pytest.raises(OSError, match="full"):
        file.write([b"12"])
    assert counts(meter)["open"] == (1, 1, 0)
    assert counts(meter)["write"] == (1, 1, 0)


def test_readings_are_of_their_moment() -> None:
    meter = Meter()
    before = meter.readings()
    with meter.call("read", 10):
        pass
    once = meter.readings()
    with meter.call("read", 5):
        pass
    assert before == {}
    assert once["read"].transferred_bytes == 10
    twice = meter.readings()["read"]
    assert (twice.calls, twice.transferred_bytes) == (2, 15)
    assert twice.busy_seconds >= once["read"].busy_seconds > 0.0
    assert Reading() == Reading(0, 0, 0, 0.0)


def test_no_count_is_lost_between_threads() -> None:
    meter = Meter()

    def act(_: int) -> None:
        for _ in range(500):
            with meter.call("read", 3):
                pass

    race(8, act)
    assert counts(meter)["read"] == (4000, 0, 12_000)
