"""The faulty volume is a volume, and fails the call it was told to, in the way it was told to."""

from __future__ import annotations

import errno

import pytest

from lakefeed.errors import Conflict, NotFound, VolumeFailed
from lakefeed.volume.base import Volume, read_file, write_file
from lakefeed.volume.memory import MemoryVolume
from tests.support.faulty import FaultyVolume, Mode, every_fault
from tests.volume.conformance import VolumePromises


class TestFaulty(VolumePromises):
    @pytest.fixture
    def volume(self) -> Volume:
        return FaultyVolume(MemoryVolume())


def verbs(volume: FaultyVolume) -> list[str]:
    return [call.verb for call in volume.calls]


def test_every_call_is_recorded() -> None:
    volume = FaultyVolume(MemoryVolume())
    write_file(volume, "d/a", b"123")
    assert read_file(volume, "d/a") == b"123"
    assert [*volume.list("d")]
    volume.stat("d/a")
    assert verbs(volume) == [
        "create", "write", "sync", "close", "open", "read", "close", "list", "stat",
    ]  # fmt: skip
    assert {call.path for call in volume.calls} == {"d/a", "d"}
    assert [call.number for call in volume.calls] == [*range(1, 10)]
    assert (volume.count(), volume.count("close", "open")) == (9, 3)


@pytest.mark.parametrize(("mode", "there"), [("before", False), ("torn", False), ("after", True)])
def test_a_lost_reply_has_its_effect_and_a_lost_call_has_none(mode: Mode, there: bool) -> None:
    inner = MemoryVolume()
    write_file(inner, "tmp", b"whole")
    volume = FaultyVolume(inner, 1, mode)
    with pytest.raises(VolumeFailed, match="link of final, call 1") as failure:
        volume.link("tmp", "final")
    assert failure.value.errno == errno.EIO
    assert ("final" in [entry.name for entry in inner.list("")]) == there
    if there:
        with pytest.raises(Conflict):
            volume.link("tmp", "final")
    else:
        volume.link("tmp", "final")


@pytest.mark.parametrize(
    ("mode", "left"), [("before", b""), ("torn", b"123"), ("after", b"1234567")]
)
def test_a_torn_write_stores_half(mode: Mode, left: bytes) -> None:
    inner = MemoryVolume()
    volume = FaultyVolume(inner, 1, mode, verbs={"write"})
    with volume.create("a") as file, pytest.raises(VolumeFailed):
        file.write([b"12", b"34567"])
    assert read_file(inner, "a") == left


@pytest.mark.parametrize(("mode", "seen"), [("before", ""), ("torn", "01"), ("after", "0123")])
def test_a_torn_listing_yields_half(mode: Mode, seen: str) -> None:
    inner = MemoryVolume()
    for number in range(4):
        write_file(inner, f"d/{number}", b"")
    listing = FaultyVolume(inner, 1, mode).list("d")
    names = ""
    with pytest.raises(VolumeFailed):
        while True:
            names += next(listing).name
    assert names == seen


def test_an_unsynced_file_is_what_a_failed_sync_leaves() -> None:
    outcomes: list[tuple[Mode, bytes]] = [("before", b""), ("after", b"bytes")]
    for mode, safe in outcomes:
        inner = MemoryVolume()
        with pytest.raises(VolumeFailed):
            write_file(FaultyVolume(inner, 1, mode, verbs={"sync"}), "a", b"bytes")
        inner.sync_directory("")
        assert read_file(inner.power_cut(), "a") == safe


def test_a_failed_close_closes() -> None:
    volume = FaultyVolume(MemoryVolume(), 1, verbs={"close"})
    file = volume.create("a")
    with pytest.raises(VolumeFailed):
        file.close()
    file.close()
    with pytest.raises(VolumeFailed, match="closed"):
        file.write([b"1"])
    assert volume.count("close") == 1


def test_a_file_created_without_a_reply_is_closed() -> None:
    inner = MemoryVolume()
    volume = FaultyVolume(inner, 1, "after")
    with pytest.raises(VolumeFailed):
        volume.create("a")
    assert read_file(inner, "a") == b""
    with pytest.raises(Conflict):
        volume.create("a")


def test_only_the_named_verbs_are_counted() -> None:
    volume = FaultyVolume(MemoryVolume(), 2, verbs={"write", "link"})
    write_file(volume, "a", b"1")
    with pytest.raises(VolumeFailed):
        volume.link("a", "b")
    counted = [call.verb for call in volume.calls if call.number is not None]
    assert counted == ["write", "link"]
    with pytest.raises(AssertionError, match="no such verbs"):
        FaultyVolume(MemoryVolume(), 1, verbs={"wirte"})


def test_after_one_fault_it_works_again() -> None:
    inner = MemoryVolume()
    write_file(inner, "a", b"1")
    volume = FaultyVolume(inner, 1, verbs={"stat"})
    with pytest.raises(VolumeFailed):
        volume.stat("a")
    assert volume.stat("a").size == 1
    assert read_file(volume, "a") == b"1"


def test_a_dead_volume_stays_dead() -> None:
    inner = MemoryVolume()
    write_file(inner, "a", b"1")
    volume = FaultyVolume(inner, 1, "after", verbs={"stat"}, dead=True)
    file = volume.open("a")
    for act in (
        lambda: volume.stat("a"), lambda: volume.unlink("a"), lambda: file.read_at(0, 1),
        lambda: next(volume.list("")), file.close,
    ):  # fmt: skip
        with pytest.raises(VolumeFailed):
            act()
    assert inner.stat("a").size == 1


def test_an_inner_failure_comes_through() -> None:
    volume = FaultyVolume(MemoryVolume(), 5)
    with pytest.raises(NotFound):
        volume.open("none")
    assert volume.count() == 1
    assert not volume.fired


def test_every_fault_ends_with_a_run_that_met_none() -> None:
    outcomes = []
    for volume in every_fault(MemoryVolume, "before"):
        try:
            write_file(volume, "a", b"1")
            outcomes.append("done")
        except VolumeFailed:
            outcomes.append(verbs(volume)[-1])
    # After a failed write or sync the `with` block still closes the file.
    assert outcomes == ["create", "close", "close", "close", "done"]
