"""fsck names every damage it is shown, goes on after each, and finds nothing in a sound lake."""

from __future__ import annotations

import errno

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.format.columns import MAGIC, ColumnsWriter
from lakefeed.format.commit import Changes, SegmentInfo
from lakefeed.format.rows import Codec, Kind, Row, table_from_rows, to_file
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.check_log import MISSING_MAX
from lakefeed.lake.findings import FINDINGS_MAX, Collector, Report
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import CHECKPOINT_EVERY, Draft
from lakefeed.lake.refs import Tag
from lakefeed.volume.base import read_file, write_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import all_rows, damage, new_lake, put_bytes, write
from tests.support.faulty import FaultyVolume

FILES = {f"d{number % 3}/{number:02d}": bytes([number]) * 5000 for number in range(12)}


def lake_with_files(volume: MemoryVolume) -> Lake:
    """Two packs, one of them merged."""
    lake = Lake.create(volume)
    write(lake, FILES)
    lake.merge_index()
    write(lake, {"late": b"late", "d0/00": b"again"})
    return lake


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def only_pack(lake: Lake, seq: int) -> str:
    (pack,) = [id_ for id_, info in lake.snapshot().state.packs.items() if info.seq == seq]
    return layout.pack_path(pack)


def only_segment(lake: Lake) -> str:
    (segment,) = lake.snapshot().state.segments
    return layout.segment_path(segment)


@pytest.mark.slow
def test_a_sound_lake_is_clean_and_counted() -> None:
    with lake_with_files(MemoryVolume()) as lake:
        report = check(lake, deep=True)
        assert report.clean
        assert report.snapshot == 3
        counted = report.counters
        assert (counted.commits, counted.packs, counted.segments) == (3, 2, 1)
        assert (counted.live_rows, counted.payloads, counted.orphans) == (13, 13, 0)
        assert counted.payload_bytes == sum(map(len, FILES.values())) - 5000 + 9
        assert check(lake, 1, deep=True).counters.payloads == 12


def test_a_damaged_payload_is_named_only_by_the_deep_check() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        rows = {row.path: row for row in all_rows(lake.snapshot())}
        for path in ("d1/01", "d2/05"):
            damage(volume, layout.pack_path(rows[path].pack), rows[path].offset + 7)
        assert check(lake).clean
        report = check(lake, deep=True)
        assert [finding.subject for finding in report.findings] == ["d1/01", "d2/05"]
        assert kinds(report) == {"payload"}
        assert report.counters.payloads == 13


def test_the_deep_check_streams_what_is_too_big_for_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lakefeed.lake.check_payloads.PIECE_BYTES", 4096)
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        assert check(lake, deep=True).clean
        row = next(row for row in all_rows(lake.snapshot()) if row.path == "d1/04")
        damage(volume, layout.pack_path(row.pack), row.offset + row.length - 1)
        report = check(lake, deep=True)
        assert [finding.subject for finding in report.findings] == ["d1/04"]


@pytest.mark.parametrize("which", ["pack", "segment"])
def test_a_missing_file_is_found_and_the_rest_is_still_checked(which: str) -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        lost = only_pack(lake, 1) if which == "pack" else only_segment(lake)
        row = next(row for row in all_rows(lake.snapshot()) if row.path == "late")
        damage(volume, layout.pack_path(row.pack), row.offset)
        volume.unlink(lost)
        report = check(lake, deep=True)
        found = {(finding.kind, finding.subject) for finding in report.findings}
        assert found == {("missing", lost), ("payload", "late")}
        hint = next(finding.hint for finding in report.findings if finding.subject == lost)
        assert ("lakefeed repair" in str(hint)) is (which == "segment")


@pytest.mark.parametrize(
    ("part", "kind"), [("magic", "file"), ("rows", "rows"), ("footer", "file"), ("end", "file")]
)
def test_damage_in_the_index_of_a_pack_is_found(part: str, kind: str) -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        path = only_pack(lake, 1)
        info = next(info for info in lake.snapshot().state.packs.values() if info.seq == 1)
        rows_at = info.sealed.payload_end + 5
        damage(volume, path, {"magic": 0, "rows": rows_at, "footer": -40, "end": -1}[part])
        report = check(lake, deep=True)
        assert kinds(report) == {kind}
        assert path in report.findings[0].subject


def test_a_file_cut_short_is_found() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        path = only_segment(lake)
        put_bytes(volume, path, read_file(volume, path)[:-10])
        report = check(lake)
        assert kinds(report) == {"file"}
        assert report.findings[0].subject == path


@pytest.mark.slow
def test_any_changed_byte_of_an_index_file_is_found() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        path = only_segment(lake)
        data = read_file(volume, path)
        for at in range(0, len(data), 37):
            damage(volume, path, at)
            assert kinds(check(lake)) & {"file", "rows"}, at
            put_bytes(volume, path, data)
        assert check(lake).clean


def segment_of(volume: MemoryVolume, rows: list[Row], seqs: tuple[int, int]) -> SegmentInfo:
    """Write a well-formed segment that says whatever these rows say."""
    segment_id = layout.new_id()
    with volume.create(layout.segment_path(segment_id)) as file:
        file.write([MAGIC])
        writer = ColumnsWriter(file.write, 4, {"kind": "segment", "id": segment_id})
        writer.add(to_file(table_from_rows(rows), "", None))
        written = writer.close()
        file.sync()
        size = file.tell()
    return SegmentInfo(segment_id, size, written.footer_bytes, written.rows, 0, written.first,
                       written.last, *seqs)  # fmt: skip


def replace_segments(lake: Lake, rows: list[Row], seqs: tuple[int, int]) -> None:
    assert isinstance(lake.volume, MemoryVolume)
    segment = segment_of(lake.volume, rows, seqs)
    state = lake.snapshot().state
    changes = Changes(
        add_segments=(segment,),
        remove_segments=tuple(state.segments),
        index_packs=tuple(state.packs),
    )
    lake.log.commit(Draft("test"), lambda state: changes)


LIES = {
    "a row too few": lambda rows: rows[1:],
    "a row nobody wrote": lambda rows: [*rows, rows[0]._replace(path="zz")],
    "another checksum": lambda rows: [rows[0]._replace(crc32c=1), *rows[1:]],
    "another size": lambda rows: [rows[0]._replace(size=4, length=4), *rows[1:]],
    "other attributes": lambda rows: [rows[0]._replace(attrs={"a": "b"}), *rows[1:]],
    "an older version": lambda rows: [rows[0]._replace(seq=1), *rows[1:]],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_merged_index_that_disagrees_with_the_packs_is_found(lie: str) -> None:
    with lake_with_files(MemoryVolume()) as lake:
        rows = all_rows(lake.snapshot())
        replace_segments(lake, rows, (1, 3))
        assert check(lake).clean
        replace_segments(lake, LIES[lie](rows), (1, 3))
        assert kinds(check(lake)) == {"index"}


IMPOSSIBLE = {
    "outside": lambda row: row._replace(offset=1 << 40),
    "in the magic": lambda row: row._replace(offset=0),
    "past the end": lambda row: row._replace(length=1 << 30, size=1 << 30),
    "not aligned": lambda row: row._replace(offset=row.offset + 1, size=4096, length=4096),
    "raw of another length": lambda row: row._replace(size=row.size + 1),
    "a huge zstd": lambda row: row._replace(codec=Codec.ZSTD, size=1 << 40),
    "from the future": lambda row: row._replace(seq=99),
    "a directory with bytes": lambda row: row._replace(kind=Kind.DIR),
    "an absolute path": lambda row: row._replace(path="/etc"),
    "a path out": lambda row: row._replace(path="d/../../x"),
    "an empty component": lambda row: row._replace(path="d//x"),
    "a long component": lambda row: row._replace(path="é" * 300),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_row_that_cannot_be_true_is_found(what: str) -> None:
    with lake_with_files(MemoryVolume()) as lake:
        rows = all_rows(lake.snapshot())
        rows[1] = IMPOSSIBLE[what](rows[1])
        replace_segments(lake, sorted(rows, key=lambda row: row.path), (1, 3))
        assert "rows" in kinds(check(lake))


def test_a_live_row_without_its_pack_is_found() -> None:
    with lake_with_files(MemoryVolume()) as lake:
        gone = next(id_ for id_, info in lake.snapshot().state.packs.items() if info.seq == 3)
        replace_segments(lake, all_rows(lake.snapshot()), (1, 3))
        lake.log.commit(Draft("test"), lambda state: Changes(remove_packs=(gone,)))
        report = check(lake, deep=True)
        dangling = [found.subject for found in report.findings if found.kind == "dangling"]
        assert dangling == ["d0/00", "late"]


def test_runs_that_overlap_in_seq_are_found() -> None:
    with lake_with_files(MemoryVolume()) as lake:
        rows = [row for row in all_rows(lake.snapshot()) if row.seq == 3]
        replace_segments(lake, all_rows(lake.snapshot()), (1, 3))
        assert isinstance(lake.volume, MemoryVolume)
        extra = segment_of(lake.volume, rows, (2, 4))
        lake.log.commit(Draft("test"), lambda state: Changes(add_segments=(extra,)))
        assert "order" in kinds(check(lake))


def test_a_file_with_paths_below_it_is_found() -> None:
    with new_lake() as lake:
        write(lake, {"a!": b"", "a": b"file"})
        # Another writer, which does not know of the file yet: it looked before.
        with lake.writer() as first, lake.writer() as second:
            first.put("b", b"file")
            second.put("b/c/d", b"below")
        report = check(lake)
        assert [(f.kind, f.subject) for f in report.findings] == [("shadowed", "b")]


def test_damaged_commits_are_named_and_the_head_is_told_from_the_rest() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        write(lake, {"x": b""})
        damage(volume, layout.commit_path(4), 100)
        report = check(Lake.open(volume))
        assert [finding.kind for finding in report.findings] == ["log"]
        assert report.snapshot == 3
        assert "go on from 3" in (report.findings[0].hint or "")
        damage(volume, layout.commit_path(2), 100)
        report = check(Lake.open(volume))
        assert len([finding for finding in report.findings if finding.kind == "log"]) == 2
        assert report.snapshot == 0


@pytest.mark.slow
def test_a_checkpoint_that_differs_from_the_commits_is_found() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        for number in range(CHECKPOINT_EVERY):
            write(lake, {str(number): b""})
        path = layout.checkpoint_path(CHECKPOINT_EVERY)
        assert check(lake).counters.checkpoints == 1
        good = read_file(volume, path)
        damage(volume, path, 100)
        assert kinds(check(lake)) == {"checkpoint"}
        put_bytes(volume, path, good.replace(b'"rows":1', b'"rows":2'))
        assert kinds(check(lake)) == {"checkpoint"}


def test_commits_that_only_their_checkpoint_tells_of_are_missed() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        for number in range(CHECKPOINT_EVERY):
            write(lake, {str(number): b""})
    lost = [layout.commit_path(number) for number in (CHECKPOINT_EVERY - 1, CHECKPOINT_EVERY)]
    for path in lost:
        volume.unlink(path)
    with Lake.open(volume) as lake:
        report = check(lake)
    assert report.snapshot == CHECKPOINT_EVERY - 2
    assert [(found.kind, found.subject) for found in report.findings] == [
        ("log", path) for path in lost
    ]
    assert f"behind {CHECKPOINT_EVERY - 2}" in (report.findings[0].hint or "")


def test_what_is_missing_up_to_a_number_far_beyond_the_log_is_not_looked_for_one_by_one() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        beyond = layout.commit_path(1000 * MISSING_MAX)
        write_file(volume, beyond, b"of another program")
        found = check(lake).findings
        assert len(found) == MISSING_MAX + 2
        assert str(1000 * MISSING_MAX - 1) in found[-2].expected
        assert beyond in found[-1].subject


def test_a_pin_beyond_the_log_is_found() -> None:
    with lake_with_files(MemoryVolume()) as lake:
        pin = lake.refs.pin(99, "test", 60)
        (found,) = check(lake).findings
        assert (found.kind, found.subject) == ("ref", layout.pin_path(pin.id))


def test_damaged_tags_and_pins_are_found() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        lake.tag("v1", 1)
        pin = lake.pin(1, holder="test", lifetime_seconds=60)
        assert check(lake).clean
        damage(volume, layout.ref_path("v1"), 90)
        damage(volume, layout.pin_path(pin.id), 90)
        report = check(lake)
        assert [found.kind for found in report.findings] == ["ref", "ref"]
        assert kinds(check(lake, "v1")) == {"ref"}


def test_a_damaged_pin_hides_no_other_one() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        pins = [lake.pin(1, holder="test", lifetime_seconds=60) for _ in range(3)]
        beyond = lake.refs.pin(99, "test", 60)
        for pin in pins:
            damage(volume, layout.pin_path(pin.id), 90)
        expected = {layout.pin_path(pin.id) for pin in (*pins, beyond)}
        assert {found.subject for found in check(lake).findings} == expected


def test_a_tagged_snapshot_that_lacks_files_or_commits_is_found() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        lake.tag("v1", 2)
        lost = only_segment(lake)
        lake.merge_index(everything=True)
        volume.unlink(lost)
        report = check(lake, deep=True)
        assert [(found.kind, found.subject) for found in report.findings] == [("missing", lost)]
        lake.refs.set(Tag("v2", 99))
        assert kinds(check(lake)) == {"missing", "ref"}


@pytest.mark.parametrize("length", [0, -10])
def test_a_tagged_snapshot_whose_files_are_cut_short_is_found(length: int) -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        lake.tag("v1", 2)
        path = only_segment(lake)
        lake.merge_index(everything=True)
        put_bytes(volume, path, read_file(volume, path)[:length])
        report = check(lake)
        assert [(found.kind, found.subject) for found in report.findings] == [("file", path)]


def test_a_volume_that_cannot_be_read_is_no_finding() -> None:
    inner = MemoryVolume()
    lake_with_files(inner).close()
    calls = FaultyVolume(inner)
    check(Lake.open(calls), deep=True)
    for number in range(2, len(calls.calls), 7):
        with pytest.raises(VolumeFailed) as caught:
            # Everything fails from some call on, as when the filer is gone.
            check(Lake.open(FaultyVolume(inner, number, dead=True)), deep=True)
        assert caught.value.errno == errno.EIO


def test_orphans_are_counted_and_no_damage() -> None:
    volume = MemoryVolume()
    with lake_with_files(volume) as lake:
        put_bytes_new(volume, layout.pack_path(layout.new_id()))
        put_bytes_new(volume, layout.segment_path(layout.new_id()))
        report = check(lake)
        assert report.clean
        assert report.counters.orphans == 2


def put_bytes_new(volume: MemoryVolume, path: str) -> None:
    with volume.create(path) as file:
        file.write([b"rest of a failed writer"])


def test_findings_are_bounded_and_all_of_them_counted() -> None:
    found = Collector()
    for number in range(FINDINGS_MAX + 10):
        found.add("payload", str(number), "a", "b")
    report = found.report(1, deep=False)
    assert len(report.findings) == FINDINGS_MAX
    assert report.findings_total == FINDINGS_MAX + 10
    assert not report.clean
