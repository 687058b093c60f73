"""Compaction changes no path: bytes, times, attributes and `seq` stay, wherever the bytes lie (I5).

After every compaction here fsck is clean, payloads included.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed import Lake, WriterOptions
from lakefeed.errors import SnapshotExpired
from lakefeed.format.rows import Codec, Kind, Row, rows_from_table
from lakefeed.lake import compactor, copying, repacking
from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import Compacted, compact, plan_of
from lakefeed.lake.difference import diff
from lakefeed.lake.garbage import Retention, collect, stored_files
from lakefeed.lake.repacking import CopyOptions
from lakefeed.lake.usage import pack_usage
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, all_rows, contents, new_lake, small_groups, write

AT_ONCE = Retention(keep_seconds=0, grace_seconds=0)
ZSTD = replace(QUIET, codec=Codec.ZSTD)


def view(lake: Lake) -> dict[str, tuple[Row, bytes]]:
    """Return what must not change: each row but its place, and its bytes."""
    snapshot = lake.snapshot()
    return {
        row.path: (row._replace(pack="", offset=0),
                   b"" if row.kind is Kind.DIR else snapshot.read_row(row))
        for row in all_rows(snapshot)
    }  # fmt: skip


def compacted(
    lake: Lake, options: CompactionOptions | None = None, how: CopyOptions | None = None
) -> Compacted:
    """Compact, and check that nothing changed and everything is sound."""
    before = view(lake)
    done = compact(lake, options, how)
    assert view(lake) == before
    report = check(lake, deep=True)
    assert report.clean, report.findings
    assert report.counters.orphans <= len(done.plan.inputs)
    return done


def many_kinds(lake: Lake) -> None:
    """Fill several packs with everything that a lake may hold, overwritten and deleted in part."""
    with lake.writer(ZSTD) as writer:
        for number in range(40):
            writer.put(f"a/{number:02}", bytes([number]) * (number * 150), mtime_ns=number,
                       attrs={"label": str(number)})  # fmt: skip
        writer.mkdir("empty")
        writer.put("nothing", b"")
        writer.symlink("link", "a/01")
        writer.flush()
        writer.rename("a/02", "b/renamed")
        writer.copy("a/03", "b/copy")
        writer.copy("nothing", "b/nothing")
        writer.delete("a/04")
        writer.flush()
        writer.put("a/05", random.Random(5).randbytes(9000))
        writer.copy("b/copy", "c/second copy")
        writer.delete_tree("empty")
        writer.mkdir("another")
        for number in range(8):
            writer.put(f"d/{number}", random.Random(number).randbytes(3000))
        writer.flush()
        writer.rename("another", "renamed")
        for number in range(1, 8):
            writer.delete(f"d/{number}")


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("layout", ["path", "shuffled"])
@pytest.mark.parametrize("target_bytes", [1, 20_000, 1 << 30])
def test_everything_stays_as_it_was(merged: bool, layout: str, target_bytes: int) -> None:
    with new_lake() as lake:
        many_kinds(lake)
        if merged:
            lake.merge_index()
        options = CompactionOptions(target_bytes=target_bytes, live_ratio=0.8)
        done = compacted(lake, options, CopyOptions("path" if layout == "path" else "shuffled"))
        if target_bytes == 1 << 30:
            assert len(done.packs_removed) == 4
            assert len(lake.snapshot().state.packs) == 1
            assert plan_of(lake).plan.empty
        assert done.snapshot == lake.snapshot().number
        # Rows that are shadowed in another level count as live until a merge meets them.
        used = {pack.id: pack.live_bytes for pack in pack_usage(lake.snapshot())}
        counted = {id_: info.live_bytes for id_, info in lake.snapshot().state.packs.items()}
        assert all(used[id_] <= (counted[id_] or 0) for id_ in used)
        lake.merge_index(everything=True)
        counted = {id_: info.live_bytes for id_, info in lake.snapshot().state.packs.items()}
        assert counted == used


def test_nothing_to_do_is_no_commit() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        assert compact(lake).snapshot is None
        assert lake.snapshot().number == 1


def test_payloads_stay_as_they_are_stored() -> None:
    with new_lake() as lake:
        with lake.writer(ZSTD) as writer:
            writer.put("text", b"the same again, " * 500)
        write(lake, {"other": b"1"})
        before = lake.snapshot().stat("text")
        compacted(lake)
        after = lake.snapshot().stat("text")
        assert (after.codec, after.length, after.pack != before.pack) == (
            Codec.ZSTD, before.length, True)  # fmt: skip


def test_copies_of_a_file_go_on_sharing_one_payload() -> None:
    with new_lake() as lake:
        write(lake, {"m": bytes(5000), "dead": bytes(9000)})
        with lake.writer(QUIET) as writer:
            for number in range(30):
                writer.copy("m", f"{number:02}/copy")
            writer.delete("dead")
            writer.flush()
        for third in range(3):
            write(lake, {f"{n:02}/own": bytes(900) for n in range(third, 30, 3)})
        # Even where the copies end up in different packs.
        done = compacted(lake, CompactionOptions(target_bytes=23_000))
        assert (len(done.plan.inputs), len(done.packs_added)) == (4, 2)
        rows = [row for row in all_rows(lake.snapshot()) if row.size == 5000]
        assert len(rows) == 31
        assert len({(row.pack, row.offset) for row in rows}) == 1


def test_shuffled_payloads_lie_in_a_seeded_order_and_rows_stay_sorted() -> None:
    orders = []
    for seed in (1, 1, 2):
        with new_lake() as lake:
            for half in range(2):
                write(lake, {f"{n:03}": bytes([n]) * 50 for n in range(half, 200, 2)})
            compacted(lake, None, CopyOptions("shuffled", seed))
            offsets = np.array([row.offset for row in all_rows(lake.snapshot())])
            orders.append(np.argsort(offsets).tolist())
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_payloads_in_path_order_are_one_stretch_of_a_pack() -> None:
    with new_lake() as lake:
        for third in range(3):
            write(lake, {f"{n:03}": bytes([n]) * 50 for n in range(third, 200, 3)})
        compacted(lake)
        offsets = [row.offset for row in all_rows(lake.snapshot())]
        assert offsets == sorted(offsets)


def test_packs_are_filled_up_to_the_target_size() -> None:
    with new_lake() as lake:
        for number in range(10):
            write(lake, {f"{number}/{n}": bytes(1000) for n in range(10)})
        compacted(lake, CompactionOptions(target_bytes=25_000))
        sizes = [info.sealed.payload_end - 4 for info in lake.snapshot().state.packs.values()]
        assert sizes == [25_000] * 4


def test_a_mostly_dead_pack_gives_its_room_back() -> None:
    with new_lake() as lake:
        write(lake, {f"{n}": bytes(3000) for n in range(10)})
        write(lake, {}, delete=[f"{n}" for n in range(9)])
        before = sum(lake.volume.stat(path).size for path in stored_files(lake.volume))
        compacted(lake, CompactionOptions(target_bytes=1))
        assert collect(lake, AT_ONCE).deleted
        after = sum(lake.volume.stat(path).size for path in stored_files(lake.volume))
        assert after < before / 3
        assert list(contents(lake.snapshot())) == ["9"]
        assert check(lake, deep=True).clean


def test_a_lake_of_deleted_files_only_ends_with_no_pack() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1", "b": b"2"})
        write(lake, {}, delete=["a", "b"])
        lake.merge_index()
        compacted(lake)
        assert not lake.snapshot().state.packs
        assert not lake.snapshot().state.segments


def test_a_tombstone_stays_as_long_as_a_pack_that_stays_has_the_file() -> None:
    with new_lake() as lake:
        write(lake, {"big/a": bytes(3000), "big/b": bytes(3000), "big/c": bytes(3000)})
        write(lake, {"small": b"1"}, delete=["big/b"])
        write(lake, {"other": b"1"}, delete=["small"])
        lake.merge_index(everything=True)
        options = CompactionOptions(target_bytes=5000)
        assert len(plan_of(lake, options).plan.inputs) == 2
        compacted(lake, options)
        kept = [row.path for table in lake.snapshot().scan_packs([*lake.snapshot().state.packs], "",
                None) for row in rows_from_table(table) if row.kind is Kind.TOMBSTONE]  # fmt: skip
        assert kept == ["big/b"]
        # With the pack gone, nothing needs the tombstone.
        write(lake, {}, delete=["big/a", "big/c"])
        compacted(lake)
        assert sum(i.sealed.tombstones for i in lake.snapshot().state.packs.values()) == 0


@pytest.mark.parametrize("below", [True, False])
def test_a_tombstone_stays_as_long_as_a_run_below_has_the_file(below: bool) -> None:
    with new_lake() as lake:
        write(lake, {f"old/{number:02}": bytes(200) for number in range(50 if below else 2)})
        lake.merge_index()
        write(lake, {"a": b"1"}, delete=["old/01"])
        write(lake, {"b": b"2"})
        assert compacted(lake, CompactionOptions(target_bytes=5000)).snapshot is not None
        snapshot = lake.snapshot()
        assert not snapshot.exists("old/01")
        runs = {one.level: one.tombstones for one in snapshot.state.segments.values()}
        assert runs == ({1: 0, 2: 1} if below else {1: 0})


def test_a_rename_kept_in_a_big_pack_does_not_hold_its_old_pack() -> None:
    with new_lake() as lake:
        write(lake, {"x": b"content", "y": b"1"})
        with lake.writer(QUIET) as writer:
            writer.rename("x", "z")
            for number in range(3):
                writer.put(f"big/{number}", bytes(3000))
        write(lake, {"small": b"2"})
        options = CompactionOptions(target_bytes=5000)
        done = compacted(lake, options)
        assert len(done.packs_removed) == 2
        assert lake.snapshot().get("z") == b"content"
        # The row that stayed behind says where the bytes were; later runs get it right, too.
        write(lake, {"z": b"newer"})
        write(lake, {"w": b"3"})
        compacted(lake, options)
        compacted(lake, CompactionOptions(live_ratio=0.8))
        assert lake.snapshot().get("z") == b"newer"


def test_old_snapshots_stay_readable_and_expire_only_by_collection() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1", "b": b"old"})
        write(lake, {"b": b"new"})
        lake.tag("keep", 1)
        old = lake.snapshot(2)
        compacted(lake)
        assert contents(old) == {"a": b"1", "b": b"new"}
        assert contents(lake.snapshot("keep")) == {"a": b"1", "b": b"old"}
        lake.refs.delete("keep")
        collect(lake, AT_ONCE)
        with pytest.raises(SnapshotExpired):
            lake.snapshot(1)
        # A reader that holds its rows finds the same version where it is now; others are gone.
        row = next(row for row in all_rows(lake.snapshot()) if row.path == "a")
        assert lake.snapshot().read_row(row) == b"1"


def test_a_slow_reader_gets_the_right_bytes_after_compaction_and_collection() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1", "b": b"old"})
        write(lake, {"c": b"3"})
        lake.merge_index()
        with Lake.open(volume) as other:
            old = other.snapshot()
            tables = list(old.scan())
            compact(lake)
            write(lake, {"b": b"new"})
            collect(lake, AT_ONCE)
            rows = {row.path: row for table in tables for row in rows_from_table(table)}
            assert old.read_row(rows["a"]) == b"1"
            with pytest.raises(SnapshotExpired):
                old.read_row(rows["b"])


def test_diff_sees_through_compaction() -> None:
    with new_lake() as lake:
        write(lake, {"big": bytes(5000), "gone": b"0", "same": bytes(3000)})
        first = lake.snapshot()
        write(lake, {"a": b"1"}, delete=["gone"])
        write(lake, {"b": b"2"})
        compact(lake, CompactionOptions(target_bytes=9000))
        assert len(lake.snapshot().state.packs) == 2
        changes = {change.path: change.kind for change in diff(first, lake.snapshot())}
        assert changes == {"a": "added", "b": "added", "gone": "removed"}


def test_big_payloads_are_streamed_and_windows_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "STREAM_BYTES", 2000)
    monkeypatch.setattr(copying, "WINDOW_BYTES", 700)
    monkeypatch.setattr(copying, "WINDOW_FILES", 5)
    monkeypatch.setattr(repacking, "_STEP_ROWS", 7)
    monkeypatch.setattr(repacking, "PACK_ROWS", 25)
    with new_lake() as lake:
        many_kinds(lake)
        write(lake, {"huge": random.Random(1).randbytes(10_000), "zz": bytes(2001)})
        compacted(lake)
        assert {info.sealed.rows for info in lake.snapshot().state.packs.values()} >= {25}


def test_a_pack_has_fewer_rows_where_much_is_said_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repacking, "_STEP_BYTES", 20_000)
    monkeypatch.setattr(repacking, "PACK_ROWS_BYTES", 50_000)
    with new_lake() as lake:
        for half in range(2):
            with lake.writer() as writer:
                for number in range(half, 100, 2):
                    writer.put(f"{number:03d}", b"x", attrs={"caption": "x" * 1000})
        compacted(lake)
        rows = [info.sealed.rows for info in lake.snapshot().state.packs.values()]
        assert sum(rows) == 100
        assert max(rows) <= 50


SIZES = st.integers(0, 40) | st.sampled_from([4095, 4096, 5000])
STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcdef"), SIZES, max_size=4),
        st.sets(st.sampled_from("abcdef"), max_size=2),
        st.sampled_from(["", "merge", "merge all", "compact", "compact some", "collect"]),
    ),
    min_size=2,
    max_size=9,
)


@settings(max_examples=40)
@given(steps=STEPS, target_bytes=st.sampled_from([1, 60, 4500, 1 << 20]))
def test_any_history_can_be_compacted_at_any_time(
    steps: list[tuple[dict[str, int], set[str], str]], target_bytes: int
) -> None:
    options = CompactionOptions(target_bytes=target_bytes, live_ratio=0.8)
    model: dict[str, bytes] = {}
    with new_lake() as lake:
        for number, (files, deleted, act) in enumerate(steps):
            data = {path: bytes([number]) * size for path, size in files.items()}
            gone = deleted & model.keys()
            if data or gone:
                write(lake, data, delete=gone)
            model = {path: b for path, b in model.items() if path not in gone} | data
            if act.startswith("merge"):
                lake.merge_index(everything=act == "merge all")
            elif act.startswith("compact"):
                compact(lake, replace(options, rows_max=4 if act == "compact some" else 1000))
            elif act == "collect":
                collect(lake, AT_ONCE)
            assert contents(lake.snapshot()) == model
        compacted(lake, options)


@pytest.mark.slow
@settings(max_examples=20)
@given(steps=STEPS, target_bytes=st.sampled_from([1, 60, 1 << 20]))
def test_a_plan_from_what_merges_counted_is_as_sound(
    steps: list[tuple[dict[str, int], set[str], str]], target_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, small_groups():
        patch.setattr(compactor, "EXACT_ROWS", 0)
        test_any_history_can_be_compacted_at_any_time.hypothesis.inner_test(  # type: ignore[attr-defined]
            steps, target_bytes
        )


def test_in_a_big_lake_merges_find_the_dead_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "EXACT_ROWS", 0)
    with new_lake() as lake:
        write(lake, {f"{n}": bytes(3000) for n in range(10)})
        write(lake, {f"x{n}": bytes(3000) for n in range(10)})
        lake.merge_index()
        write(lake, {}, delete=[f"{n}" for n in range(9)])
        options = CompactionOptions(target_bytes=1)
        assert plan_of(lake, options).plan.empty
        lake.merge_index()
        (only,) = plan_of(lake, options).plan.inputs
        assert (only.reason, only.live_bytes) == ("live ratio", 3000)
        compacted(lake, options)


def test_writers_of_other_settings_do_not_matter() -> None:
    with new_lake() as lake, lake.writer(WriterOptions(flush_files=1, merge_after=3)) as writer:
        for number in range(12):
            writer.put(f"{number}", b"%d" % number).wait()
        writer.flush()
        compacted(lake)
