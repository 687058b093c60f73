"""One bad file is named and the rest goes on; what hits the whole lake or target ends the work."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import LakefeedError, SnapshotExpired, VolumeFailed
from lakefeed.format.pack import Meta
from lakefeed.format.paths import PATH_BYTES_MAX
from lakefeed.format.payload import encode
from lakefeed.format.rows import Row
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.transfer import directory, leftovers, reading
from lakefeed.transfer.archives import TarTarget
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import export
from lakefeed.transfer.importing import ImportOptions, import_tree
from lakefeed.transfer.problems import KEPT_MAX, Problems
from lakefeed.transfer.reading import Blocks, ReadOptions, Wanted, read_block
from lakefeed.transfer.shards import Shards
from lakefeed.transfer.walk import Walk, WalkOptions
from tests.lake.tools import contents
from tests.transfer.trees import await_a_tick, facts

TIME_NS = 1_700_000_000_123_456_789


def test_what_cannot_be_imported_is_named(lake: Lake, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "sock"))
    (tree / os.fsdecode(b"bad\xff")).write_bytes(b"")
    report = import_tree(lake, tree)
    reasons = {problem.path: problem.reason for problem in report.problems}
    assert reasons.keys() == {"pipe", "sock", repr(b"bad\xff")}
    assert "UTF-8" in reasons[repr(b"bad\xff")]
    assert report.errors == 3
    assert import_tree(lake, tree, ImportOptions(skip_special=True)).errors == 1


def test_a_path_that_is_too_long_behind_the_prefix_is_named(lake: Lake, tmp_path: Path) -> None:
    source, long = tmp_path / "source", "b" * 200
    source.mkdir()
    for name in ("a", long, "c"):
        (source / name).write_bytes(b"1")
    prefix = "/".join(["p" * 99] * (PATH_BYTES_MAX // 100))[: PATH_BYTES_MAX - 100]
    report = import_tree(lake, source, ImportOptions(prefix=prefix))
    assert [problem.path for problem in report.problems] == [long]
    assert contents(lake.snapshot()) == {f"{prefix}/a": b"1", f"{prefix}/c": b"1"}


def test_a_file_that_cannot_be_read_is_named(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/ok").write_bytes(b"1")
    problems = Problems()
    wanted = [Wanted("gone", reading.Kind.FILE, None), Wanted("ok", reading.Kind.FILE, None)]
    block = reading.Block(wanted, buffer=bytearray(100))
    read_block(block, ReadOptions(str(tmp_path / "t")), problems)
    assert [item.path for item in block.items] == ["ok"]
    assert [(p.path, p.reason) for p in problems.first()] == [("gone", "no such file or directory")]


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_file_whose_time_cannot_be_kept_is_named(lake: Lake, tree: Path, size: int) -> None:
    (tree / "far").write_bytes(bytes(size))
    (tree / "late").mkdir()
    (tree / "late/ok").write_bytes(b"ok")
    for name in ("far", "late"):
        os.utime(tree / name, ns=(0, 1 << 63))
    if (tree / "far").stat().st_mtime_ns < 1 << 63:
        pytest.skip("this file system has no such times")
    report = import_tree(lake, tree)
    assert [problem.path for problem in report.problems] == ["far", "late"]
    assert "time" in report.problems[0].reason
    assert lake.snapshot().get("late/ok") == b"ok"
    assert not lake.snapshot().exists("far")


def test_a_source_whose_name_is_no_text_is_imported(lake: Lake, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"source\xff")
    source.mkdir()
    (source / "f").write_bytes(b"f")
    assert import_tree(lake, source).errors == 0
    assert next(lake.history()).message == f"from {bytes(source)!r}"


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_file_that_changes_all_the_time_is_named(
    lake: Lake, tree: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Each look at the file's facts shows another time, as if somebody wrote to it."""
    (tree / "moving").write_bytes(bytes(size))
    inode = (tree / "moving").stat().st_ino
    real, ticks = os.fstat, iter(range(1, 1000))

    def fstat(fd: int) -> os.stat_result:
        info = real(fd)
        if info.st_ino == inode:
            os.utime(fd, ns=(next(ticks), next(ticks)))
        return info

    monkeypatch.setattr(os, "fstat", fstat)
    report = import_tree(lake, tree)
    assert [problem.path for problem in report.problems] == ["moving"]
    assert "changed" in report.problems[0].reason
    assert not lake.snapshot().exists("moving")


def test_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    problems = Problems()
    block = reading.Block([Wanted("pipe", reading.Kind.FILE, None)], buffer=bytearray(100))
    read_block(block, ReadOptions(str(tmp_path)), problems)
    assert problems.count == 1


def test_many_problems_are_all_counted_and_the_first_ones_kept() -> None:
    problems = Problems()
    for number in range(KEPT_MAX + 10):
        problems.add(f"{number:06d}", "gone")
    assert problems.count == KEPT_MAX + 10
    assert len(problems.first()) == KEPT_MAX
    for others in (Problems(), problems):
        others.take(problems)
        assert len(others.first()) == KEPT_MAX
    assert problems.count == 2 * (KEPT_MAX + 10)


def test_threads_read_in_the_same_order(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blocks, "_adapt", lambda self, block: setattr(self, "_width", 8))
    monkeypatch.setattr(reading, "BLOCK_FILES", 5)
    problems = Problems()
    wanted = [Wanted(*one, None) for one in Walk(str(tree), WalkOptions(), problems)]
    blocks = Blocks(wanted, ReadOptions(str(tree)), problems)
    seen = {}
    for block in blocks:
        for item in block.items:
            seen[item.path] = bytes(item.payload.stored) if item.payload is not None else None
        blocks.give_back(block)
    blocks.close()
    assert list(seen) == sorted(facts(tree))
    assert seen["middle"] == (tree / "middle").read_bytes()


def test_directories_listed_ahead_come_in_the_same_order(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakefeed.transfer.walk._SLOW_SECONDS", -1.0)
    monkeypatch.setattr("lakefeed.transfer.walk._SLOW_NAME_SECONDS", 0.0)
    monkeypatch.setattr("lakefeed.transfer.walk.NAMES_AHEAD", 50)
    monkeypatch.setattr("lakefeed.transfer.walk._COMPACT_NAMES", 20)
    monkeypatch.setattr("lakefeed.transfer.walk._SLICE_NAMES", 7)
    problems = Problems()
    os.mkfifo(tree / "many/3/pipe")
    walk = Walk(str(tree), WalkOptions(exclude=("*0007.png",)), problems)
    found = [one.path for one in walk]
    walk.close()
    assert found == sorted(facts(tree).keys() - {"many/0/0007.png", "many/3/pipe"})
    assert (walk.excluded, problems.count) == (1, 1)


def test_a_volume_that_is_full_ends_the_import(
    lake: Lake, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev = os.writev

    def full(fd: int, buffers: list[bytes]) -> int:
        if sum(map(len, buffers)) > 1 << 20:
            raise OSError(28, "")
        return writev(fd, buffers)

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(VolumeFailed, match="no space"):
        import_tree(lake, tree)
    monkeypatch.undo()
    assert lake.snapshot().number == 0
    assert not list(Path(lake.name).rglob("*.pack"))
    assert import_tree(lake, tree).errors == 0


def test_nothing_is_written_through_a_link_out_of_the_target(lake: Lake, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"mine")
    with lake.writer() as writer:
        writer.put("door/victim", b"theirs")
        writer.put("door2/deep/victim", b"theirs")
        writer.put("fine", b"1")
    target = tmp_path / "out"
    target.mkdir()
    (target / "door").symlink_to(outside)
    (target / "door2").symlink_to(outside)
    report = export(lake.snapshot(), DirectoryTarget(target))
    assert {problem.path for problem in report.problems} == {"door/victim", "door2/deep/victim"}
    assert (outside / "victim").read_bytes() == b"mine"
    assert os.listdir(outside) == ["victim"]
    assert (target / "fine").read_bytes() == b"1"


def test_a_name_taken_by_the_other_kind_is_reported(lake: Lake, tmp_path: Path) -> None:
    with lake.writer() as writer:
        writer.put("a", b"file")
        writer.put("b/c", b"below")
        writer.put("p", b"")
    target = tmp_path / "out"
    (target / "a/full").mkdir(parents=True)
    (target / "b").write_bytes(b"in the way")
    os.mkfifo(target / "p")
    report = export(lake.snapshot(), DirectoryTarget(target))
    assert (target / "p").is_fifo()
    reasons = {problem.path: problem.reason for problem in report.problems}
    assert reasons == {
        "p": "there is a device, pipe or socket of that name",
        "a": "there is a directory of that name",
        "b/c": "something above it is no directory",
    }
    assert not [name for name in os.listdir(target) if name.startswith(".lakefeed")]


def test_a_link_that_no_file_system_has_is_reported(lake: Lake, tmp_path: Path) -> None:
    with lake.writer() as writer:
        writer.symlink("empty", "")
        writer.symlink("nul", "a\0b")
        writer.put("z", b"z")
    report = export(lake.snapshot(), DirectoryTarget(tmp_path / "out"))
    assert [problem.path for problem in report.problems] == ["empty", "nul"]
    assert os.listdir(tmp_path / "out") == ["z"]


def put_row(lake: Lake, path: str, mode: int = 0o644) -> None:
    """Commit a file as no writer would, but another program might."""
    data = encode(b"of another program")
    pack = new_pack(lake.volume, 0, lambda pack, now_ns: pack.add(path, data, Meta(now_ns, mode)))
    lake.append([pack], Draft("another program"))


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/out", "a//out", "a/\0out", ".", ""])
def test_a_name_that_leads_out_of_the_target_is_refused(
    lake: Lake, tmp_path: Path, path: str
) -> None:
    put_row(lake, path)
    put_row(lake, "sound")
    target = tmp_path / "target"
    done = export(lake.snapshot(), DirectoryTarget(target))
    (problem,) = done.problems
    assert "no path for a lake" in problem.reason
    assert (done.files, os.listdir(target)) == (1, ["sound"])
    assert sorted(os.listdir(tmp_path)) == ["lake", "target"]
    export(lake.snapshot(), TarTarget(Shards(str(tmp_path / "out.tar"))))
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == ["sound"]


@pytest.mark.parametrize("mode", [stat.S_IFREG | 0o640, (1 << 32) - 1])
def test_of_a_mode_the_permission_bits_are_exported(lake: Lake, tmp_path: Path, mode: int) -> None:
    put_row(lake, "a", mode)
    target = tmp_path / "target"
    assert export(lake.snapshot(), DirectoryTarget(target)).files == 1
    assert stat.S_IMODE((target / "a").stat().st_mode) == mode & 0o7777
    assert export(lake.snapshot(), DirectoryTarget(target)).skipped == 1


@pytest.mark.parametrize("error", [SnapshotExpired("the file"), VolumeFailed("pack", errno=13)])
def test_what_the_lake_cannot_give_is_no_fault_of_the_target(
    lake: Lake, tmp_path: Path, error: LakefeedError
) -> None:
    with lake.writer() as writer:
        writer.put("a", b"a")

    def pieces() -> Iterator[bytes]:
        yield b"a"
        raise error

    with pytest.raises(type(error)) as raised:
        DirectoryTarget(tmp_path / "out").put(lake.snapshot().stat("a"), "a", pieces())
    assert raised.value is error


def test_directories_that_were_locked_open_until_the_end(lake: Lake, tmp_path: Path) -> None:
    with lake.writer() as writer:
        writer.mkdir("d", 0o500)
        writer.put("d/f", b"new")
    root = tmp_path / "out"
    (root / "d").mkdir(0o500, parents=True)
    seen: list[int] = []

    class Watched(DirectoryTarget):
        """Looks at the directory's mode when a file comes."""

        def put(self, row: Row, name: str, pieces: Iterable[bytes]) -> None:
            if name == "d/f":
                seen.append(stat.S_IMODE((root / "d").stat().st_mode))
            super().put(row, name, pieces)

    assert export(lake.snapshot(), Watched(root)).errors == 0
    assert (seen, stat.S_IMODE((root / "d").stat().st_mode)) == ([0o700], 0o500)


def test_a_file_has_its_time_only_once_its_bytes_are_durable(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"d{number % 3}/{number}": b"%d bytes" % number for number in range(30)}
    with lake.writer() as writer:
        for path, data in files.items():
            writer.put(path, data, mtime_ns=TIME_NS)
    root = tmp_path / "out"
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "")

    with monkeypatch.context() as patches:
        patches.setattr(directory, "_sync_all", fails)
        with pytest.raises(VolumeFailed, match="input/output error"):
            export(lake.snapshot(), DirectoryTarget(root))
    # A power cut takes the bytes of all that was not synced, and leaves names, sizes and times.
    safe = {path for path in files if (root / path).stat().st_ino in synced}
    for path in files.keys() - safe:
        there = (root / path).stat()
        (root / path).write_bytes(bytes(there.st_size))
        os.utime(root / path, ns=(there.st_atime_ns, there.st_mtime_ns))
    report = export(lake.snapshot(), DirectoryTarget(root))
    assert {path: (root / path).read_bytes() for path in files} == files
    assert {(root / path).stat().st_mtime_ns for path in files} == {TIME_NS}
    assert (report.errors, report.skipped) == (0, len(safe))


def test_what_the_kernel_cannot_make_durable_is_an_error() -> None:
    with pytest.raises(OSError) as raised:
        directory._sync_all(-1)
    assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize("age", ["old", "young"])
def test_what_a_killed_export_left_goes_once_it_is_old(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    with lake.writer() as writer:
        writer.put("d/a", b"a")
        writer.put("d/e/b", b"b")
        writer.put("d/f", b"f")
    left = tmp_path / "out/d" / f".lakefeed-{'a' * 32}"
    left.parent.mkdir(parents=True)
    other = left.with_name(".lakefeed-notes")
    for file in (other, left):
        file.write_bytes(b"half a file")
    if age == "old":
        monkeypatch.setattr(leftovers, "LEFT_NS", 0)
        await_a_tick(left)
    assert export(lake.snapshot(), DirectoryTarget(tmp_path / "out")).errors == 0
    expected = {"a", "e", "f", other.name} | ({left.name} if age == "young" else set())
    assert set(os.listdir(left.parent)) == expected


def test_a_directory_of_somebody_else_is_reported(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lake.writer() as writer:
        writer.mkdir("theirs", 0o500)
        writer.mkdir("taken")
        writer.put("theirs/f", b"f")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/taken").write_bytes(b"in the way")
    real = os.fchmod

    def fchmod(fd: int, mode: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise PermissionError(errno.EPERM, "")
        real(fd, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)
    report = export(lake.snapshot(), DirectoryTarget(tmp_path / "out"))
    reasons = {problem.path: problem.reason for problem in report.problems}
    assert reasons == {
        "taken": "something above it is no directory",
        "theirs": "its mode and time: not permitted",
    }
    assert (report.errors, report.files) == (2, 1)
