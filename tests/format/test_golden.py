"""Files that version 1 wrote still open to the same values, and FORMAT.md describes them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lakefeed.format.commit import (
    Changes,
    Commit,
    PackInfo,
    SegmentInfo,
    State,
    decode_checkpoint,
    decode_commit,
    encode_checkpoint,
    encode_commit,
)  # fmt: skip
from lakefeed.format.pack import PackSealed, open_pack
from lakefeed.format.payload import Payload, decode, encode
from lakefeed.format.rows import COLUMNS, Codec, Kind, Row, from_file, rows_from_table
from tests.format.golden import write_v1 as v1
from tests.format.samples import reader_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "FORMAT.md"
PACK = v1.V1 / "example.pack"
SEGMENT = v1.V1 / "example.parquet"
T = v1.TIME_NS

GOLDEN_ROWS = [
    Row("hello.txt", Kind.FILE, v1.PACK_ID, 4, 13, 13,
        Codec.NONE, 0x4D6941F5, T, 0o644, None, 2),
    Row("kept.txt", Kind.FILE, v1.OTHER_PACK_ID, 4, 5, 5,
        Codec.NONE, 0x9A71BB4C, T - 9, 0o644, None, 2),
    Row("latest", Kind.SYMLINK, v1.PACK_ID, 4608, 9, 9,
        Codec.NONE, 0x4A9EC2EE, T + 2, 0o777, None, 2),
    Row("notes.txt", Kind.FILE, v1.PACK_ID, 4617, 48, 272,
        Codec.ZSTD, 0xCFF4FEF5, T + 5, 0o640, None, 2),
    Row("old.txt", Kind.TOMBSTONE, v1.PACK_ID, 0, 0, 0,
        Codec.NONE, 0, T + 4, 0, None, 2),
    Row("photos/cat.raw", Kind.FILE, v1.PACK_ID, 512, 4096, 4096,
        Codec.NONE, 0x9C71FE32, T + 1, 0o600, {"label": "cat", "width": "64"}, 2),
    Row("photos/empty", Kind.DIR, v1.PACK_ID, 4617, 0, 0,
        Codec.NONE, 0, T + 3, 0o755, None, 2),
]  # fmt: skip
GOLDEN_BYTES = {
    "hello.txt": v1.HELLO, "latest": v1.TARGET, "notes.txt": v1.NOTES, "photos/cat.raw": v1.PICTURE,
    "photos/empty": b"",
}  # fmt: skip


def rows_in(data: bytes, pack_id: str) -> list[Row]:
    reader = reader_of(data)
    return rows_from_table(from_file(reader.read(0, len(reader.groups)), pack_id, v1.SEQ, "golden"))


def notes_as_then() -> Payload:
    """The compressed payload with the golden bytes: another zstd may find others."""
    (row,) = (row for row in GOLDEN_ROWS if row.codec is Codec.ZSTD)
    stored = PACK.read_bytes()[row.offset : row.offset + row.length]
    return Payload(stored, row.size, Codec.ZSTD, encode(v1.NOTES).crc32c)


def test_the_golden_pack_opens_to_its_rows_and_bytes() -> None:
    data = PACK.read_bytes()
    assert len(data) == v1.GOLDEN_SEALED.bytes
    assert open_pack(reader_of(data), v1.PACK_ID, "golden") == v1.GOLDEN_SEALED.payload_end
    assert rows_in(data, v1.PACK_ID) == GOLDEN_ROWS
    for row in GOLDEN_ROWS:
        if row.path in GOLDEN_BYTES:
            stored = data[row.offset : row.offset + row.length]
            found = decode(stored, row.size, row.codec, row.crc32c, row.path)
            assert found == GOLDEN_BYTES[row.path]


def test_the_golden_segment_opens_to_its_rows() -> None:
    data = SEGMENT.read_bytes()
    assert len(data) == v1.GOLDEN_SEGMENT.bytes
    reader = reader_of(data)
    assert reader.meta["lakefeed.kind"] == "segment"
    assert reader.meta["lakefeed.id"] == v1.SEGMENT_ID
    assert rows_in(data, "") == GOLDEN_ROWS


def test_todays_pack_has_the_golden_rows_and_payloads() -> None:
    golden = PACK.read_bytes()
    data, sealed = v1.write_pack(notes_as_then())
    assert sealed.payload_end == v1.GOLDEN_SEALED.payload_end
    assert data[: sealed.payload_end] == golden[: sealed.payload_end]
    assert rows_in(data, v1.PACK_ID) == GOLDEN_ROWS
    old, new = reader_of(golden), reader_of(data)
    # Parquet bytes may differ with the library's version; what we say of ourselves may not.
    assert {**new.meta, "lakefeed.groups": ""} == {**old.meta, "lakefeed.groups": ""}
    assert (new.groups.rows, new.groups.first, new.groups.last) == (
        old.groups.rows, old.groups.first, old.groups.last,
    )  # fmt: skip


def test_todays_segment_has_the_golden_rows() -> None:
    assert rows_in(v1.write_segment(PACK.read_bytes()), "") == GOLDEN_ROWS


def test_the_golden_commit_is_what_is_written_today() -> None:
    data = (v1.V1 / "commit.json").read_bytes()
    commit = v1.commit_of(v1.GOLDEN_SEALED, v1.GOLDEN_SEGMENT)
    assert decode_commit(data, "golden") == commit
    assert encode_commit(commit) == data


def test_the_golden_checkpoint_is_what_is_written_today() -> None:
    data = (v1.V1 / "example.checkpoint").read_bytes()
    state = v1.state_of(v1.GOLDEN_SEALED, v1.GOLDEN_SEGMENT)
    assert decode_checkpoint(data, "golden") == state
    assert encode_checkpoint(state) == data


# other programs


def plain(row: Row) -> dict[str, Any]:
    """The row as a Parquet reader sees it in the golden pack."""
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    values["kind"] = row.kind.name.lower()
    values["codec"] = row.codec.name.lower()
    values["pack"] = None if row.pack == v1.PACK_ID else row.pack
    values["length"] = None if row.length == row.size else row.length
    values["seq"] = None
    return values


def test_pyarrow_reads_a_pack() -> None:
    found = pq.read_table(PACK).to_pylist()
    for row in found:
        row["attrs"] = dict(row["attrs"]) if row["attrs"] else row["attrs"]
    assert found == [plain(row) for row in GOLDEN_ROWS]


def test_duckdb_reads_a_pack() -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.execute(f"select * from read_parquet('{PACK}')")
        names = [column[0] for column in connection.description]
        found = [dict(zip(names, values, strict=True)) for values in connection.fetchall()]
        assert found == [plain(row) for row in GOLDEN_ROWS]
        connection.execute(
            "select path, coalesce(length, size), attrs['label'] from "
            f"read_parquet('{PACK.parent}/*.pack', filename = true) where kind = 'file'"
        )
        labels = {"photos/cat.raw": "cat"}
        assert connection.fetchall() == [
            (row.path, row.length, labels.get(row.path))
            for row in GOLDEN_ROWS
            if row.kind is Kind.FILE
        ]


def test_polars_reads_a_pack() -> None:
    polars = pytest.importorskip("polars")
    columns = [name for name in COLUMNS if name != "attrs"]
    found = polars.scan_parquet(str(PACK)).select(columns).collect().to_dicts()
    expected = [{name: plain(row)[name] for name in columns} for row in GOLDEN_ROWS]
    assert found == expected


# the document


def blocks(language: str) -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_documented_lines_recover_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PACK, tmp_path / "example.pack")
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("python")
    assert "lakefeed" not in program
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["files"] == {
        row.path: GOLDEN_BYTES[row.path]
        for row in GOLDEN_ROWS
        if row.kind is Kind.FILE and row.pack == v1.PACK_ID
    }


def test_the_documented_hex_is_that_of_the_golden_pack() -> None:
    (example,) = blocks("hex")
    data = PACK.read_bytes()
    lines = example.splitlines()
    assert len(lines) > 10
    for line in lines:
        match = re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)  ", line)
        assert match, line
        at, expected = int(match[1], 16), bytes.fromhex(match[2])
        assert data[at : at + len(expected)] == expected, line


def test_the_documented_rows_are_those_of_the_golden_pack() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    missing = [line for line in map(documented, GOLDEN_ROWS) if line not in text]
    assert not missing, "\n".join(missing)


def documented(row: Row) -> str:
    """The row as a line of FORMAT.md's table."""
    values = plain(row)
    attrs = " ".join(f"{key}={value}" for key, value in (row.attrs or {}).items())
    cells = [
        row.path, values["kind"], "ffee…" if values["pack"] else "null", row.offset,
        "null" if values["length"] is None else row.length, row.size, values["codec"],
        f"{row.crc32c:08x}", f"{row.mtime_ns - T:+d} ns", f"{row.mode:04o}", attrs or "null",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def test_every_column_and_field_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    kinds = (Commit, Changes, PackSealed, SegmentInfo, PackInfo, State)
    fields = {*COLUMNS, *(name for kind in kinds for name in kind.__slots__)} - {"sealed"}
    assert [name for name in sorted(fields) if not re.search(rf"\b{name}\b", text)] == []


def test_golden_files_are_small_and_all_there() -> None:
    sizes = {path.name: path.stat().st_size for path in v1.V1.iterdir()}
    assert {*sizes} == {"example.pack", "example.parquet", "commit.json", "example.checkpoint"}
    assert sum(sizes.values()) < 16_384
