"""federate: lakes mounted in one file, and the commands that read through it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.cli.conftest import FILES, Run


@pytest.fixture
def roof(tmp_path: Path, lake: Path, run: Run) -> Path:
    """A federation of the usual lake and another one."""
    with Lake.create(tmp_path / "other") as made, made.writer() as writer:
        writer.put("x/1.txt", b"other\n")
    file = tmp_path / "all.json"
    made_now = run("federate", file, f"first={lake}", f"deep/second={tmp_path / 'other'}", "--json")
    assert made_now.code == 0
    assert made_now.json["changed"]
    return file


def test_reading_commands_take_the_file_in_place_of_a_lake(roof: Path, run: Run) -> None:
    assert run("ls", roof).out == "deep/\nfirst/\n"
    assert run("ls", roof, "deep/second/x").out == "1.txt\n"
    assert run("cat", roof, "deep/second/x/1.txt", "first/a/b.txt").out == "other\nhello\n"
    paths = run("find", roof, "--type", "file").out.splitlines()
    assert paths == ["deep/second/x/1.txt", *(f"first/{path}" for path in sorted(FILES))]
    assert run("find", roof, "--count", "--json").json == {
        "snapshot": None, "files": 6, "size": sum(map(len, FILES.values())) + 13}  # fmt: skip
    assert run("stat", roof, "first/a/b.txt", "--json").json["size"] == 6
    assert run("du", roof, "--json").lines[-1]["files"] == 6
    listed = run("ls", "-R", roof).out
    assert listed.startswith("deep/second/x/1.txt\nfirst/a/b.txt\n")


def test_get_brings_nothing_into_the_lakes_of_a_federation(
    lake: Path, tmp_path: Path, run: Run
) -> None:
    """They may be called as their directories are, beside the file."""
    file, before = tmp_path / "all.json", sorted(lake.rglob("*"))
    assert run("federate", file, f"{lake.name}={lake}").code == 0
    done = run("get", "-r", file, "", tmp_path)
    assert done.code == 2
    assert f"comes into the lake {lake}; choose another directory" in done.err
    assert sorted(lake.rglob("*")) == before
    assert run("get", "-r", file, "", tmp_path / "out").code == 0


def test_a_command_of_one_lake_says_what_a_federation_is(roof: Path, run: Run) -> None:
    told = run("mkdir", roof, "first/new")
    assert told.code == 3
    assert "found a file; name its directory; a federation is for ls" in told.err


def test_a_lake_that_is_gone_is_named_once(roof: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "other").rename(tmp_path / "away")
    told = run("ls", roof, "deep/second")
    assert told.code == 3
    lake = tmp_path / "other"
    assert f"lake {lake} at 'deep/second', found none; create one with" in told.err


def test_a_tag_that_one_lake_has_not_is_named(roof: Path, tmp_path: Path, run: Run) -> None:
    told = run("ls", "--at", "v1", roof, "deep/second")
    assert told.code == 3
    lake = tmp_path / "other"
    assert f"tag 'v1' of {lake} at 'deep/second', found none; \"lakefeed tag" in told.err


def test_a_tree_comes_out_of_several_lakes(roof: Path, tmp_path: Path, run: Run) -> None:
    assert run("get", "-r", roof, "", tmp_path / "out").code == 0
    assert (tmp_path / "out/deep/second/x/1.txt").read_bytes() == b"other\n"
    assert (tmp_path / "out/first/a/c/d.bin").read_bytes() == FILES["a/c/d.bin"]
    one = run("get", roof, "first/top.csv", tmp_path / "one", "--json").json
    assert (one["snapshot"], one["size"]) == (None, 8)


def test_how_each_lake_is_and_6_when_one_is_sick(roof: Path, tmp_path: Path, run: Run) -> None:
    well = run("federate", roof, "--json")
    assert (well.code, well.json["changed"]) == (0, False)
    assert [mount["error"] for mount in well.json["mounts"]] == [None, None]
    assert [mount["prefix"] for mount in well.json["mounts"]] == ["deep/second", "first"]
    assert run("federate", roof).out.count("ok") == 2
    shutil.rmtree(tmp_path / "other")
    sick = run("federate", roof)
    assert sick.code == 6
    assert "other" in sick.out
    assert "ok" in sick.out
    assert run("cat", roof, "first/a/b.txt").out == "hello\n"
    found = run("find", roof)
    assert found.code == 3
    assert "first/a/b.txt\n" in found.out
    assert "other" in found.err


def test_mounts_are_changed_and_taken_out(roof: Path, lake: Path, run: Run) -> None:
    assert run("federate", roof, f"first={lake}").code == 4
    assert run("federate", roof, f"first/in={lake}").code == 2
    assert run("federate", roof, "nonsense").code == 2
    assert run("federate", roof, "--remove", "none").code == 3
    before = roof.read_bytes()
    assert run("federate", roof, "--remove", "first", "--dry-run").code == 0
    assert roof.read_bytes() == before
    assert run("federate", roof, "--remove", "first", f"again={lake}").code == 0
    assert run("ls", roof).out == "again/\ndeep/\n"


def test_a_mount_is_fixed_at_a_tag(roof: Path, lake: Path, tmp_path: Path, run: Run) -> None:
    run("tag", lake, "v1")
    assert run("federate", roof, "--fix", "first=v1").code == 0
    (tmp_path / "new").write_bytes(b"new\n")
    run("put", lake, tmp_path / "new", "a/b.txt")
    assert run("cat", roof, "first/a/b.txt").out == "hello\n"
    assert run("federate", roof, "--fix", "first=").code == 0
    assert run("cat", roof, "first/a/b.txt").out == "new\n"
    assert run("cat", roof, "first/a/b.txt", "--at", "7").code == 2
    assert run("cat", roof, "deep/second/x/1.txt", "--at", "v1").code == 3


def test_a_missing_or_foreign_file_says_what_to_do(tmp_path: Path, run: Run) -> None:
    missing = run("federate", tmp_path / "none.json")
    assert (missing.code, "PREFIX=LAKE" in missing.err) == (3, True)
    (tmp_path / "text").write_text("hello")
    assert run("ls", tmp_path / "text").code == 2
