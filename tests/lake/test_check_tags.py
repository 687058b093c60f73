"""fsck reads what many tags keep once, and goes on after each damage."""

from __future__ import annotations

from lakefeed.format.commit import Changes
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import CHECKPOINT_EVERY, Draft
from lakefeed.lake.refs import Tag
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import damage, write
from tests.support.faulty import FaultyVolume


def merged_lake(volume: MemoryVolume) -> Lake:
    """Two packs, one of them merged."""
    lake = Lake.create(volume)
    write(lake, {"a": b"a", "b": b"b"})
    lake.merge_index()
    write(lake, {"a": b"again"})
    return lake


def test_tags_near_each_other_are_checked_by_reading_each_commit_once() -> None:
    inner = MemoryVolume()
    with merged_lake(inner) as lake:
        for _ in range(CHECKPOINT_EVERY):
            lake.log.commit(Draft("test"), lambda state: Changes())
        head = lake.log.head().number
        without = calls_of_a_check(inner)
        for number in range(1, head + 1):
            lake.refs.set(Tag(f"v{number}", number))
            lake.refs.set(Tag(f"w{number}", number))
        assert calls_of_a_check(inner) - without < 4 * head


def calls_of_a_check(inner: MemoryVolume) -> int:
    volume = FaultyVolume(inner)
    with Lake.open(volume) as lake:
        assert check(lake).clean
    return volume.count("open")


def test_a_tagged_snapshot_that_damage_hides_hides_no_other_one() -> None:
    volume = MemoryVolume()
    with merged_lake(volume) as lake:
        (segment,) = lake.snapshot().state.segments
        lost = layout.segment_path(segment)
        count = 2 * CHECKPOINT_EVERY
        while lake.log.head().number < count:
            lake.merge_index(everything=True)
            lake.log.commit(Draft("test"), lambda state: Changes())
        for number in (2, 4, CHECKPOINT_EVERY + 1, count):
            lake.refs.set(Tag(f"v{number}", number))
        damage(volume, layout.commit_path(4), 30)
        volume.unlink(lost)
        found = check(lake).findings
        assert [one.kind for one in found] == ["log", "missing", "ref"]
        assert found[1].subject == lost
        assert layout.commit_path(4) in found[2].subject
