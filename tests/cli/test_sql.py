"""`lakefeed sql`: tables for people, JSON lines and CSV for programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.cli.conftest import MTIME_NS, Run

pytest.importorskip("duckdb")


def test_people_get_a_table(run: Run, lake: Path) -> None:
    done = run("sql", lake, "select ext, count(*) n from files group by ext order by ext")
    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()] == [
        ["ext", "n"], ["2"], ["bin", "1"], ["csv", "1"], ["txt", "2"]
    ]  # fmt: skip


def test_programs_get_json_lines(run: Run, lake: Path) -> None:
    query = (
        "select path, size, mtime, mtime_ns, attrs, sum(size) over () total, list(mtime) over () l,"
        " {'t': mtime} s, null x from files where kind = 'file' order by path limit 1"
    )
    assert run("sql", lake, query, "--json").lines == [
        {
            "path": "a/b.txt",
            "size": 6,
            "mtime": "2026-01-31T00:00:00.000000Z",
            "mtime_ns": MTIME_NS,
            "attrs": {"label": "a"},
            "total": 10254,
            "l": ["2026-01-31T00:00:00.000000Z"] * 4,
            "s": {"t": "2026-01-31T00:00:00.000000Z"},
            "x": None,
        }
    ]


def test_json_loses_no_column_and_holds_no_nan(run: Run, lake: Path) -> None:
    query = "select 'nan'::double n, ['inf'::double, 1] l, {'x': 'nan'::double} s, '²' t"
    assert run("sql", lake, query, "--json").lines == [
        {"n": None, "l": [None, 1], "s": {"x": None}, "t": "²"}
    ]
    done = run("sql", lake, "select 1 a, 2 b, 3 a", "--json")
    assert (done.code, done.out) == (2, "")
    assert "'a' twice" in done.err
    assert run("sql", lake, "select 1 a, 2 b, 3 a", "--csv").out == "a,b,a\n1,2,3\n"


def test_every_type_is_printed(run: Run, lake: Path) -> None:
    day = "date '2026-01-31'"
    query = (
        "select union_value(n := 2) u, [union_value(s := 'x'), null] l,"
        f" {{'u': union_value(t := {day})}} s, map {{{day}: 'x'}} d, map {{[1, 2]: 'y'}} m,"
        " map {1.5: 'z'} n, map {'a': map {1: 'b'}} w"
    )
    assert run("sql", lake, query, "--json").lines == [
        {
            "u": 2,
            "l": ["x", None],
            "s": {"u": "2026-01-31"},
            "d": {"2026-01-31": "x"},
            "m": {"[1, 2]": "y"},
            "n": {"1.5": "z"},
            "w": {"a": {"1": "b"}},
        }
    ]
    for form in ([], ["--csv"]):
        done = run("sql", lake, query, *form)
        assert (done.code, done.err) == (0, "")
        assert "2026-01-31" in done.out
    beyond = run("sql", lake, "select 'infinity'::date d", "--json")
    assert (beyond.code, beyond.out) == (2, "")
    assert "years 1 to 9999" in beyond.err


def test_decimals_keep_all_their_digits(run: Run, lake: Path) -> None:
    digits = "12345678901234567890.12"
    query = f"select {digits} d, [{digits}] l, 1.50 e, {9 * 10**37}::hugeint h"
    exact = run("sql", lake, query, "--json")
    assert f'"d": {digits}, "l": [{digits}], "e": 1.50' in exact.out
    assert exact.json["h"] == 9 * 10**37
    small = run("sql", lake, "select 0.0000000001 d, null::decimal(9, 2) n", "--csv")
    assert small.out == "d,n\n0.0000000001,\n"
    for form in ([], ["--csv"]):
        assert run("sql", lake, query, *form).out.count(digits) == 2


@pytest.mark.parametrize(
    "value",
    [
        "interval '0 second'",
        "interval '14 months -1 day'",
        "interval '-1 year -1 month 2 days 100:02:03.5'",
        "interval '-00:00:00.000001'",
        "blob '\\xAA\\x00 a~\\x7F\\x5C\\x22'",
        "blob ''",
    ],
)
def test_intervals_and_bytes_are_spelled_as_duckdb_does(run: Run, lake: Path, value: str) -> None:
    query = f"select {value} v, [{value}] l, {{'x': {value}}} s, null::blob n, ({value})::text t"
    facts = run("sql", lake, query, "--json").json
    text = facts["t"]
    assert facts == {"v": text, "l": [text], "s": {"x": text}, "n": None, "t": text}
    done = run("sql", lake, query, "--csv")
    assert next(csv.DictReader(io.StringIO(done.out)))["v"] == text


def test_what_is_nested_is_json_everywhere(run: Run, lake: Path) -> None:
    query = "select map {'it''s': [1.5, null]} m, [true] l, {'x': 'nan'::double} s"
    done = run("sql", lake, query, "--csv")
    row = next(csv.DictReader(io.StringIO(done.out)))
    assert row == {"m": '{"it\'s": [1.5, null]}', "l": "[true]", "s": '{"x": null}'}


def test_times_beyond_nanoseconds_are_shown_as_far_as_python_knows_them(
    run: Run, lake: Path
) -> None:
    lines = run("sql", lake, "select timestamp '2500-01-01' t", "--json").lines
    assert lines == [{"t": "2500-01-01T00:00:00.000000Z"}]
    done = run("sql", lake, "select timestamp 'infinity' t")
    assert done.code == 2
    assert "years 1 to 9999" in done.err


def test_spreadsheets_get_csv(run: Run, lake: Path) -> None:
    done = run("sql", lake, "select path, size from files where ext = 'csv'", "--csv")
    assert list(csv.reader(io.StringIO(done.out))) == [["path", "size"], ["top.csv", "8"]]
    empty = run("sql", lake, "select path from files where false", "--csv")
    assert empty.out == "path\n"


def test_another_snapshot_is_asked_with_at(run: Run, lake: Path) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.delete("top.csv")
    count = "select count(*) n from files where ext = 'csv'"
    assert run("sql", lake, count, "--json").lines == [{"n": 0}]
    assert run("sql", lake, count, "--json", "--at", "1").lines == [{"n": 1}]


def test_a_long_answer_is_cut_for_people_only_and_said(run: Run, lake: Path) -> None:
    done = run("sql", lake, "from range(1001)")
    assert len(done.out.splitlines()) == 1001
    assert "--csv" in done.err
    assert len(run("sql", lake, "from range(1001)", "--csv").out.splitlines()) == 1002


def test_a_question_that_is_none_is_a_usage_error(run: Run, lake: Path) -> None:
    done = run("sql", lake, "from nowhere")
    assert (done.code, done.out) == (2, "")
    assert "nowhere" in done.err
    assert run("sql", lake, "from files", "--json", "--csv").code == 2


def test_nothing_but_the_answer_reaches_the_streams(process: Run, lake: Path) -> None:
    done = process("sql", lake, "select 1 as one", "--csv")
    assert (done.code, done.out, done.err) == (0, "one\n1\n", "")
