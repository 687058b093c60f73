"""The volume in memory: the promises, the power switch and the full disk."""

from __future__ import annotations

import errno
import sys
from functools import partial

import pytest

from lakefeed.errors import NotFound, VolumeFailed
from lakefeed.volume.base import Volume, read_file, write_file
from lakefeed.volume.memory import MemoryVolume, MemoryWritableFile
from tests.volume.conformance import VolumePromises, race


class TestMemory(VolumePromises):
    @pytest.fixture
    def volume(self) -> Volume:
        return MemoryVolume()


def test_synced_bytes_under_a_synced_name_survive() -> None:
    volume = MemoryVolume()
    write_file(volume, "d/a", b"safe")
    volume.sync_directory("d")
    after = volume.power_cut()
    assert read_file(after, "d/a") == b"safe"
    assert after.stat("d/a").links == 1


def test_an_unsynced_name_is_gone() -> None:
    volume = MemoryVolume()
    write_file(volume, "d/a", b"synced bytes, unsynced name")
    with pytest.raises(NotFound):
        volume.power_cut().open("d/a")


def test_unsynced_bytes_are_gone() -> None:
    volume = MemoryVolume()
    with volume.create("d/a") as file:
        file.write([b"synced"])
        file.sync()
        file.write([b" and not"])
    volume.sync_directory("d")
    assert read_file(volume.power_cut(), "d/a") == b"synced"


def test_an_unsynced_unlink_is_undone_and_a_synced_one_is_not() -> None:
    volume = MemoryVolume()
    write_file(volume, "d/a", b"1")
    volume.sync_directory("d")
    volume.unlink("d/a")
    assert read_file(volume.power_cut(), "d/a") == b"1"
    volume.sync_directory("d")
    with pytest.raises(NotFound):
        volume.power_cut().open("d/a")


def test_a_link_needs_the_sync_of_its_own_directory() -> None:
    volume = MemoryVolume()
    volume.make_directory("log")
    write_file(volume, "tmp/a", b"commit")
    volume.link("tmp/a", "log/1")
    volume.sync_directory("tmp")
    with pytest.raises(NotFound):
        volume.power_cut().open("log/1")
    volume.sync_directory("log")
    after = volume.power_cut()
    assert read_file(after, "log/1") == b"commit"
    assert after.stat("log/1").links == 2


def test_an_unsynced_replacement_leaves_the_old_file() -> None:
    volume = MemoryVolume()
    write_file(volume, "hint", b"old")
    volume.sync_directory("")
    write_file(volume, "tmp", b"new")
    volume.replace("tmp", "hint")
    assert read_file(volume.power_cut(), "hint") == b"old"
    volume.sync_directory("")
    assert read_file(volume.power_cut(), "hint") == b"new"


def test_the_volume_after_a_power_cut_is_a_copy() -> None:
    volume = MemoryVolume()
    write_file(volume, "a", b"1")
    volume.sync_directory("")
    after = volume.power_cut()
    after.unlink("a")
    write_file(after, "b", b"2")
    assert read_file(volume, "a") == b"1"
    assert [entry.name for entry in volume.list("")] == ["a"]
    assert read_file(volume.power_cut(), "a") == b"1"


def test_a_full_disk_says_so_and_keeps_what_it_has() -> None:
    volume = MemoryVolume(capacity_bytes=100)
    write_file(volume, "a", b"x" * 60)
    with volume.create("b") as file:
        with pytest.raises(VolumeFailed) as failure:
            file.write([b"y" * 41])
        assert failure.value.errno == errno.ENOSPC
        assert not failure.value.retryable
        file.write([b"y" * 40])
    assert volume.space().free_bytes == 0
    volume.unlink("a")
    assert volume.space().free_bytes == 60


def test_time_is_the_clock_it_was_given() -> None:
    times = iter([10, 20, 30])
    volume = MemoryVolume(clock_ns=lambda: next(times))
    with volume.create("a") as file:
        assert file.stat().mtime_ns == 10
        file.write([b"1"])
    assert volume.stat("a").mtime_ns == 20


def test_readers_and_a_writer_share_the_bytes_however_threads_alternate() -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            volume = MemoryVolume()
            file = volume.create("a")
            file.write([b"x"])
            assert race(4, partial(_grow_or_read, volume, file)) == [None] * 4
    finally:
        sys.setswitchinterval(usual)


def _grow_or_read(volume: MemoryVolume, file: MemoryWritableFile, number: int) -> None:
    with volume.open("a") as reader:
        for _ in range(100):
            if number:
                reader.read_at(0, 1)
            else:
                file.write([b"x" * 1000])
