"""fsck, gc, diff, du and show: facts on stdout, 5 where something is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

from lakefeed import Lake
from tests.cli.conftest import FILES, Run


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.unlink()
    path.write_bytes(data)


def place(lake: Path, name: str) -> tuple[Path, int]:
    """Return the pack of a file and the offset of its bytes there."""
    with Lake.open(lake) as opened:
        row = opened.snapshot().stat(name)
    return lake / "packs" / row.pack[:2] / f"{row.pack}.pack", row.offset


def test_fsck_of_a_sound_lake_is_clean(run: Run, lake: Path) -> None:
    done = run("fsck", lake, "--deep")
    assert done.code == 0
    assert done.out.startswith("snapshot 1: clean (1 commits, 1 packs")
    report = run("fsck", lake, "--json").json
    assert (report["clean"], report["findings"], report["deep"]) == (True, [], False)


def test_fsck_names_the_damaged_file_and_ends_with_5(run: Run, lake: Path) -> None:
    pack, offset = place(lake, "a/c/d.bin")
    flip(pack, offset + 100)
    assert run("fsck", lake).code == 0
    done = run("fsck", lake, "--deep")
    assert done.code == 5
    assert "payload: a/c/d.bin" in done.out
    report = run("fsck", lake, "--deep", "--json")
    assert report.code == 5
    assert [finding["subject"] for finding in report.json["findings"]] == ["a/c/d.bin"]


def test_fsck_reports_a_missing_pack_and_a_missing_snapshot(run: Run, lake: Path) -> None:
    assert run("fsck", lake, "--at", "99").code == 3
    pack, _ = place(lake, "a/b.txt")
    pack.unlink()
    done = run("fsck", lake)
    assert done.code == 5
    assert f"missing: packs/{pack.parent.name}/{pack.name}" in done.out


def test_a_copy_without_empty_directories_is_used_and_collected_once_they_are_there(
    run: Run, lake: Path
) -> None:
    """A tool that drops them loses no tag; but where they are lost, tags may be, too."""
    for name in ("leases", "pins", "refs", "tmp"):
        (lake / name).rmdir()
    assert run("ls", lake).code == 0
    assert [one["subject"] for one in run("fsck", lake, "--json").json["findings"]] == [
        f"{lake}/refs"
    ]
    refused = f"not found: {lake}/refs; restore it, or make it"
    assert refused in run("gc", lake).err
    done = run("compactd", lake, "--once")
    assert (done.code, refused in done.err) == (3, True)
    (lake / "refs").mkdir()
    assert f"not found: {lake}/pins" in run("gc", lake, "--dry-run").err
    with Lake.open(lake) as opened, opened.hold(holder="me"):
        assert run("compactd", lake, "--once").code == 0
    (lake / "refs").rmdir()
    assert run("tag", lake, "first").code == 0
    assert "first" in run("tag", lake).out
    assert run("gc", lake).code == 0
    assert run("fsck", lake).code == 0


def test_gc_says_what_it_would_do_and_then_does_it(run: Run, lake: Path) -> None:
    assert run("merge", lake).code == 0
    assert run("rm", lake, "top.csv").code == 0
    assert run("merge", lake, "--all").code == 0
    before = len(list((lake / "index").iterdir()))
    assert run("gc", lake, "--dry-run").out == "would delete 0 files, 0 B\n"
    dry = run("gc", lake, "--keep", "0s", "--dry-run")
    assert "would delete index/" in dry.out
    assert len(list((lake / "index").iterdir())) == before
    kept = run("gc", lake, "--keep", "0s", "--keep-snapshots", "2", "--json").json
    assert (kept["horizon"], kept["deleted"]) == (None, 0)
    facts = run("gc", lake, "--keep", "0s", "--json").json
    assert (facts["segments"], facts["packs"], facts["deleted"]) == (1, 0, 1)
    assert len(list((lake / "index").iterdir())) == before - 1
    assert run("ls", lake, "--at", "1").code == 3
    assert run("gc", lake, "--keep", "often").code == 2


def test_gc_leaves_what_no_commit_names_alone_for_as_long_as_it_is_told(
    run: Run, lake: Path
) -> None:
    (pack,) = lake.glob("packs/*/*.pack")
    orphan = pack.with_name(pack.name[:2] + "0" * 30 + ".pack")
    shutil.copy(pack, orphan)
    assert run("gc", lake, "--orphans", "--keep", "0s", "--json").json["packs"] == 0
    assert run("gc", lake, "--orphans", "--grace", "0s", "--json").json["deleted"] == 1
    assert (pack.exists(), orphan.exists()) == (True, False)


def test_diff_shows_one_change_a_line(run: Run, lake: Path) -> None:
    assert run("rm", lake, "top.csv").code == 0
    assert run("put", lake, "-", "a/new", stdin=b"1").code == 0
    assert run("put", lake, "-", "a/b.txt", stdin=b"2").code == 0
    assert run("diff", lake, "1").out == "M a/b.txt\n+ a/new\n- top.csv\n"
    assert run("diff", lake, "1", "2").out == "- top.csv\n"
    assert run("diff", lake, "1", "--prefix", "a/new").out == "+ a/new\n"
    (change,) = run("diff", lake, "2", "1", "--json").lines
    assert (change["path"], change["change"], change["old"]) == ("top.csv", "added", None)
    assert change["new"]["size"] == len(FILES["top.csv"])


def test_du_adds_up_directories(run: Run, lake: Path) -> None:
    lines = {line["path"]: line for line in run("du", lake, "--depth", "2", "--json").lines}
    assert lines["a/c"]["size_bytes"] == len(FILES["a/c/d.bin"]) + len(FILES["a/c/e.txt"])
    assert lines["a"]["size_bytes"] == lines["a/c"]["size_bytes"] + len(FILES["a/b.txt"])
    assert lines[""]["files"] >= len(FILES)
    assert run("du", lake).out.splitlines()[0].split() == ["FILES", "SIZE", "STORED", "PATH"]
    assert run("du", lake, "nothing").code == 3


def test_show_sums_up_packs_and_segments(run: Run, lake: Path) -> None:
    assert run("tag", lake, "v1").code == 0
    assert run("rm", lake, "a/c/d.bin").code == 0
    facts = run("show", lake, "--packs", "--json").json
    assert (facts["packs"], facts["segments"], facts["tags"]) == (2, 0, {"v1": 1})
    assert facts["unmerged_packs"] == 2
    assert 0 < facts["live_ratio"] < 1
    assert [pack["seq"] for pack in facts["pack_list"]] == [1, 2]
    assert facts["pack_list"][0]["live_bytes"] == facts["live_bytes"]
    text = run("show", lake, "--packs").out
    assert "v1 (1)" in text
    assert "LIVE ROWS" in text
