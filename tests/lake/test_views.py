"""Every view of a snapshot equals a dictionary, whatever packs and merges made it.

Histories write, overwrite and delete over several packs, with merges at arbitrary points. Row
groups hold three rows and segments about five, so that boundaries are everywhere.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.errors import Invalid, NotFound
from lakefeed.format import columns
from lakefeed.format.columns import ColumnsReader
from lakefeed.format.rows import COLUMNS, Kind, Row, rows_from_table
from lakefeed.lake import listing
from lakefeed.lake.check import check
from lakefeed.lake.lake import Lake
from lakefeed.lake.query import Query, glob_to_regex
from lakefeed.lake.snapshot import Snapshot
from tests.lake.tools import (
    all_rows,
    big_lakes,
    children_of,
    contents,
    new_lake,
    small_groups,
    unmerged,
    write,
)

NAMES = st.sampled_from(["a", "b", "a!", "a0", "a.b", "é", "~"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PUTS = st.dictionaries(PATHS, st.binary(max_size=8), max_size=12)
STEPS = st.lists(
    st.one_of(
        PUTS,
        st.lists(PATHS, max_size=6),
        st.sampled_from(["merge", "merge everything"]),
    ),
    min_size=1,
    max_size=6,
)


def fits(model: dict[str, bytes], path: str) -> bool:
    """Tell whether a path may become a file: nothing above it is one, nothing lies below it."""
    pieces = path.split("/")
    above = any("/".join(pieces[:count]) in model for count in range(1, len(pieces)))
    return not above and not any(name.startswith(f"{path}/") for name in model)


def replay(lake: Lake, steps: list[object]) -> dict[str, bytes]:
    """Do the steps in a new lake; return what the head must hold."""
    model: dict[str, bytes] = {}
    for step in steps:
        model = after(lake, model, step)
    return model


def after(lake: Lake, model: dict[str, bytes], step: object) -> dict[str, bytes]:
    """Do a step, which is one pack if it changes files; return what the head must hold then."""
    if isinstance(step, dict):
        taken: dict[str, bytes] = {}
        for path, data in step.items():
            if fits({**model, **taken}, path):
                taken[path] = data
        write(lake, taken)
        return {**model, **taken}
    if isinstance(step, list):
        gone = {path for path in step if path in model}
        write(lake, {}, delete=gone)
        return {path: data for path, data in model.items() if path not in gone}
    lake.merge_index(everything=step == "merge everything")
    return model


def check_scans(snapshot: Snapshot, model: dict[str, bytes]) -> None:
    assert contents(snapshot) == model
    assert [row.path for row in all_rows(snapshot)] == sorted(model)
    for prefix in ("a", "a/b", "é", "nothing"):
        below = [path for path in sorted(model) if path == prefix or path.startswith(f"{prefix}/")]
        assert [row.path for row in all_rows(snapshot, prefix)] == below


def check_directories(snapshot: Snapshot, model: dict[str, bytes]) -> None:
    directories = {""}
    for path in model:
        pieces = path.split("/")
        directories |= {"/".join(pieces[:count]) for count in range(1, len(pieces))}
    for directory in directories:
        rows = snapshot.ls(directory)
        assert [row.path for row in rows] == children_of(model, directory)
        for row in rows:
            assert row.kind is (Kind.FILE if row.path in model else Kind.DIR)
            assert snapshot.stat(row.path).kind is row.kind
    for path in model:
        with pytest.raises(Invalid, match="a directory"):
            snapshot.ls(path)


def check_lookups(snapshot: Snapshot, model: dict[str, bytes], wanted: list[str]) -> None:
    table = snapshot.locate(wanted)
    assert len(table) == len(wanted)
    for path, row in zip(wanted, table.to_pylist(), strict=True):
        assert row["path"] == (path if path in model else None)
        if path in model:
            assert row["size"] == len(model[path])
    there = [path for path in wanted if path in model]
    assert snapshot.get_many(there) == [model[path] for path in there]
    for path in wanted:
        below = any(name.startswith(f"{path}/") for name in model)
        assert snapshot.exists(path) == (path in model or below)


@pytest.mark.slow
@settings(max_examples=40)
@given(steps=STEPS, wanted=st.lists(PATHS, max_size=12), big=st.booleans())
def test_every_view_equals_the_dictionary(
    steps: list[object], wanted: list[str], big: bool
) -> None:
    with small_groups(), big_lakes() if big else nullcontext(), new_lake() as lake:
        model = replay(lake, steps)
        snapshot = lake.snapshot()
        check_scans(snapshot, model)
        check_directories(snapshot, model)
        # What a big lake is asked for again has its rows in memory by then.
        for _ in range(3 if big else 1):
            check_lookups(snapshot, model, wanted)
        report = check(lake, deep=True)
        assert report.clean, report.findings


@pytest.mark.slow
@settings(max_examples=30)
@given(
    steps=STEPS,
    limit=st.integers(0, 8),
    glob=st.sampled_from(["**", "*", "a/*", "**/b", "a*/**", "?", "[ab]", "[!a]*", "a.b"]),
)
def test_find_equals_a_filter_over_the_dictionary(
    steps: list[object], limit: int, glob: str
) -> None:
    pattern = re.compile(glob_to_regex(glob))
    with small_groups(), new_lake() as lake:
        model = replay(lake, steps)
        query = Query(glob=glob, size_min=1, size_max=limit)
        found = [
            row.path for table in lake.snapshot().find(query) for row in rows_from_table(table)
        ]
    wanted = [p for p, data in model.items() if pattern.match(p) and 1 <= len(data) <= limit]
    assert found == sorted(wanted)


@pytest.mark.parametrize(
    ("glob", "matches"),
    [("[^a]", "^a"), ("[!^a]", "!b[:\\]"), ("[[:]", "[:"), (r"[\\]", "\\"), ("[]a]", "a]")],
)
def test_a_set_of_a_glob_holds_its_characters_and_no_others(glob: str, matches: str) -> None:
    expression = re.compile(glob_to_regex(glob))
    assert "".join(char for char in "^a!b[:\\]" if expression.match(char)) == matches


@pytest.mark.parametrize("glob", ["[z-a]*", "x[9-0]"])
def test_a_glob_without_a_meaning_is_refused(glob: str) -> None:
    with pytest.raises(Invalid, match="glob"):
        Query(glob=glob)


@settings(max_examples=15)
@given(steps=STEPS)
def test_old_snapshots_stay_as_they_were(steps: list[object]) -> None:
    with small_groups(), new_lake() as lake:
        model: dict[str, bytes] = {}
        models = {0: model}
        for step in steps:
            model = after(lake, model, step)
            models[lake.snapshot().number] = model
        for number, model in models.items():
            assert contents(lake.snapshot(number)) == model


def test_a_deep_chain_and_a_flat_directory_list_their_children() -> None:
    deep = "/".join(f"d{level}" for level in range(200))
    files = {deep: b"deep", **{f"flat/{number:05d}": b"" for number in range(500)}}
    with patch.object(columns, "GROUP_ROWS", 16), new_lake() as lake:
        write(lake, files)
        lake.merge_index()
        snapshot = lake.snapshot()
        assert [row.path for row in snapshot.ls()] == ["d0", "flat"]
        assert [row.path for row in snapshot.ls("d0/d1/d2")] == ["d0/d1/d2/d3"]
        assert [row.path for row in snapshot.ls("flat")] == sorted(files)[1:]


def test_the_children_of_a_directory_become_values_a_few_at_a_time() -> None:
    files = {f"{number:02d}/below" if number % 3 else f"{number:02d}": b"" for number in range(20)}
    made: list[int] = []

    def counting(table: pa.Table) -> list[Row]:
        made.append(len(table))
        return rows_from_table(table)

    with new_lake() as lake, patch.object(listing, "_STEP_ROWS", 2):
        write(lake, files)
        with patch.object(listing, "rows_from_table", counting):
            rows = lake.snapshot().children()
            first = next(rows)
            assert made == [2]
            assert [first, *rows] == lake.snapshot().ls()
        assert [row.path for row in lake.snapshot().ls()] == [f"{n:02d}" for n in range(20)]


def test_a_directory_of_deleted_files_is_gone_in_every_layout() -> None:
    files = {f"dir/sub/{number:03d}": b"x" for number in range(20)}
    with small_groups(), new_lake() as lake:
        write(lake, {**files, "dir/kept": b"k"})
        lake.merge_index()
        write(lake, {}, delete=files)
        for _ in range(3):
            snapshot = lake.snapshot()
            assert [row.path for row in snapshot.ls("dir")] == ["dir/kept"]
            assert not snapshot.exists("dir/sub")
            with pytest.raises(NotFound):
                snapshot.ls("dir/sub")
            lake.merge_index(everything=unmerged(snapshot) == 0)


def test_locate_answers_in_the_order_asked_with_repeats_and_arrays() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1", "b": b"22"})
        wanted = ["b", "nothing", "a", "b"]
        for asked in (wanted, pa.array(wanted)):
            assert lake.snapshot().locate(asked)["size"].to_pylist() == [2, None, 1, 2]
        assert len(lake.snapshot().locate([])) == 0


def test_where_several_runs_may_hold_a_path_their_paths_are_decoded_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[list[str] | None] = []
    read = ColumnsReader.read

    def noting(
        self: ColumnsReader, start: int, end: int, columns: list[str] | None = None
    ) -> pa.Table:
        decoded.append(columns)
        return read(self, start, end, columns)

    monkeypatch.setattr(ColumnsReader, "read", noting)
    beside = [name for name in COLUMNS if name != "path"]
    with new_lake() as lake:
        write(lake, {"a": b"1", "m": b"1", "z": b"1"})
        write(lake, {"b": b"2", "y": b"2"})
        with Lake.open(lake.volume) as opened:
            snapshot = opened.snapshot()
            assert snapshot.stat("m").size == 1
            assert decoded == [["path"], ["path"], beside]
            decoded.clear()
            assert snapshot.get("a") == b"1"  # one run holds it: all at once, and all is there
            assert decoded == []
            assert snapshot.get("y") == b"2"
            assert decoded == [beside]
        with Lake.open(lake.volume) as opened:
            decoded.clear()
            assert opened.snapshot().get("z") == b"1"
            assert decoded == [None]
