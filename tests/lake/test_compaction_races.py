"""Compaction beside writers, merges, another compaction, damage, and volumes that fail.

Other writers run inside the progress callback: between the plan and the copying, or between the
index and the commit. Whoever loses leaves nothing behind (I4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from lakefeed import Lake
from lakefeed.errors import Conflict, Corrupt, LakefeedError, VolumeFailed
from lakefeed.format.rows import Kind, rows_from_table
from lakefeed.lake import copying, layout
from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect, stored_files
from lakefeed.lake.lake import Lake as OpenLake
from lakefeed.lake.writer import Writer
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, contents, damage, new_lake, small_groups, write
from tests.support.faulty import MODES, FaultyVolume

AT_ONCE = Retention(keep_seconds=0, grace_seconds=0)
FILES = {f"{n}": bytes([n]) * 100 for n in range(6)}
STAGES = ("copying", "index")


def filled(volume: MemoryVolume | None = None) -> MemoryVolume:
    """Return a volume with a lake of three small packs, of which two are merged."""
    volume = volume or MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"0": FILES["0"], "1": FILES["1"]})
        write(lake, {"2": FILES["2"], "3": FILES["3"]})
        lake.merge_index()
        write(lake, {"4": FILES["4"], "5": FILES["5"]})
    return volume


@pytest.fixture
def lake() -> Iterator[OpenLake]:
    with Lake.open(filled()) as lake:
        yield lake


def sound(lake: OpenLake) -> None:
    """Check everything, and that no file lies about that no commit names."""
    with Lake.open(lake.volume) as fresh:
        report = check(fresh, deep=True)
    assert report.clean, report.findings
    assert report.counters.orphans == 0


def during(stage: str, act: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Return a progress callback that acts once, when a stage is first heard of."""
    done: list[str] = []

    def progress(name: str, at: int, total: int) -> None:
        if name == stage and not done:
            done.append(name)
            act()

    return progress


def changed(lake: OpenLake, change: Callable[[Writer], object]) -> Callable[[], None]:
    def act() -> None:
        with Lake.open(lake.volume) as other, other.writer(QUIET) as writer:
            change(writer)

    return act


@pytest.mark.parametrize("stage", STAGES)
def test_puts_and_deletes_always_win(lake: OpenLake, stage: str) -> None:
    def change(writer: Writer) -> None:
        writer.put("1", b"overwritten")
        writer.put("new", b"new")
        writer.delete("2")

    compact(lake, progress=during(stage, changed(lake, change)))
    expected = {**FILES, "1": b"overwritten", "new": b"new"}
    del expected["2"]
    assert contents(lake.snapshot()) == expected
    sound(lake)
    # Packs alone say the same: their newest rows are not those of the newest pack.
    snapshot = lake.snapshot()
    tables = snapshot.scan_packs([*snapshot.state.packs], "", None)
    rows = [row for table in tables for row in rows_from_table(table)]
    assert {row.path for row in rows if row.kind is not Kind.TOMBSTONE} == expected.keys()
    assert {row.path: row.seq for row in rows}["1"] == snapshot.stat("1").seq
    lake.merge_index(everything=True)
    compact(lake)
    assert contents(lake.snapshot()) == expected
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verb", ["rename", "copy"])
def test_a_new_reference_to_an_input_wins_and_nothing_is_left(
    lake: OpenLake, stage: str, verb: str
) -> None:
    def change(writer: Writer) -> None:
        writer.rename("1", "one") if verb == "rename" else writer.copy("1", "one")

    with pytest.raises(Conflict):
        compact(lake, progress=during(stage, changed(lake, change)))
    assert lake.snapshot().get("one") == FILES["1"]
    sound(lake)
    compact(lake)
    assert lake.snapshot().get("one") == FILES["1"]
    assert lake.snapshot().exists("1") == (verb == "copy")
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("everything", [False, True])
def test_a_merge_in_between_costs_only_the_index(
    lake: OpenLake, stage: str, everything: bool
) -> None:
    def act() -> None:
        with Lake.open(lake.volume) as other:
            write(other, {"6": b"6"}, delete=["0", "4"])
            other.merge_index(everything=everything)

    done = compact(lake, progress=during(stage, act))
    assert done.snapshot is not None
    expected = {**FILES, "6": b"6"}
    del expected["0"], expected["4"]  # their tombstones may be merged away: they stay deleted
    assert contents(lake.snapshot()) == expected
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_deleted_meanwhile_stays_deleted_where_its_tombstone_is_merged_away(
    lake: OpenLake, stage: str
) -> None:
    lake.merge_index(everything=True)  # nothing is left to merge, so nothing else gives notice

    def act() -> None:
        with Lake.open(lake.volume) as other:
            write(other, {}, delete=["1"])
            other.merge_index(everything=True)
            assert not any(source.tombstones for source in other.snapshot().sources)

    done = compact(lake, progress=during(stage, act))
    assert done.snapshot is not None
    assert contents(lake.snapshot()) == {path: data for path, data in FILES.items() if path != "1"}
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verb", ["rename", "copy"])
def test_a_new_reference_wins_also_where_its_row_is_merged_already(
    lake: OpenLake, stage: str, verb: str
) -> None:
    lake.merge_index(everything=True)

    def act() -> None:
        with Lake.open(lake.volume) as other:
            with other.writer(QUIET) as writer:
                writer.rename("1", "one") if verb == "rename" else writer.copy("1", "one")
            other.merge_index(everything=True)

    with pytest.raises(Conflict):
        compact(lake, progress=during(stage, act))
    assert lake.snapshot().get("one") == FILES["1"]
    sound(lake)


def test_levels_pushed_down_meanwhile_cost_nothing() -> None:
    with small_groups(), new_lake() as lake:
        for number in range(6):
            write(lake, {f"{n:02}": bytes([n + 1]) * 40 for n in range(number, 60, 6)})
            lake.merge_index()
        before = contents(lake.snapshot())

        def act() -> None:
            with Lake.open(lake.volume) as other:
                write(other, {"05": b"overwritten", "new": b"new"})
                other.merge_index()

        compact(lake, progress=during("index", act))
        expected = {**before, "05": b"overwritten", "new": b"new"}
        assert contents(lake.snapshot()) == expected
        sound(lake)
        lake.merge_index(everything=True)
        assert contents(lake.snapshot()) == expected
        sound(lake)


def test_merges_that_never_stop_are_a_conflict(lake: OpenLake) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "index":
            write(lake, {"again": b"1"})
            lake.merge_index(everything=True)

    with pytest.raises(Conflict, match="merges"):
        compact(lake, progress=progress)
    assert contents(lake.snapshot()) == {**FILES, "again": b"1"}
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
def test_of_two_compactions_one_wins_and_the_other_leaves_nothing(
    lake: OpenLake, stage: str
) -> None:
    def act() -> None:
        with Lake.open(lake.volume) as other:
            compact(other)
            collect(other, Retention(keep_seconds=0))

    with pytest.raises(Conflict, match="compacted by another"):
        compact(lake, progress=during(stage, act))
    assert contents(lake.snapshot()) == FILES
    assert len(lake.snapshot().state.packs) == 1
    sound(lake)


def test_two_compactions_of_different_packs_both_win() -> None:
    with new_lake() as lake:
        for number in range(4):
            write(lake, {f"{number}/a": bytes(3000), f"{number}/b": bytes(3000)})
        write(lake, {}, delete=["0/a", "0/b", "1/a", "1/b"])
        lake.merge_index(everything=True)
        before = contents(lake.snapshot())
        only = CompactionOptions(target_bytes=1, rows_max=1)

        def act() -> None:
            write(lake, {"s1": b"1"})
            write(lake, {"s2": b"2"})
            with Lake.open(lake.volume) as second:
                done = compact(second, CompactionOptions(target_bytes=6000, live_ratio=0))
                assert len(done.packs_removed) >= 2

        done = compact(lake, only, progress=during("index", act))
        assert len(done.packs_removed) == 1
        assert contents(lake.snapshot()) == {**before, "s1": b"1", "s2": b"2"}
        sound(lake)


def test_a_damaged_payload_stays_where_it_is_and_is_named(lake: OpenLake) -> None:
    row = lake.snapshot().stat("2")
    damage(lake.volume, layout.pack_path(row.pack), row.offset + 7)
    with Lake.open(lake.volume) as lake:
        write(lake, {}, delete=["0"])
        done = compact(lake)
        assert [(d.path, d.pack) for d in done.damages] == [("2", row.pack)]
        assert row.pack in lake.snapshot().state.packs
        assert row.pack not in done.packs_removed
        assert len(done.packs_removed) == 3
        with pytest.raises(Corrupt):
            lake.snapshot().get("2")
        rest = {path: data for path, data in FILES.items() if path not in "02"}
        assert all(lake.snapshot().get(path) == data for path, data in rest.items())
        kinds = {(finding.kind, finding.subject) for finding in check(lake, deep=True).findings}
        assert kinds == {("payload", "2")}
        # Again: nothing can be gained, so nothing changes, and the file is named once more.
        number = lake.snapshot().number
        again = compact(lake)
        assert (again.snapshot, [d.path for d in again.damages]) == (None, ["2"])
        assert lake.snapshot().number == number
        # With the file put again, its old pack goes.
        write(lake, {"2": b"restored"})
        assert row.pack in compact(lake, CompactionOptions(live_ratio=0.8)).packs_removed
        assert contents(lake.snapshot()) == {**rest, "2": b"restored"}
        sound(lake)


def test_a_pack_kept_for_a_damaged_file_does_not_bring_deleted_ones_back() -> None:
    with new_lake() as lake:
        write(lake, {"bad": b"0" * 300, "deleted": b"1"})
        write(lake, {"more": b"2" * 300}, delete=["deleted"])
        write(lake, {"and more": b"3" * 300})
        write(lake, {"and even more": b"3" * 300})
        lake.merge_index(everything=True)
        row = lake.snapshot().stat("bad")
        damage(lake.volume, layout.pack_path(row.pack), row.offset)
        done = compact(lake)
        assert len(done.damages) == 1
        assert (len(done.packs_removed), len(done.packs_added)) == (3, 2)
        kinds = {finding.kind for finding in check(lake, deep=True).findings}
        assert kinds == {"payload"}


def test_a_big_damaged_payload_is_found_while_streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "STREAM_BYTES", 1000)
    with new_lake() as lake:
        write(lake, {"big": bytes(5000)})
        write(lake, {"other": bytes(5000)})
        write(lake, {"small": b"1", "larger": bytes(3000)})
        row = lake.snapshot().stat("big")
        damage(lake.volume, layout.pack_path(row.pack), row.offset + 4000)
        done = compact(lake)
        assert [d.path for d in done.damages] == ["big"]
        assert len(done.packs_removed) == 2
        assert lake.snapshot().get("other") == bytes(5000)


def test_damaged_index_rows_abort_and_leave_nothing(lake: OpenLake) -> None:
    pack = lake.snapshot().stat("0").pack
    end = lake.snapshot().state.packs[pack].sealed.payload_end
    damage(lake.volume, layout.pack_path(pack), end + 20)
    with Lake.open(lake.volume) as fresh:
        before = set(stored_files(lake.volume))
        with pytest.raises(Corrupt):
            compact(fresh)
        assert set(stored_files(lake.volume)) == before
        assert contents(fresh.snapshot()) == FILES


def test_a_full_disk_is_noticed_before_anything_is_written() -> None:
    volume = filled(MemoryVolume(capacity_bytes=20_000))
    with Lake.open(volume) as lake:
        used = 20_000 - volume.space().free_bytes
        with lake.volume.create("tmp/ballast") as file:
            file.write([bytes(20_000 - used - 900)])
        before = set(stored_files(volume))
        with pytest.raises(VolumeFailed, match="bytes free"):
            compact(lake)
        assert set(stored_files(volume)) == before
        assert contents(lake.snapshot()) == FILES


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_meanwhile_leaves_nothing(stage: str) -> None:
    volume = filled(MemoryVolume(capacity_bytes=200_000))
    with Lake.open(volume) as lake:
        before = set(stored_files(volume))

        def fill() -> None:
            with volume.create("tmp/ballast") as file:
                file.write([bytes(volume.space().free_bytes)])

        with pytest.raises(VolumeFailed, match="full"):
            compact(lake, progress=during(stage, fill))
        assert set(stored_files(volume)) == before
        volume.unlink("tmp/ballast")
        assert contents(lake.snapshot()) == FILES
        compact(lake)
        assert contents(lake.snapshot()) == FILES
        sound(lake)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dead", [False, True])
def test_a_failing_call_leaves_the_old_lake_or_the_new(
    mode: str, dead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "lakefeed")
    base = filled()
    calls = FaultyVolume(base.power_cut())
    with Lake.open(calls) as lake:
        compact(lake)
    total = calls.count()
    assert total > 50
    for number in range(3, total + 1, 3 if mode == "before" else 5):
        volume = base.power_cut()
        faulty = FaultyVolume(volume, number, mode, dead=dead)  # type: ignore[arg-type]
        acknowledged = True
        try:
            with Lake.open(faulty) as lake:
                compact(lake)
        except LakefeedError:
            acknowledged = False
        for left in (volume.power_cut(), volume):
            with Lake.open(left) as lake:
                assert contents(lake.snapshot()) == FILES
                assert len(lake.snapshot().state.packs) == 1 or not acknowledged
                report = check(lake, deep=True)
                assert report.clean, report.findings
                compact(lake)
                collect(lake, AT_ONCE)
                assert len(list(stored_files(left))) == 2
                assert contents(lake.snapshot()) == FILES


def test_an_io_error_while_reading_changes_nothing_and_leaves_nothing() -> None:
    base = filled()
    before = set(stored_files(base))
    clean = FaultyVolume(base.power_cut())
    with Lake.open(clean) as lake:
        compact(lake)
    payload_reads = [call.number for call in clean.calls if call.verb == "read"
                     and call.path.startswith("packs/")]  # fmt: skip
    for number in payload_reads:
        volume = base.power_cut()
        with Lake.open(FaultyVolume(volume, number)) as lake, pytest.raises(VolumeFailed):
            compact(lake)
        assert set(stored_files(volume)) == before
