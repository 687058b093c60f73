"""`lakefeed import` and `lakefeed export`, as people and scripts call them."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.cli import transfer
from tests.cli.conftest import Run


@pytest.fixture
def where(tmp_path: Path) -> Path:
    with Lake.create(tmp_path / "lake"):
        return tmp_path / "lake"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "a/b.txt").write_bytes(b"hello")
    (source / "c.tmp").write_bytes(b"scratch")
    return source


def test_import_and_export(run: Any, where: Path, source: Path, tmp_path: Path) -> None:
    done = run("import", str(source), str(where), "--prefix", "p", "--exclude", "*.tmp", "--json")
    assert done.code == 0
    facts = done.json
    assert (facts["files"], facts["directories"], facts["excluded"]) == (1, 2, 1)
    assert facts["snapshot"] == 1
    done = run("export", str(where), str(tmp_path / "out"), "--prefix", "p", "--json")
    assert (done.code, done.json["files"]) == (0, 1)
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"hello"
    assert os.listdir(tmp_path / "out") == ["a"]


@pytest.mark.parametrize(
    "place", ["lake", "lake/packs", "link", "lake/lake.json", "lake/x.tar", "other"]
)
@pytest.mark.parametrize("verb", [["export"], ["get", "lake.json"], ["get", "-r", "log"]])
def test_nothing_is_written_into_the_directory_of_a_lake(
    run: Any, where: Path, tmp_path: Path, verb: list[str], place: str
) -> None:
    # Files of a lake may be called as its own are, and would take their place.
    (tmp_path / "link").symlink_to(where)
    with Lake.open(where) as lake, lake.writer() as writer:
        writer.put("lake.json", b"{}")
        writer.put("log/a", b"{}")
    Lake.create(tmp_path / "other").close()
    before = sorted(tmp_path.rglob("*"))
    name, *words = verb
    done = run(name, str(where), *words, str(tmp_path / place))
    assert done.code == 2
    lake = tmp_path / "other" if place == "other" else where
    assert f"expected a place outside of lakes, found one in the lake {lake}" in done.err
    assert sorted(tmp_path.rglob("*")) == before
    assert run("fsck", str(lake)).code == 0


@pytest.mark.parametrize(
    "words",
    ["export LAKE .", "export LAKE . --prefix a/", "get -r LAKE lake", "get -r LAKE a/lake/",
     "get -r LAKE a ."],
)  # fmt: skip
def test_nothing_is_written_into_the_lake_from_above(
    run: Any, where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    with Lake.open(where) as lake, lake.writer() as writer:
        for name in ("lake/lake.json", "a/lake/lake.json", "b/1"):
            writer.put(name, b"{}")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = run(*[str(where) if word == "LAKE" else word for word in words.split()])
    assert done.code == 2
    assert "expected a place outside of lakes" in done.err
    assert sorted(tmp_path.rglob("*")) == before
    assert run("export", str(where), ".", "--prefix", "b").code == 0
    assert run("fsck", str(where)).code == 0


def test_archives_come_in_one_after_the_other(
    run: Any, where: Path, source: Path, tmp_path: Path
) -> None:
    shards = [str(tmp_path / name) for name in ("1.tar", "2.tar.gz", "bad.tar")]
    for shard in shards[:2]:
        with tarfile.open(shard, "w:gz" if shard.endswith("gz") else "w") as tar:
            tar.add(source / "a", os.path.basename(shard)[0])
    Path(shards[2]).write_bytes(b"no tar" * 999)
    done = run("import", *shards[:2], str(where), "--prefix", "p", "--dry-run", "--json")
    assert (done.code, done.json["files"], done.json["snapshot"]) == (0, 2, 0)
    done = run("import", *shards, str(where), "--prefix", "p")
    assert done.code == 1
    assert done.out.startswith("imported 2 files and 2 directories, 10 B in ")
    assert done.err.startswith(f"left out: {shards[2]}: not a tar archive")
    assert "4 skipped" in run("import", *shards[:2], str(where), "--prefix", "p").out
    with Lake.open(where) as lake:
        assert lake.snapshot().get("p/2/b.txt") == b"hello"


def test_people_get_one_line(run: Any, where: Path, source: Path) -> None:
    done = run("import", str(source), str(where))
    assert done.code == 0
    assert done.err == ""
    assert done.out.startswith("imported 2 files and 1 directories, 12 B in ")
    assert "2 skipped" not in done.out
    assert "3 skipped" in run("import", str(source), str(where)).out


def test_files_left_out_are_named_and_end_with_1(run: Any, where: Path, source: Path) -> None:
    os.mkfifo(source / "pipe")
    done = run("import", str(source), str(where))
    assert done.code == 1
    assert done.err == "left out: pipe: a socket, pipe or device, not a file\n"
    assert run("import", str(source), str(where), "--skip-special").code == 0
    with Lake.open(where) as lake:
        assert lake.snapshot().get("a/b.txt") == b"hello"


def test_a_dry_run_changes_nothing(run: Any, where: Path, source: Path) -> None:
    done = run("import", str(source), str(where), "--dry-run", "--codec", "zstd")
    assert done.out.startswith("would import 2 files")
    with Lake.open(where) as lake:
        assert lake.snapshot().number == 0


def test_packs_end_at_the_size_asked_for_and_hold_files_in_the_codec_asked_for(
    run: Any, where: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    for name in "abc":
        (tmp_path / "plain" / name).write_bytes(b"x" * 700_000)
    words = ("import", tmp_path / "plain", where, "--pack-size", "1MiB", "--json")
    assert run(*words, "--prefix", "whole").json["packs"] == 2
    assert run(*words, "--prefix", "small", "--codec", "zstd").json["packs"] == 1


def test_the_ending_says_the_format(run: Any, where: Path, source: Path, tmp_path: Path) -> None:
    run("import", str(source), str(where), "--pack-size", "1MiB", "--follow-symlinks")
    assert run("export", str(where), str(tmp_path / "x.tar"), "--glob", "**/*.txt").code == 0
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == ["a/b.txt"]
    done = run("export", str(where), str(tmp_path / "x.tfrecord"), "--shard-size", "1MiB", "--json")
    assert done.json["outputs"] == [str(tmp_path / "x-000000.tfrecord")]
    assert run("export", str(where), str(tmp_path / "y"), "--format", "tar", "-q").code == 0
    assert tarfile.is_tarfile(tmp_path / "y")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.ZIP", "shards.tar.zst"])
def test_no_directory_is_made_for_who_wants_a_compressed_archive(
    run: Run, where: Path, source: Path, tmp_path: Path, name: str
) -> None:
    assert run("import", str(source), str(where)).code == 0
    for words in ([], ["--format", "tar"]):
        done = run("export", str(where), str(tmp_path / name), *words)
        assert done.code == 2
        assert name in done.err
        assert not (tmp_path / name).exists()
    assert run("export", str(where), str(tmp_path / name), "--format", "directory").code == 0
    assert (tmp_path / name / "a/b.txt").read_bytes() == b"hello"
    assert run("export", str(where), str(tmp_path / name)).code == 0  # where it is one already
    assert run("export", str(where), str(tmp_path / name), "--format", "tar").code == 2


def test_the_ending_of_an_archive_may_be_written_in_capitals(
    run: Run, where: Path, source: Path, tmp_path: Path
) -> None:
    assert run("import", str(source), str(where)).code == 0
    assert run("export", str(where), str(tmp_path / "X.TAR")).code == 0
    with tarfile.open(tmp_path / "X.TAR") as tar:
        assert "a/b.txt" in tar.getnames()


def test_a_tag_may_be_exported(run: Any, where: Path, source: Path, tmp_path: Path) -> None:
    run("import", str(source), str(where))
    with Lake.open(where) as lake:
        lake.tag("v1")
        with lake.writer() as writer:
            writer.put("later", b"")
    run("export", str(where), str(tmp_path / "out"), "--at", "v1")
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "c.tmp"]


def test_an_export_of_a_prefix_that_is_not_there_replaces_nothing(
    run: Any, where: Path, source: Path, tmp_path: Path
) -> None:
    run("import", source, where, "--prefix", "train")
    words = ("export", where, tmp_path / "x.tar", "--shard-size", "1MiB", "--prefix")
    assert run(*words, "train").code == 0
    before = (tmp_path / "x-000000.tar").read_bytes()
    done = run(*words, "trian")
    assert (done.code, done.out) == (3, "")
    assert "'trian'" in done.err
    assert (tmp_path / "x-000000.tar").read_bytes() == before
    assert run("export", where, tmp_path / "out", "--prefix", "trian").code == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["import", "{}/nowhere", "{}/lake"], 3),
        (["import", "{}/source", "{}/nolake"], 3),
        (["import", "{}/source", "{}/lake", "--prefix", "../up"], 2),
        (["import", "{}/source", "{}/lake", "--pack-size", "big"], 2),
        (["import", "{}/source", "{}/lake", "--exclude", "!x"], 2),
        (["import", "{}/source", "{}/source", "{}/lake"], 2),
        (["import", "{}/source/c.tmp", "{}/lake", "--follow-symlinks"], 2),
        (["export", "{}/lake", "{}/out", "--shard-size", "1MiB"], 2),
        (["export", "{}/lake", "-", "--json"], 2),
        (["export", "{}/lake", "{}/out", "--at", "v9"], 3),
    ],
)
def test_wrong_requests_say_so(
    run: Any, where: Path, source: Path, tmp_path: Path, arguments: list[str], code: int
) -> None:
    done = run(*(argument.format(tmp_path) for argument in arguments))
    assert done.code == code
    assert done.err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_imported_says_so_of_the_source(run: Any, where: Path, source: Path) -> None:
    done = run("import", source / "c.tmp", where)
    assert done.code == 2
    assert f"source {source}/c.tmp, expected a directory or a tar archive, found" in done.err
    assert '"lakefeed put"' in done.err
    for missing in (source / "no", source / "c.tmp/no"):
        done = run("import", missing, where)
        assert f"source {missing}" in done.err
        assert done.err.endswith("; check the path and its permissions\n")


def test_an_archive_in_no_directory_says_so_of_the_path(
    run: Any, where: Path, source: Path, tmp_path: Path
) -> None:
    run("import", source, where)
    done = run("export", where, tmp_path / "no/x.tar")
    assert done.code == 3
    assert f"write {tmp_path}/no/x.tar" in done.err
    assert done.err.endswith("; check the path and its permissions\n")


@pytest.mark.slow
def test_workers_are_started_early_for_a_big_source(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_WORKERS_FROM", 20)
    for number in range(60):
        (tmp_path / "source" / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / f"{number % 7}" / f"{number}").write_bytes(b"%d" % number)
    assert run("create", tmp_path / "lake").code == 0
    done = run("import", tmp_path / "source", tmp_path / "lake", "--workers", "2", "--json")
    assert (done.code, done.json["files"]) == (0, 60)
