"""ls, find and stat: what they list, for people and as JSON."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.cli.conftest import FILES, MTIME_NS, Run

ROW_KEYS = [
    "path", "kind", "size", "length", "codec", "crc32c", "mtime", "mtime_ns", "mode", "attrs",
    "seq", "pack", "offset",
]  # fmt: skip


def test_ls_shows_children_and_marks_directories(run: Run, lake: Path) -> None:
    assert run("ls", lake).out.splitlines() == ["a/", "empty/", "link", "top.csv"]
    assert run("ls", lake, "a").out.splitlines() == ["b.txt", "c/"]
    assert run("ls", lake, "a/").out == run("ls", lake, "a").out
    assert run("ls", lake, "/").out == run("ls", lake).out


def test_ls_of_a_file_shows_the_file(run: Run, lake: Path) -> None:
    assert run("ls", lake, "a/b.txt").out == "a/b.txt\n"


def test_ls_of_an_empty_directory_shows_nothing(run: Run, lake: Path) -> None:
    done = run("ls", lake, "empty")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_ls_recursive_shows_what_is_stored(run: Run, lake: Path) -> None:
    assert run("ls", "-R", lake).out.splitlines() == sorted([*FILES, "empty", "link"])
    assert run("ls", "-R", lake, "a/c").out.splitlines() == ["a/c/d.bin", "a/c/e.txt"]


def test_ls_long_shows_mode_size_time_and_name(run: Run, lake: Path) -> None:
    fields = [line.split() for line in run("ls", "-l", lake, "a").out.splitlines()]
    assert fields[0][:2] == ["-rw-r--r--", "6"]
    assert fields[0][-1] == "b.txt"
    assert fields[1][0] == "drwxr-xr-x"
    long = run("ls", "-l", lake).out.splitlines()
    assert long[2].startswith("lrwxrwxrwx")
    assert run("ls", "-lR", lake, "a").out.splitlines()[0].endswith(" a/b.txt")


def test_ls_json_is_one_row_a_line(run: Run, lake: Path) -> None:
    rows = run("ls", lake, "a", "--json").lines
    assert [list(row) for row in rows] == [ROW_KEYS, ROW_KEYS]
    file, directory = rows
    assert (file["path"], file["kind"], file["size"], file["seq"]) == ("a/b.txt", "file", 6, 1)
    assert (file["mtime_ns"], file["mtime"]) == (MTIME_NS, "2026-01-31T00:00:00.000000Z")
    assert file["attrs"] == {"label": "a"}
    assert (directory["kind"], directory["pack"], directory["seq"]) == ("dir", None, None)
    assert run("ls", "-R", lake, "--json").lines[0] == file


def test_at_looks_at_a_number_a_tag_or_a_time(run: Run, lake: Path) -> None:
    with Lake.open(lake) as opened:
        opened.tag("v1")
        with opened.writer() as writer:
            writer.delete("top.csv")
    assert "top.csv" not in run("ls", lake).out
    for at in ("1", "v1"):
        assert "top.csv" in run("ls", lake, "--at", at).out
    with Lake.open(lake) as opened:
        first = next(commit for commit in opened.history() if commit.number == 1)
    assert run("ls", lake, "--at", "1h ago").out == ""
    assert run("ls", lake, "--at", f"@{first.time_ns // 10**9 + 7200}").out == run("ls", lake).out


def test_ago_counts_from_the_time_of_the_file_server_not_of_this_machine(
    run: Run, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_ns = time.time_ns() + 3 * 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: fast_ns)
    assert run("ls", lake, "--at", "1h ago").out == ""


def test_a_tag_that_looks_like_a_date_wins(run: Run, lake: Path) -> None:
    assert run("tag", lake, "2020-01-01").code == 0
    assert "top.csv" in run("ls", lake, "--at", "2020-01-01").out
    assert run("ls", lake, "--at", "2020-01-02").out == ""


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], ["a/b.txt", "a/c/d.bin", "a/c/e.txt", "link", "top.csv"]),
        (["a/c"], ["a/c/d.bin", "a/c/e.txt"]),
        (["a/b.txt"], ["a/b.txt"]),
        (["none"], []),
        (["--name", "*.txt"], ["a/b.txt", "a/c/e.txt"]),
        (["a/c", "--name", "*.txt"], ["a/c/e.txt"]),
        (["--glob", "*.txt"], []),
        (["--glob", "*/*.txt"], ["a/b.txt"]),
        (["--glob", "**/*.txt"], ["a/b.txt", "a/c/e.txt"]),
        (["a", "--glob", "*.txt"], ["a/b.txt"]),
        (["a", "--glob", "*/*"], ["a/c/d.bin", "a/c/e.txt"]),
        (["--type", "dir"], ["empty"]),
        (["--type", "symlink", "--type", "dir"], ["empty", "link"]),
        (["--type", "file", "--max-size", "6"], ["a/b.txt", "a/c/e.txt"]),
        (["--min-size", "1KiB"], ["a/c/d.bin"]),
        (["--newer", "2026-01-31T00:00:00Z", "--type", "file"], []),
        (["--newer", "2026-01-30T00:00:00Z", "a"], ["a/b.txt", "a/c/d.bin", "a/c/e.txt"]),
        (["--older", "2026-02-01T00:00:00Z", "a"], ["a/b.txt", "a/c/d.bin", "a/c/e.txt"]),
        (["--older", "2026-01-30T00:00:00Z"], []),
    ],
)
def test_find_prints_what_fulfils_all(
    run: Run, lake: Path, options: list[str], found: list[str]
) -> None:
    done = run("find", lake, *options)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == found


def test_find_takes_a_prefix_with_glob_characters_literally(run: Run, tmp_path: Path) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as made, made.writer() as writer:
        writer.put("x[1]*/f.txt", b"1")
        writer.put("x1/f.txt", b"2")
    assert run("find", where, "x[1]*", "--name", "*.txt").out == "x[1]*/f.txt\n"


def test_find_with_a_duration_counts_back_from_now(run: Run, tmp_path: Path) -> None:
    where = tmp_path / "lake"
    now_ns = time.time_ns()
    with Lake.create(where) as made, made.writer() as writer:
        writer.put("new", b"", mtime_ns=now_ns)
        writer.put("old", b"", mtime_ns=now_ns - 3 * 86400 * 10**9)
    assert run("find", where, "--newer", "2d").out == "new\n"
    assert run("find", where, "--older", "2d").out == "old\n"


def test_find_counts(run: Run, lake: Path) -> None:
    assert run("find", lake, "a", "--count").out == "3 files, 10.0 KiB\n"
    facts = run("find", lake, "a", "--count", "--json").json
    assert facts == {"snapshot": 1, "files": 3, "size": 10246}
    assert run("find", lake, "none", "--count", "--json").json["files"] == 0


def test_find_shapes_its_lines(run: Run, lake: Path) -> None:
    assert run("find", lake, "a/c", "-0").out == "a/c/d.bin\0a/c/e.txt\0"
    assert run("find", lake, "a/c", "-l").out.splitlines()[1].endswith(" a/c/e.txt")
    rows = run("find", lake, "a/c", "--json").lines
    assert [list(row) for row in rows] == [ROW_KEYS, ROW_KEYS]


def test_stat_shows_what_the_index_knows(run: Run, lake: Path) -> None:
    facts = dict(line.split(None, 1) for line in run("stat", lake, "a/b.txt").out.splitlines())
    assert facts["path"] == "a/b.txt"
    assert facts["kind"] == "file"
    assert facts["size"] == "6 bytes (6 B)"
    assert facts["crc32c"] == "353dd8be"
    assert facts["since"] == "snapshot 1"
    assert facts["attr"] == "label  a"


def test_stat_of_several_paths_is_one_document_each(run: Run, lake: Path) -> None:
    assert run("stat", lake, "a/b.txt", "a", "empty").out.count("\n\n") == 2
    rows = run("stat", lake, "a/b.txt", "a", "empty", "link", "--json").lines
    assert [row["kind"] for row in rows] == ["file", "dir", "dir", "symlink"]
    assert [list(row) for row in rows] == [ROW_KEYS] * 4


def test_stat_of_several_paths_is_all_or_nothing(run: Run, lake: Path) -> None:
    done = run("stat", lake, "a/b.txt", "none", "--json")
    assert (done.code, done.out) == (3, "")
