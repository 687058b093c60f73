"""Each block of docs/SQL.md runs as printed, on a lake with a past, and its answers are right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.format.rows import Codec, Kind, rows_from_table
from lakefeed.lake.packing import new_pack
from tests.support.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/SQL.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """A lake where a careless query would show old, deleted or unpublished files."""
    with Lake.create(tmp_path / "lake") as lake:
        with lake.writer() as writer:
            for number in range(30):
                writer.put(f"train/{number}.txt", b"%d " % number * 99, attrs={"label": "cat"})
            writer.mkdir("empty")
            writer.symlink("link", "train/1.txt")
            writer.put("moved/from", b"moved")
        with lake.writer(WriterOptions(codec=Codec.ZSTD)) as writer:
            writer.put("train/1.txt", b"overwritten " * 999)
            writer.delete("train/2.txt")
        lake.tag("v1")
        lake.merge_index()
        with lake.writer() as writer:
            writer.put("train/1.txt", b"overwritten again")
            writer.rename("moved", "there")
            writer.delete("train/3.txt")
        new_pack(lake.volume, 0, lambda writer, now: writer.add(*_orphan(now)))
        yield lake


def _orphan(now_ns: int) -> Any:
    from lakefeed.format.pack import Meta
    from lakefeed.format.payload import encode

    return "never/published", encode(b"?"), Meta(now_ns)


def truth(lake: Lake) -> dict[str, tuple[str, int, int]]:
    rows = [row for table in lake.snapshot().scan() for row in rows_from_table(table)]
    return {row.path: (row.kind.name.lower(), row.size, row.seq) for row in rows}


def blocks(language: str, needle: str = "") -> list[str]:
    return [text for kind, text in BLOCKS if kind == language and needle in text]


def python(text: str, lake: Lake) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(text.replace("/mnt/lake", lake.name), str(PAGE), "exec"), names)
    return names


def test_no_block_is_of_an_untested_kind() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "sql"}


@pytest.mark.parametrize("text", blocks("bash"))
def test_commands_run(lake: Lake, text: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in text.replace("/mnt/lake", lake.name).splitlines():
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE_SECONDS,
            check=False, env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), line
        assert done.stdout.count("\n") >= 1


@pytest.mark.parametrize("text", blocks("sql"))
def test_queries_run(lake: Lake, text: str) -> None:
    with duckdb.connect() as duck:
        assert duck.sql(text.replace("/mnt/lake", lake.name)).fetchall()


@pytest.mark.parametrize("text", blocks("python"))
def test_programs_run(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    python(text, lake)


def test_the_newest_row_of_each_path_is_what_the_lake_holds(lake: Lake) -> None:
    [text] = blocks("sql", "live_packs")
    with duckdb.connect() as duck:
        rows = duck.sql(text.replace("/mnt/lake", lake.name)).fetchall()
        past = duck.sql("select count(*) from commits").fetchall()
    assert {path: tuple(rest) for path, *rest in rows} == truth(lake)
    assert past == [(lake.snapshot().number,)]
    [text] = blocks("python", 'scan_parquet("/mnt/lake/packs/*/*.pack", include')
    files = python(text, lake)["files"]
    found = zip(*(files[name] for name in ("path", "kind", "size", "seq")), strict=True)
    assert {path: tuple(rest) for path, *rest in found} == truth(lake)


def test_the_live_segments_are_the_whole_lake_once_merged(lake: Lake) -> None:
    lake.merge_index(everything=True)
    [text] = blocks("sql", "live_segments")
    with duckdb.connect() as duck:
        rows = duck.sql(text.replace("/mnt/lake", lake.name)).fetchall()
    assert {row[0]: (row[1], row[2], row[5]) for row in rows} == truth(lake)


def test_every_byte_is_recovered_without_lakefeed(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [text] = blocks("python", "recovered")
    python(text, lake)
    snapshot = lake.snapshot()
    out = tmp_path / "recovered"
    for path in truth(lake):
        row = snapshot.stat(path)
        if row.kind is Kind.FILE:
            assert (out / path).read_bytes() == snapshot.get(path)
        elif row.kind is Kind.SYMLINK:
            assert os.readlink(out / path) == snapshot.get(path).decode()
        else:
            assert (out / path).is_dir()
    files = [path for path in out.rglob("*") if path.is_symlink() or path.is_file()]
    assert len(files) == sum(kind != "dir" for kind, _, _ in truth(lake).values())
