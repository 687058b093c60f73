"""cat and get: the bytes of the lake, verified, or the local files as they were."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.cli import reading
from lakefeed.lake import view
from tests.cli.conftest import FILES, MTIME_NS, Run, damage


def test_cat_writes_the_bytes_and_nothing_else(run: Run, lake: Path) -> None:
    assert run("cat", lake, "a/c/d.bin").data == FILES["a/c/d.bin"]
    both = run("cat", lake, "top.csv", "a/b.txt")
    assert both.data == FILES["top.csv"] + FILES["a/b.txt"]
    assert both.err == ""


def test_cat_writes_nothing_when_a_path_is_missing(run: Run, lake: Path) -> None:
    assert run("cat", lake, "a/b.txt", "none").data == b""


def test_cat_reads_an_old_snapshot(run: Run, lake: Path) -> None:
    assert run("put", lake, "-", "a/b.txt", stdin=b"new").code == 0
    assert run("cat", lake, "a/b.txt").data == b"new"
    assert run("cat", lake, "a/b.txt", "--at", "1").data == FILES["a/b.txt"]


def test_get_keeps_bytes_mode_and_time(run: Run, lake: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "copy.txt"
    done = run("get", lake, "a/b.txt", target)
    assert (done.code, done.out, done.err) == (0, f"a/b.txt (6 B) to {target}\n", "")
    assert target.read_bytes() == FILES["a/b.txt"]
    assert target.stat().st_mtime_ns == MTIME_NS
    assert target.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in target.parent.iterdir()] == ["copy.txt"]


def test_get_into_a_directory_takes_the_name(run: Run, lake: Path, tmp_path: Path) -> None:
    facts = run("get", lake, "a/b.txt", tmp_path, "--json").json
    target = str(tmp_path / "b.txt")
    assert facts == {
        "snapshot": 1, "path": "a/b.txt", "target": target, "files": 1, "size": 6,
    }  # fmt: skip


def test_get_without_a_target_takes_the_name(
    run: Run, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("get", lake, "a/b.txt").code == 0
    assert run("get", "-r", lake, "a/c").code == 0
    assert (tmp_path / "b.txt").read_bytes() == FILES["a/b.txt"]
    assert (tmp_path / "c/d.bin").read_bytes() == FILES["a/c/d.bin"]


def test_get_to_stdout(run: Run, lake: Path) -> None:
    assert run("get", lake, "a/c/d.bin", "-").data == FILES["a/c/d.bin"]


def test_get_recursive_brings_the_tree(run: Run, lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("get", "-r", lake, "", out)
    assert done.code == 0
    assert {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.is_symlink()
    } == FILES
    assert os.readlink(out / "link") == "a/b.txt"
    assert (out / "empty").is_dir()
    facts = run("get", "-r", lake, "", out, "--json").json
    size = sum(map(len, FILES.values()))
    assert facts == {"snapshot": 1, "path": "", "target": str(out), "files": 5, "size": size}


def test_get_recursive_keeps_the_modes_and_times_of_directories(
    run: Run, lake: Path, tmp_path: Path
) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.mkdir("d/private", 0o4700, mtime_ns=MTIME_NS)
        writer.put("d/private/locked/f", b"f")
        writer.mkdir("d/private/locked", 0o500, mtime_ns=MTIME_NS + 1)
    assert run("get", "-r", lake, "d", tmp_path / "d").code == 0
    found = [(tmp_path / "d/private" / path).stat() for path in ("", "locked")]
    facts = [(stat.S_IMODE(info.st_mode), info.st_mtime_ns) for info in found]
    assert facts == [(0o700, MTIME_NS), (0o500, MTIME_NS + 1)]
    assert (tmp_path / "d/private/locked/f").read_bytes() == b"f"


def test_get_recursive_keeps_a_new_directory_as_private_as_it_was(
    run: Run, lake: Path, tmp_path: Path
) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.mkdir("a", 0o500, mtime_ns=MTIME_NS)
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir(mode=0o755)
    assert run("get", "-r", lake, "a", new).code == 0
    assert run("get", "-r", lake, "a", old).code == 0
    assert (new / "b.txt").read_bytes() == FILES["a/b.txt"]
    infos = [new.stat(), old.stat()]
    assert [stat.S_IMODE(info.st_mode) for info in infos] == [0o700, 0o755]
    assert [info.st_mtime_ns == MTIME_NS for info in infos] == [True, False]


def test_get_recursive_of_a_file_is_the_file(run: Run, lake: Path, tmp_path: Path) -> None:
    assert run("get", "-r", lake, "a/b.txt", tmp_path / "x").code == 0
    assert (tmp_path / "x").read_bytes() == FILES["a/b.txt"]


def test_get_never_writes_through_a_link_of_the_lake(run: Run, tmp_path: Path) -> None:
    where, outside, out = tmp_path / "lake", tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    with Lake.create(where) as made:
        with made.writer() as writer:
            writer.put("d/evil", b"x")
        with made.writer() as writer:
            writer.rename("d", "e")
            writer.symlink("d", str(outside))
    assert run("get", "-r", where, "", out, "--at", "1").code == 0
    assert run("get", "-r", where, "", out / "again").code == 0
    assert list(outside.iterdir()) == []


def test_get_never_writes_through_a_link_in_the_target(run: Run, tmp_path: Path) -> None:
    where, outside, out = tmp_path / "lake", tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    with Lake.create(where) as made:
        with made.writer() as writer:
            writer.symlink("d/sub", str(outside))
            writer.symlink("d/file", str(outside / "file"))
        with made.writer() as writer:
            writer.delete("d/sub")
            writer.put("d/sub/evil", b"x", mode=0o4755)
            writer.put("d/file", b"x", mode=0o4755)
    assert run("get", "-r", where, "d", out, "--at", "1").code == 0
    done = run("get", "-r", where, "d", out)
    assert (done.code, done.out) == (6, "")
    assert f"write {out}/sub/evil" in done.err
    assert list(outside.iterdir()) == []
    assert (out / "file").stat().st_mode & 0o7777 == 0o755
    (tmp_path / "alias").symlink_to(out)
    assert run("get", where, "d/sub/evil", tmp_path / "alias").code == 0
    assert (out / "evil").read_bytes() == b"x"


def test_get_takes_the_place_of_files_only(run: Run, lake: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run("get", lake, "a/b.txt", pipe)
    assert (done.code, done.out) == (2, "")
    assert "'-' is standard output" in done.err
    assert pipe.is_fifo()
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a/b.txt")
    done = run("get", "-r", lake, "a", tmp_path / "a")
    assert (done.code, done.out) == (6, "")
    assert f"write {tmp_path}/a/b.txt, found there is a device, pipe or socket" in done.err
    assert (tmp_path / "a/b.txt").is_fifo()


def test_a_failed_get_leaves_the_local_file(run: Run, lake: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept.txt"
    target.write_text("mine")
    damage(lake, FILES["a/b.txt"])
    done = run("get", lake, "a/b.txt", target)
    assert (done.code, done.out) == (5, "")
    assert target.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.txt", "lake"]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file of 5 MiB count as big."""
    monkeypatch.setattr(reading, "GROUP_BYTES", 1 << 20)
    monkeypatch.setattr(view, "PIECE_BYTES", 1 << 20)


BIG = bytes(range(251)) * (5 << 12)


@pytest.mark.usefixtures("small_parts")
def test_a_big_file_is_streamed_and_verified(run: Run, lake: Path, tmp_path: Path) -> None:
    assert run("put", lake, "-", "big", stdin=BIG).code == 0
    assert run("cat", lake, "big").data == BIG
    assert run("get", "-r", lake, "", tmp_path / "out").code == 0
    assert (tmp_path / "out/big").read_bytes() == BIG


@pytest.mark.usefixtures("small_parts")
def test_damage_in_a_streamed_file_is_noticed(run: Run, lake: Path, tmp_path: Path) -> None:
    assert run("put", lake, "-", "big", stdin=BIG).code == 0
    damage(lake, BIG[:1000])
    assert run("cat", lake, "big").code == 5
    done = run("get", lake, "big", tmp_path / "big")
    assert done.code == 5
    assert "'big'" in done.err
    assert not (tmp_path / "big").exists()


def test_many_small_files_come_in_groups(
    run: Run, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "GROUP_FILES", 7)
    with Lake.open(lake) as opened, opened.writer() as writer:
        for number in range(50):
            writer.put(f"many/{number}", str(number).encode())
    assert run("get", "-r", lake, "many", tmp_path / "out").code == 0
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {str(number): str(number) for number in range(50)}
