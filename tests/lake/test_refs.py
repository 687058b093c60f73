"""Tags and pins: made once, moved on request, listed, expired by the server's clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lakefeed.errors import Conflict, Corrupt, Invalid, NotFound, SnapshotExpired
from lakefeed.format.commit import Changes
from lakefeed.lake import layout
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.refs import Pin, Refs, Tag
from lakefeed.volume.base import Listed
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import contents, damage, new_lake, write


def refs() -> tuple[Refs, MemoryVolume]:
    volume = MemoryVolume()
    Lake.create(volume).close()
    return Refs(volume), volume


def test_a_tag_is_read_back_and_survives_a_power_cut() -> None:
    found, volume = refs()
    found.set(Tag("v1", 3, "first"))
    assert found.read("v1") == Tag("v1", 3, "first")
    assert Refs(volume.power_cut()).tags() == [Tag("v1", 3, "first")]


def test_a_taken_tag_is_a_conflict_unless_moved() -> None:
    found, volume = refs()
    found.set(Tag("v1", 3))
    with pytest.raises(Conflict, match="v1"):
        found.set(Tag("v1", 4))
    assert found.read("v1").snapshot == 3
    found.set(Tag("v1", 4), move=True)
    assert found.read("v1").snapshot == 4
    assert list(volume.list(layout.TMP)) == []


def test_tags_are_listed_by_name_and_deleted() -> None:
    found, _ = refs()
    for name in ("b", "a", "c"):
        found.set(Tag(name, 1))
    assert [tag.name for tag in found.tags()] == ["a", "b", "c"]
    found.delete("b")
    assert [tag.name for tag in found.tags()] == ["a", "c"]
    for action in (found.read, found.delete):
        with pytest.raises(NotFound, match="b"):
            action("b")


def test_a_removal_that_was_sent_twice_removed_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    found, volume = refs()
    found.set(Tag("v1", 1))
    unlink = volume.unlink

    def sent_twice(path: str) -> None:
        unlink(path)
        unlink(path)

    monkeypatch.setattr(volume, "unlink", sent_twice)
    assert found.delete("v1") == Tag("v1", 1)
    assert found.tags() == []


def test_a_damaged_tag_is_corrupt() -> None:
    found, volume = refs()
    found.set(Tag("v1", 3))
    damage(volume, layout.ref_path("v1"), 60)
    with pytest.raises(Corrupt):
        found.read("v1")


def test_a_small_file_of_another_kind_is_corrupt() -> None:
    found, volume = refs()
    found.set(Tag("t", 3))
    pin = found.pin(3, "test", 60)
    volume.unlink(layout.ref_path("t"))
    volume.link(layout.pin_path(pin.id), layout.ref_path("t"))  # sound, and has a tag's fields
    with pytest.raises(Corrupt, match="expected a tag"):
        found.read("t")


def test_a_damaged_tag_can_be_deleted_or_moved_and_is_in_the_way_of_no_other() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1"})
        for name in ("moved", "deleted"):
            lake.tag(name)
            damage(volume, layout.ref_path(name), 60)
        assert lake.tag("other").snapshot == 1
        lake.refs.unpin(lake.pin(holder="reader", lifetime_seconds=60))
        assert lake.refs.delete("deleted") is None
        lake.tag("moved", move=True)
        assert lake.refs.tags() == [Tag("moved", 1), Tag("other", 1)]
        assert lake.refs.delete("other") == Tag("other", 1)


def test_damaged_tags_and_pins_hide_no_snapshot_that_sound_ones_keep() -> None:
    with new_lake() as lake:
        for number in range(5):
            write(lake, {"a": b"%d" % number})
        lake.tag("sound", 2)
        lake.tag("damaged", 3)
        pin = lake.pin(3, holder="reader", lifetime_seconds=60)
        lake.log.commit(Draft("gc"), lambda _: Changes(horizon=5))
        damage(lake.volume, layout.ref_path("damaged"), 60)
        damage(lake.volume, layout.pin_path(pin.id), 60)
        assert lake.snapshot(2).get("a") == b"1"
        lake.refs.unpin(lake.pin(2, holder="reader", lifetime_seconds=60))
        assert lake.tag("other", 2).snapshot == 2
        with pytest.raises(SnapshotExpired):
            lake.snapshot(3)


def test_what_goes_away_while_it_is_listed_keeps_nothing_and_hides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, volume = refs()
    listed = volume.list

    def late(directory: str) -> Iterator[Listed]:
        yield from listed(directory)
        name = f"{layout.new_id()}.json" if directory == layout.PINS else "gone.json"
        yield Listed(name, False)  # removed since

    found.set(Tag("t", 3))
    pin = found.pin(4, "test", 60)
    monkeypatch.setattr(volume, "list", late)
    assert found.names() == ["gone", "t"]
    assert found.tags() == [Tag("t", 3)]
    assert found.pins() == [pin]
    assert found.kept() == {3, 4}


def test_a_pin_lives_by_the_server_clock_and_is_renewed() -> None:
    now = [10**18]
    volume = MemoryVolume(clock_ns=lambda: now[0])
    Lake.create(volume).close()
    found = Refs(volume)
    pin = found.pin(7, "trainer", 60)
    assert pin.expires_ns == 10**18 + 60 * 10**9
    now[0] += 10**9
    later = found.renew(pin, 60)
    assert later == Pin(pin.id, 7, "trainer", pin.expires_ns + 10**9)
    assert found.pins() == [later]
    found.unpin(pin)
    found.unpin(pin)
    assert found.pins() == []


@pytest.mark.parametrize(
    "keep",
    [
        lambda lake: lake.tag("v1", message=5),
        lambda lake: lake.pin(holder=None, lifetime_seconds=60),
        lambda lake: lake.pin(holder="reader", lifetime_seconds=1e11),
        lambda lake: lake.pin(holder="reader", lifetime_seconds=math.inf),
        lambda lake: lake.pin(holder="reader", lifetime_seconds=-1e11),
        lambda lake: lake.leases.acquire("compactor", 7, 60),
        lambda lake: lake.leases.acquire("compactor", "me", math.nan),
    ],
)
def test_what_no_reader_takes_is_refused_before_it_is_written(keep: Callable[[Lake], Any]) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        with pytest.raises(Invalid):
            keep(lake)
        collect(lake)
        assert (lake.refs.tags(), lake.refs.pins()) == ([], [])
        lease = lake.leases.acquire("compactor", "me", 60)
        lake.leases.renew(lease, 60)
        with pytest.raises(Invalid):
            lake.leases.renew(lease, 1e11)
        assert lake.leases.read("compactor") is not None


def test_foreign_files_beside_refs_are_left_alone() -> None:
    found, volume = refs()
    for path in ("refs/README", "pins/notes.json", "refs/.hidden"):
        with volume.create(path) as file:
            file.write([b"mine"])
    assert found.tags() == []
    assert found.pins() == []


def test_a_lake_opens_snapshots_by_tag_number_and_time() -> None:
    with new_lake() as lake:
        first = write(lake, {"a": b"1"})
        lake.tag("v1", message="the first")
        write(lake, {"a": b"2"})
        when = lake.snapshot(1).time_ns
        for at in ("v1", first, str(first)):
            assert contents(lake.snapshot(at)) == {"a": b"1"}
        assert lake.snapshot(time_ns=when).number == 1
        assert lake.snapshot(time_ns=when - 1).number == 0
        for missing in (99, "nothing"):
            with pytest.raises(NotFound):
                lake.snapshot(missing)
        assert lake.refs.pins() == []
