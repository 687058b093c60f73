"""put, rm, mv, cp and mkdir: what they change, each in one commit or not at all."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.cli import putting
from tests.cli.conftest import FILES, MTIME_NS, Run

FIRST = {**FILES, "link": b"a/b.txt"}


def content(lake: Path, at: int | None = None) -> dict[str, bytes]:
    """Every file of a snapshot."""
    with Lake.open(lake) as opened:
        snapshot = opened.snapshot(at)
        paths = [path for table in snapshot.find("") for path in table["path"].to_pylist()]
        return dict(zip(paths, snapshot.get_many(paths), strict=True))


def head(lake: Path) -> int:
    """The number of the newest snapshot."""
    with Lake.open(lake) as opened:
        return opened.snapshot().number


def test_put_keeps_mode_and_time(run: Run, lake: Path, tmp_path: Path) -> None:
    source = tmp_path / "cat.jpg"
    source.write_bytes(b"\xff\xd8cat")
    source.chmod(0o640)
    os.utime(source, ns=(MTIME_NS, MTIME_NS))
    done = run("put", lake, source, "train/1.jpg")
    assert (done.code, done.out, done.err) == (0, "put train/1.jpg (5 B) in snapshot 2\n", "")
    with Lake.open(lake) as opened:
        row = opened.snapshot().stat("train/1.jpg")
    assert (row.mtime_ns, row.mode) == (MTIME_NS, 0o640)
    assert content(lake) == {**FIRST, "train/1.jpg": b"\xff\xd8cat"}


def test_put_reads_stdin(run: Run, lake: Path) -> None:
    done = run("put", lake, "-", "x", "--mtime", "2026-01-31T00:00:00Z", "--json", stdin=b"data")
    assert done.json == {"snapshot": 2, "path": "x", "size": 4}
    with Lake.open(lake) as opened:
        assert opened.snapshot().stat("x").mtime_ns == MTIME_NS
        assert opened.snapshot().get("x") == b"data"


def test_put_replaces(run: Run, lake: Path) -> None:
    assert run("put", lake, "-", "a/b.txt", stdin=b"new").code == 0
    assert content(lake)["a/b.txt"] == b"new"
    assert content(lake, 1)["a/b.txt"] == FILES["a/b.txt"]


@pytest.mark.parametrize(
    ("path", "place"),
    [("new/", "new/cat.jpg"), ("a", "a/cat.jpg"), ("empty", "empty/cat.jpg"), ("/", "cat.jpg")],
)
def test_put_into_a_directory_takes_the_name(
    run: Run, lake: Path, tmp_path: Path, path: str, place: str
) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    assert run("put", lake, tmp_path / "cat.jpg", path, "--json").json["path"] == place
    assert content(lake) == {**FIRST, place: b"cat"}


def test_put_never_buries_a_directory(run: Run, lake: Path) -> None:
    done = run("put", lake, "-", "a", stdin=b"x")
    assert (done.code, done.out) == (4, "")
    assert "'a', expected no directory there" in done.err
    assert content(lake) == FIRST


def test_put_records_attributes_codec_and_message(run: Run, lake: Path) -> None:
    options = ["--attr", "label=cat", "--attr", "w=1=2", "--codec", "zstd", "-m", "why"]
    assert run("put", lake, "-", "x", *options, stdin=b"0" * 10_000).code == 0
    with Lake.open(lake) as opened:
        row = opened.snapshot().stat("x")
        commit = next(opened.history())
    assert row.attrs == {"label": "cat", "w": "1=2"}
    assert (row.codec.name, row.length < 100) == ("ZSTD", True)
    assert (commit.operation, commit.message) == ("put", "why")


@pytest.mark.slow
def test_put_streams_what_is_big(run: Run, lake: Path) -> None:
    big = bytes(1 << 20) * 65
    assert run("put", lake, "-", "big", stdin=big).code == 0
    assert head(lake) == 2
    assert content(lake)["big"] == big


def test_rm_removes_all_in_one_commit(run: Run, lake: Path) -> None:
    done = run("rm", lake, "a/b.txt", "top.csv", "empty")
    assert (done.code, done.out, done.err) == (0, "removed 3 in snapshot 2\n", "")
    assert set(content(lake)) == {"a/c/d.bin", "a/c/e.txt", "link"}
    assert content(lake, 1) == FIRST


def test_rm_of_a_missing_path_removes_nothing(run: Run, lake: Path) -> None:
    assert run("rm", lake, "a/b.txt", "none").code == 3
    assert run("rm", "-r", lake, "a", "a/c").code == 3
    assert run("rm", lake, "a/b.txt", "a").code == 2
    assert (head(lake), content(lake)) == (1, FIRST)


def test_rm_recursive_removes_the_tree(run: Run, lake: Path) -> None:
    assert run("rm", "-r", lake, "a/", "--json").json == {"snapshot": 2, "removed": 3}
    assert set(content(lake)) == {"link", "top.csv"}


def test_rm_dry_run_says_what_would_go(run: Run, lake: Path) -> None:
    done = run("rm", "-r", "--dry-run", lake, "a", "empty")
    assert done.out.splitlines() == ["a/b.txt", "a/c/d.bin", "a/c/e.txt", "empty"]
    rows = run("rm", "--dry-run", lake, "top.csv", "--json").lines
    assert [row["path"] for row in rows] == ["top.csv"]
    assert run("rm", "--dry-run", lake, "a").code == 2
    assert run("rm", "--dry-run", lake, "none").code == 3
    assert (head(lake), content(lake)) == (1, FIRST)


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_rm_refuses_the_root_and_a_path_twice(run: Run, lake: Path, words: list[str]) -> None:
    for root in ("/", ""):
        done = run("rm", "-r", *words, lake, root)
        assert (done.code, done.out) == (2, "")
        assert "the root of the lake" in done.err
    for twice in (["a", "a/c"], ["top.csv", "top.csv"]):
        assert run("rm", "-r", *words, lake, *twice).code == 3
    assert (head(lake), content(lake)) == (1, FIRST)


def test_rm_counts_a_file_once(run: Run, lake: Path) -> None:
    run("mv", lake, "a/b.txt", "a/c")
    done = run("rm", "-r", "--dry-run", lake, "a/c", "a")
    assert done.out.splitlines() == ["a/c/b.txt", "a/c/d.bin", "a/c/e.txt"]
    assert run("rm", "-r", lake, "a/c", "a", "--json").json["removed"] == 3


def test_mv_renames_a_file_and_a_tree(run: Run, lake: Path) -> None:
    done = run("mv", lake, "a/b.txt", "b.txt")
    assert (done.out, done.err) == ("moved a/b.txt to b.txt in snapshot 2\n", "")
    facts = run("mv", lake, "a/", "z/y", "--json").json
    assert facts == {"snapshot": 3, "source": "a", "target": "z/y"}
    assert content(lake) == {
        "b.txt": FILES["a/b.txt"],
        "z/y/c/d.bin": FILES["a/c/d.bin"],
        "z/y/c/e.txt": b"",
        "top.csv": FILES["top.csv"],
        "link": b"a/b.txt",
    }


@pytest.mark.parametrize("target", ["a", "a/", "a/top.csv"])
def test_mv_into_a_directory_takes_the_name(run: Run, lake: Path, target: str) -> None:
    assert run("mv", lake, "top.csv", target).code == 0
    assert content(lake)["a/top.csv"] == FILES["top.csv"]
    assert "top.csv" not in content(lake)


def test_mv_to_the_root(run: Run, lake: Path) -> None:
    assert run("mv", lake, "a/c", "/").code == 0
    assert content(lake)["c/d.bin"] == FILES["a/c/d.bin"]


def test_mv_replaces_a_file_but_never_a_directory(run: Run, lake: Path) -> None:
    assert run("mv", lake, "top.csv", "a/b.txt").code == 0
    assert content(lake)["a/b.txt"] == FILES["top.csv"]
    assert run("put", lake, "-", "c", stdin=b"").code == 0
    assert run("mv", lake, "c", "a/").code == 4
    assert run("mv", lake, "a", "link").code == 4
    assert head(lake) == 3


@pytest.mark.parametrize("verb", ["mv", "cp"])
def test_a_file_that_stays_where_it_is_is_refused_or_kept(run: Run, lake: Path, verb: str) -> None:
    run(verb, lake, "top.csv", "top.csv")
    run(verb, lake, "a/b.txt", "a")
    assert content(lake) == FIRST


def test_cp_shows_a_file_twice_without_moving_bytes(run: Run, lake: Path) -> None:
    done = run("cp", lake, "a/c/d.bin", "copy.bin")
    assert (done.out, done.err) == ("copied a/c/d.bin to copy.bin in snapshot 2\n", "")
    assert content(lake) == {**FIRST, "copy.bin": FILES["a/c/d.bin"]}
    with Lake.open(lake) as opened:
        old, new = (opened.snapshot().stat(path) for path in ("a/c/d.bin", "copy.bin"))
    assert (old.pack, old.offset) == (new.pack, new.offset)
    assert run("rm", lake, "a/c/d.bin").code == 0
    assert content(lake)["copy.bin"] == FILES["a/c/d.bin"]


def test_cp_recursive_keeps_links_and_empty_directories(run: Run, lake: Path) -> None:
    assert run("mkdir", lake, "a/hollow").code == 0
    assert run("mv", lake, "link", "a").code == 0
    assert run("cp", "-r", lake, "a", "copy").code == 0
    assert content(lake)["copy/link"] == b"a/b.txt"
    assert run("ls", lake, "copy").out.splitlines() == ["b.txt", "c/", "hollow/", "link"]


def test_cp_recursive_copies_the_tree_in_one_commit(run: Run, lake: Path) -> None:
    facts = run("cp", "-r", lake, "a", "copies/", "--json").json
    assert facts == {"snapshot": 2, "source": "a", "target": "copies/a"}
    copies = {f"copies/{path}": data for path, data in FILES.items() if path.startswith("a/")}
    assert content(lake) == {**FIRST, **copies}


def test_mkdir_makes_all_in_one_commit(run: Run, lake: Path) -> None:
    done = run("mkdir", lake, "new/x", "y/")
    assert (done.out, done.err) == ("made 2 in snapshot 2\n", "")
    assert run("ls", lake).out.splitlines() == ["a/", "empty/", "link", "new/", "top.csv", "y/"]
    assert run("mkdir", lake, "z", "y").code == 4
    assert run("mkdir", "-p", lake, "z", "y", "--json").json == {"snapshot": 3, "made": ["z"]}


def test_a_pipe_that_another_program_made_not_to_wait_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.write(theirs, b"first ")

    class Shared(io.FileIO):
        """The rest comes after somebody asked in vain."""

        def readinto(self, buffer: Any) -> int | None:
            count = super().readinto(buffer)
            if count is None:
                os.write(theirs, b"rest")
                os.close(theirs)
            return count

        def read(self, size: int | None = -1) -> bytes | None:
            return io.RawIOBase.read(self, -1 if size is None else size)

    with io.TextIOWrapper(io.BufferedReader(Shared(ours))) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert putting._stdin().read() == b"first rest"
