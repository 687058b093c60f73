"""create, log, tag and merge: the lake as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.memory import MemoryVolume
from tests.cli.conftest import Run

COMMIT_KEYS = [
    "snapshot", "time", "time_ns", "operation", "author", "message", "app", "packs_added",
    "packs_removed", "segments_added", "segments_removed", "rows_added", "tombstones_added",
    "bytes_added", "id", "parent",
]  # fmt: skip


def test_create_makes_an_empty_lake(run: Run, tmp_path: Path) -> None:
    where = tmp_path / "new/lake"
    assert run("create", where).out == f"created an empty lake in {where}\n"
    assert run("ls", where).out == ""
    assert run("log", where).out == ""
    other = tmp_path / "other"
    assert run("create", other, "--json").json == {"lake": str(other)}


def test_create_refuses_a_directory_with_other_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    done = run("create", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "mine.txt" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_lake_in_memory_is_in_no_directory(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lake)
    Lake.create(MemoryVolume()).close()


def test_create_refuses_a_directory_in_a_lake(run: Run, lake: Path, tmp_path: Path) -> None:
    # Through a link as well; what looks for a lake from the root down would find the outer one.
    (tmp_path / "link").symlink_to(lake)
    for inner in (lake / "inner", lake / "packs" / "a" / "inner", tmp_path / "link" / "inner"):
        done = run("create", inner)
        assert done.code == 2
        assert f"expected a place outside of lakes, found one in the lake {lake}" in done.err
        assert not (inner / "lake.json").exists()
    assert run("fsck", lake).code == 0
    (tmp_path / "lake.json").write_text("somebody else's")
    assert run("create", tmp_path / "beside").code == 0


def test_log_shows_the_newest_first(run: Run, lake: Path) -> None:
    assert run("rm", lake, "top.csv", "-m", "not\nneeded").code == 0
    assert run("merge", lake).code == 0
    third, second, first = run("log", lake).out.splitlines()
    assert third.split()[0] == "3"
    assert "merge" in third
    assert "2 packs indexed" in third
    assert "-1 files" in second
    assert second.endswith("  not needed")
    assert "import" in first
    assert "+6 files" in first
    assert first.endswith("  first")


def test_log_json_is_one_commit_a_line(run: Run, lake: Path) -> None:
    assert run("rm", lake, "top.csv").code == 0
    second, first = run("log", lake, "--json").lines
    assert list(first) == list(second) == COMMIT_KEYS
    assert (first["snapshot"], first["operation"], first["message"]) == (1, "import", "first")
    assert (first["rows_added"], first["tombstones_added"], first["parent"]) == (6, 0, None)
    assert (second["rows_added"], second["tombstones_added"]) == (1, 1)
    assert second["parent"] == first["id"]


def test_log_json_counts_what_came_and_went(run: Run, lake: Path) -> None:
    (pack,) = lake.glob("packs/*/*.pack")
    size_bytes = pack.stat().st_size
    for words in (["merge"], ["rm", "a/c/d.bin"], ["merge", "--all"], ["compact"]):
        assert run(words[0], lake, *words[1:]).code == 0
    keys = ("packs_added", "packs_removed", "segments_added", "segments_removed")
    found = run("log", lake, "--json").lines
    assert [(one["operation"], *map(one.get, keys)) for one in found] == [
        ("compact", 1, 2, 1, 1), ("merge", 0, 0, 1, 1), ("rm", 1, 0, 0, 0), ("merge", 0, 0, 1, 0),
        ("import", 1, 0, 0, 0),
    ]  # fmt: skip
    assert [one["bytes_added"] for one in found[3:]] == [0, size_bytes]


def test_log_may_be_limited(run: Run, lake: Path) -> None:
    assert run("rm", lake, "top.csv").code == 0
    assert [c["snapshot"] for c in run("log", lake, "-n", "1", "--json").lines] == [2]
    assert [c["snapshot"] for c in run("log", lake, "--at", "1", "--json").lines] == [1]
    assert run("log", lake, "--limit", "0").out == ""
    assert run("log", lake, "--limit", "-1").code == 2


def test_tag_names_lists_moves_and_deletes(run: Run, lake: Path) -> None:
    assert run("tag", lake).out == ""
    assert run("tag", lake, "v1", "-m", "all of it").out == "tagged v1 at snapshot 1\n"
    assert run("rm", lake, "top.csv").code == 0
    facts = run("tag", lake, "v2", "--json").json
    assert facts == {"tag": "v2", "snapshot": 2, "message": None}
    assert run("tag", lake, "--json").lines == [
        {"tag": "v1", "snapshot": 1, "message": "all of it"},
        {"tag": "v2", "snapshot": 2, "message": None},
    ]
    listed = [line.split() for line in run("tag", lake).out.splitlines()]
    assert ["v1", "1", "all", "of", "it"] in listed
    assert ["v2", "2"] in listed
    assert run("tag", lake, "v2", "--move", "--at", "v1").out == "tagged v2 at snapshot 1\n"
    assert run("tag", lake, "v2", "--delete").out == "deleted tag v2 at snapshot 1\n"
    assert [tag["tag"] for tag in run("tag", lake, "--json").lines] == ["v1"]


def test_a_damaged_tag_is_deleted_and_said_to_be(run: Run, lake: Path) -> None:
    for words, out in (
        ([], "deleted tag v1, which was damaged\n"),
        (["--json"], '{"tag": "v1", "snapshot": null, "message": null}\n'),
    ):
        assert run("tag", lake, "v1").code == 0
        (lake / "refs" / "v1.json").write_bytes(b"torn")
        assert run("tag", lake).code == 5
        assert run("tag", lake, "v1", "--delete", *words).out == out
        assert run("tag", lake).out == ""


def test_a_damaged_tag_is_in_nobody_elses_way(run: Run, lake: Path) -> None:
    assert run("tag", lake, "v1").code == 0
    (lake / "refs/v1.json").write_bytes(b"torn")
    assert "top.csv" in run("ls", lake, "--at", "@4000000000").out
    assert run("ls", lake, "--at", "v1").code == 5


def test_a_long_message_is_never_cut_in_a_pipe(run: Run, lake: Path) -> None:
    message = "word " * 100 + "end"
    assert run("tag", lake, "v1", "-m", message).code == 0
    assert message in run("tag", lake).out


def test_merge_leaves_one_sorted_run(run: Run, lake: Path) -> None:
    assert run("rm", lake, "top.csv").code == 0
    before = run("ls", "-R", lake).out
    facts = run("merge", lake, "--json").json
    assert list(facts) == [
        "snapshot", "changed", "packs_merged", "segments", "rows", "index_bytes",
    ]  # fmt: skip
    assert (facts["snapshot"], facts["changed"], facts["packs_merged"]) == (3, True, 2)
    assert (facts["segments"], facts["rows"]) == (1, 5)
    assert run("ls", "-R", lake).out == before
    assert run("merge", lake).out == "nothing to merge\n"
    assert run("merge", lake, "--all", "--json").json["changed"] is False
    with Lake.open(lake) as opened:
        assert len(opened.snapshot().sources) == 1


def test_merge_says_what_it_did(run: Run, lake: Path) -> None:
    out = run("merge", lake).out
    assert out.startswith("merged 1 packs in snapshot 2: the index has 6 rows in 1 segments, ")


def test_merge_counts_its_own_packs_where_others_are_at_work(
    run: Run, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_index = Lake.merge_index

    def merge_behind_others(self: Lake, *, everything: bool = False) -> Snapshot:
        with Lake.open(lake) as other, other.writer() as writer:
            writer.put("by another", b"bytes")
        return merge_index(self, everything=everything)

    assert run("merge", lake).code == 0
    monkeypatch.setattr(Lake, "merge_index", merge_behind_others)
    facts = run("merge", lake, "--json").json
    assert (facts["changed"], facts["packs_merged"]) == (True, 1)


def test_merge_of_what_another_has_merged_changes_nothing(
    run: Run, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_index = Lake.merge_index

    def merge_behind_others(self: Lake, *, everything: bool = False) -> Snapshot:
        subprocess.run(
            [sys.executable, "-m", "lakefeed", "merge", os.fspath(lake)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return merge_index(self, everything=everything)

    monkeypatch.setattr(Lake, "merge_index", merge_behind_others)
    assert run("merge", lake).out == "nothing to merge\n"
