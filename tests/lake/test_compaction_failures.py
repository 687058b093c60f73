"""Compaction, damaged packs and failing volumes: what cannot move stays, nothing is lost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
from crc32c import crc32c

from lakefeed import Lake
from lakefeed.errors import Corrupt, LakefeedError, NotFound, VolumeFailed
from lakefeed.format.pack import Meta, PackSealed, PackWriter
from lakefeed.format.payload import encode
from lakefeed.format.rows import Codec, Kind, Row
from lakefeed.lake import copying, layout
from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import collect, stored_files
from lakefeed.lake.lake import Lake as OpenLake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.repair import rebuild_index
from lakefeed.volume.base import ReadableFile, Volume, read_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.compacting import AT_ONCE, FILES, STAGES, during, filled, sound
from tests.lake.tools import QUIET, contents, damage, new_lake, write
from tests.support.faulty import MODES, FaultyVolume
from tests.survival.lakes import raw_files


@pytest.fixture
def lake() -> Iterator[OpenLake]:
    with Lake.open(filled()) as lake:
        yield lake


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


@pytest.mark.parametrize("target_bytes", [500, 1 << 20])
def test_of_two_files_that_begin_at_one_place_neither_is_cut(
    lake: OpenLake, target_bytes: int
) -> None:
    # No writer of ours makes such a pack, and no rule of the format is against it.
    def fill(writer: PackWriter, now_ns: int) -> None:
        writer.add("long", encode(b"hello world"), Meta(now_ns))
        writer.add("between", encode(bytes(900)), Meta(now_ns))
        writer.add("dead", encode(bytes(9000)), Meta(now_ns))
        writer.add_row(Row("a", Kind.FILE, writer.id, 4, 5, 5, Codec.NONE, crc32c(b"hello"), 0, 0,
                           None, 0))  # fmt: skip

    pack = new_pack(lake.volume, 0, fill)
    lake.append([pack], Draft("another program"))
    write(lake, {}, delete=["dead"])
    wanted = {**FILES, "a": b"hello", "between": bytes(900), "long": b"hello world"}
    done = compact(lake, CompactionOptions(target_bytes=target_bytes))
    collect(lake, AT_ONCE)
    with Lake.open(lake.volume) as fresh:
        assert contents(fresh.snapshot()) == wanted
        sound(fresh)
    assert [(damage.path, damage.pack) for damage in done.damages] == [("long", pack.id)]


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


@pytest.mark.parametrize("stream_bytes", [1000, 1 << 20])
def test_a_payload_that_ends_behind_its_pack_is_named_and_stays(
    lake: OpenLake, stream_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(writer: PackWriter, now_ns: int) -> None:
        writer.add("dead", encode(bytes(9000)), Meta(now_ns))
        writer.add("sound", encode(bytes(2000)), Meta(now_ns))
        writer.add_row(Row("out", Kind.FILE, writer.id, 4, 50_000, 50_000, Codec.NONE, 0, 0, 0,
                           None, 0))  # fmt: skip

    monkeypatch.setattr(copying, "STREAM_BYTES", stream_bytes)
    pack = new_pack(lake.volume, 0, fill)
    lake.append([pack], Draft("another program"))
    write(lake, {}, delete=["dead"])
    done = compact(lake, CompactionOptions(target_bytes=1 << 20))
    assert [(damage.path, damage.pack) for damage in done.damages] == [("out", pack.id)]
    assert lake.snapshot().stat("sound").pack != pack.id
    assert lake.snapshot().get("sound") == bytes(2000)


def test_a_damaged_segment_aborts_and_leaves_nothing(lake: OpenLake) -> None:
    (segment,) = lake.snapshot().state.segments
    damage(lake.volume, layout.segment_path(segment), 20)
    with Lake.open(lake.volume) as fresh:
        before = set(stored_files(lake.volume))
        with pytest.raises(Corrupt):
            compact(fresh)
        assert set(stored_files(lake.volume)) == before


LOSSES = ("gone", "cut", "footer", "rows")


def lose(volume: Volume, pack: PackSealed, how: str) -> bytes:
    """Damage a pack; return what it was."""
    path = layout.pack_path(pack.id)
    data = read_file(volume, path)
    at = {"footer": pack.bytes - 5, "rows": pack.payload_end + 20}.get(how)
    if at is not None:
        damage(volume, path, at)
        return data
    volume.unlink(path)
    if how == "cut":
        with volume.create(path) as file:
            file.write([data[: pack.payload_end // 2]])
    return data


@pytest.mark.parametrize("how", LOSSES)
def test_a_pack_that_cannot_be_read_keeps_no_other_from_being_compacted(how: str) -> None:
    with new_lake() as lake:
        for number in range(6):
            write(lake, {f"{name}/{number}": bytes(300) for name in "abc"})
        write(lake, {"copy": b"1"}, delete=["a/1", "a/2", "c/2"])
        with lake.writer(QUIET) as writer:
            writer.copy("a/3", "c/3.copy")
        write(lake, {"z": b"1"}, delete=["b/4"])
        lake.merge_index()
        files = contents(lake.snapshot())
        lost = lake.snapshot().state.packs[lake.snapshot().stat("b/2").pack].sealed
        data = lose(lake.volume, lost, how)
    with Lake.open(lake.volume) as lake:
        done = compact(lake)
        assert [damage.pack for damage in done.damages] == [lost.id]
        assert len(done.packs_removed) == 8
        rest = {path: data for path, data in files.items() if path != "b/2"}
        assert {path: lake.snapshot().get(path) for path in rest} == rest
        again = compact(lake)
        assert (again.snapshot, [damage.pack for damage in again.damages]) == (None, [lost.id])
        # Once it is restored nothing that was deleted comes back, not from the packs alone either.
        with suppress(NotFound):
            lake.volume.unlink(layout.pack_path(lost.id))
        with lake.volume.create(layout.pack_path(lost.id)) as file:
            file.write([data])
    with Lake.open(lake.volume) as lake:
        rebuild_index(lake)
        assert contents(lake.snapshot()) == files
        assert lost.id in compact(lake).packs_removed
        sound(lake)
        assert contents(lake.snapshot()) == files


def test_what_a_plan_has_read_of_small_packs_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake:
        for number in range(20):
            write(lake, {f"{number}": bytes(300)})
        lake.merge_index()
        packs = {layout.pack_path(id_) for id_ in lake.snapshot().state.packs}
    usual, opened = MemoryVolume.open, Counter[str]()

    def counted(volume: MemoryVolume, path: str) -> ReadableFile:
        opened[path] += 1
        return usual(volume, path)

    monkeypatch.setattr(MemoryVolume, "open", counted)
    with Lake.open(lake.volume) as lake:
        assert len(compact(lake).packs_removed) == 20
    assert {opened[path] for path in packs} == {1}


def test_a_run_can_be_ended_while_it_plans(lake: OpenLake) -> None:
    before = set(stored_files(lake.volume))

    def end() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compact(lake, progress=during("planning", end))
    assert set(stored_files(lake.volume)) == before


@pytest.mark.parametrize("how", LOSSES)
def test_what_a_pack_refers_to_stays_with_it_while_it_cannot_be_read(how: str) -> None:
    with new_lake() as lake:
        for number in range(4):
            write(lake, {f"{number}": bytes(300)})
        origin = lake.snapshot().stat("1").pack
        with lake.writer(QUIET) as writer:
            writer.rename("1", "moved")
        lake.merge_index()
        files = contents(lake.snapshot())
        (renamed,) = (info.sealed for info in lake.snapshot().state.packs.values()
                      if origin in info.sealed.refs)  # fmt: skip
        lose(lake.volume, renamed, how)
    with Lake.open(lake.volume) as lake:
        done = compact(lake)
        assert [damage.pack for damage in done.damages] == [renamed.id]
        assert len(done.packs_removed) == 3
        assert origin not in done.packs_removed
        assert contents(lake.snapshot()) == files


def test_a_full_disk_is_noticed_before_anything_is_written() -> None:
    volume = filled(MemoryVolume(capacity_bytes=20_000))
    with Lake.open(volume) as lake:
        used = 20_000 - volume.space().free_bytes
        with lake.volume.create("tmp/ballast") as file:
            file.write([bytes(20_000 - used - 900)])
        before = set(stored_files(volume))
        with pytest.raises(VolumeFailed, match=r"bytes free.*; free space"):
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
    examined: set[tuple[frozenset[tuple[str, bytes]], bool]] = set()
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
            # Most faults leave what another one left, to the byte.
            what = frozenset(raw_files(left).items()), acknowledged
            if what in examined:
                continue
            examined.add(what)
            with Lake.open(left) as lake:
                assert contents(lake.snapshot()) == FILES
                assert len(lake.snapshot().state.packs) == 1 or not acknowledged
                report = check(lake, deep=True)
                assert report.clean, report.findings
                compact(lake)
                collect(lake, AT_ONCE)
                assert len(list(stored_files(left))) == 2
                assert contents(lake.snapshot()) == FILES
    assert len(examined) > 5


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
