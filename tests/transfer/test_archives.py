"""Archives hold every name and byte, in the formats that other programs read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.errors import Corrupt, Invalid, VolumeFailed
from lakefeed.lake import layout
from lakefeed.transfer import leftovers
from lakefeed.transfer.archives import TarTarget, TfrecordTarget, masked_crc32c, sample_key
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import ExportOptions, export
from lakefeed.transfer.importing import import_tree
from lakefeed.transfer.shards import Shards
from tests.transfer.trees import await_a_tick, facts


def test_a_tar_holds_the_whole_tree(lake: Lake, tree: Path, tmp_path: Path) -> None:
    import_tree(lake, tree)
    report = export(lake.snapshot(), TarTarget(Shards(str(tmp_path / "out.tar"))))
    assert report.outputs == (str(tmp_path / "out.tar"),)
    expected = facts(tree)
    with tarfile.open(tmp_path / "out.tar") as tar:
        members = {member.name: member for member in tar}
        assert members.keys() == expected.keys()
        for name, (mode, size, mtime_ns, data) in expected.items():
            member = members[name]
            assert (member.isdir(), member.issym()) == (mode[0] == "d", mode[0] == "l")
            seconds, _, rest = str(member.pax_headers.get("mtime", member.mtime)).partition(".")
            assert int(seconds) * 10**9 + int(rest.ljust(9, "0")[:9] or 0) == mtime_ns
            if member.isfile():
                held = tar.extractfile(member)
                assert held is not None
                assert (member.size, held.read()) == (size, data)
            elif member.issym():
                assert os.fsencode(member.linkname) == data


def test_a_tar_keeps_times_before_1970_and_targets_that_are_no_text(
    lake: Lake, tmp_path: Path
) -> None:
    source, goal = tmp_path / "source", b"goal-\xff"
    source.mkdir()
    os.symlink(goal, os.fsencode(source / "link"))
    (source / "old").write_bytes(b"1")
    os.utime(source / "old", ns=(0, -1_500_000_000))
    import_tree(lake, source)
    out = tmp_path / "out.tar"
    export(lake.snapshot(), TarTarget(Shards(str(out))))
    with tarfile.open(out) as tar:
        assert tar.getmember("old").mtime == -1.5
        assert os.fsencode(tar.getmember("link").linkname) == goal


def test_gnu_tar_restores_the_tree(lake: Lake, tree: Path, tmp_path: Path) -> None:
    import_tree(lake, tree)
    export(lake.snapshot(), TarTarget(Shards(str(tmp_path / "out.tar"))))
    (tmp_path / "out").mkdir()
    # In path order a directory's files do not all follow it at once, so its time is set at the end.
    extract = ["tar", "xpf", tmp_path / "out.tar", "--delay-directory-restore"]
    subprocess.run([*extract, "-C", tmp_path / "out"], check=True)
    assert facts(tmp_path / "out") == facts(tree)


def test_the_files_of_a_sample_share_a_shard(lake: Lake, tmp_path: Path) -> None:
    with lake.writer() as writer:
        for number in range(40):
            for ending in ("cls", "jpg", "seg.png"):
                writer.put(f"train/{number:04d}.{ending}", os.urandom(3000))
    shards = Shards(str(tmp_path / "t.tar"), shard_bytes=50_000)
    report = export(lake.snapshot(), TarTarget(shards), ExportOptions("train"))
    assert len(report.outputs) > 3
    assert report.outputs[1].endswith("t-000001.tar")
    assert sorted(os.listdir(tmp_path)) == sorted(["lake", *map(os.path.basename, report.outputs)])
    homes: dict[str, set[str]] = {}
    names = []
    for output in report.outputs:
        with tarfile.open(output) as tar:
            for name in tar.getnames():
                names.append(name)
                homes.setdefault(sample_key(name), set()).add(output)
    assert len(names) == 120
    assert names == sorted(names)
    assert len(homes) == 40
    assert all(len(home) == 1 for home in homes.values())


@pytest.mark.parametrize("target", [TarTarget, TfrecordTarget])
def test_shards_take_the_place_of_all_of_an_older_export(
    lake: Lake, tmp_path: Path, target: type[TarTarget] | type[TfrecordTarget]
) -> None:
    (tmp_path / "out").mkdir()
    others = {"t-1.x", "t-0000009.x", "t-000009.y", "st-000009.x", "t-000009.x.tmp", "t.x"}
    for name in others:
        (tmp_path / "out" / name).touch()

    def shards() -> set[str]:
        where = Shards(str(tmp_path / "out/t.x"), shard_bytes=50_000)
        outputs = export(lake.snapshot(), target(where)).outputs
        assert set(os.listdir(tmp_path / "out")) == {*others, *map(os.path.basename, outputs)}
        return set(outputs)

    with lake.writer() as writer:
        for number in range(8):
            writer.put(f"{number}.bin", os.urandom(30_000))
    older = shards()
    with lake.writer() as writer:
        for number in range(6):
            writer.delete(f"{number}.bin")
    assert len(shards()) < len(older)


def test_a_selection_of_nothing_is_an_empty_archive(lake: Lake, tmp_path: Path) -> None:
    export(lake.snapshot(), TarTarget(Shards(str(tmp_path / "e.tar"))))
    with tarfile.open(tmp_path / "e.tar") as tar:
        assert tar.getnames() == []
    export(lake.snapshot(), TfrecordTarget(Shards(str(tmp_path / "e.tfrecord"))))
    assert (tmp_path / "e.tfrecord").read_bytes() == b""


def test_a_tar_may_go_to_a_pipe(lake: Lake, tree: Path) -> None:
    import_tree(lake, tree)
    command = [sys.executable, "-m", "lakefeed", "export", lake.name, "-", "--prefix", "many/3"]
    done = subprocess.run(command, capture_output=True, check=True)
    listed = subprocess.run(["tar", "t"], input=done.stdout, capture_output=True, check=True)
    assert sorted(listed.stdout.decode().split()) == sorted(os.listdir(tree / "many/3"))


def damage(lake: Lake, path: str) -> None:
    row = lake.snapshot().stat(path)
    pack = Path(lake.name, layout.pack_path(row.pack))
    data = bytearray(pack.read_bytes())
    data[row.offset + row.size // 2] ^= 1
    pack.write_bytes(data)


def test_a_damaged_file_is_left_out_and_named(lake: Lake, tree: Path, tmp_path: Path) -> None:
    import_tree(lake, tree)
    damage(lake, "many/0/0000.png")
    with Lake.open(lake.name) as fresh:
        report = export(fresh.snapshot(), TarTarget(Shards(str(tmp_path / "out.tar"))))
    assert [problem.path for problem in report.problems] == ["many/0/0000.png"]
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert set(tar.getnames()) == facts(tree).keys() - {"many/0/0000.png"}


def test_a_damaged_big_file_never_completes_an_archive(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakefeed.transfer.exporting.READ_BYTES", 1 << 20)
    monkeypatch.setattr("lakefeed.lake.view.PIECE_BYTES", 1 << 20)
    # Above what a partial read verifies by itself.
    with lake.writer() as writer:
        writer.put("big", os.urandom(5_000_000))
    damage(lake, "big")
    with Lake.open(lake.name) as fresh:
        for target in (TarTarget, TfrecordTarget):
            with pytest.raises(Corrupt, match="big"):
                export(fresh.snapshot(), target(Shards(str(tmp_path / "out.x"))))
    assert os.listdir(tmp_path) == ["lake"]


def test_a_damaged_big_file_is_left_out_of_a_directory_and_named(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakefeed.transfer.exporting.READ_BYTES", 1 << 20)
    with lake.writer() as writer:
        writer.put("big", bytes(5_000_000))
        writer.put("small", b"sound")
    damage(lake, "big")
    with Lake.open(lake.name) as fresh:
        report = export(fresh.snapshot(), DirectoryTarget(tmp_path / "out"))
    assert [problem.path for problem in report.problems] == ["big"]
    assert os.listdir(tmp_path / "out") == ["small"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_ends_the_export(lake: Lake, tree: Path) -> None:
    import_tree(lake, tree)
    command = [sys.executable, "-m", "lakefeed", "export", lake.name, "-"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == VolumeFailed("x").exit_code
    assert "no space left" in done.stderr


@pytest.mark.parametrize("step", ["closing", "naming"])
def test_an_archive_that_cannot_be_completed_leaves_nothing(
    lake: Lake, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    import_tree(lake, tree)
    shards = Shards(str(tmp_path / "out.tar"))

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    def completing() -> None:
        if step == "naming":
            monkeypatch.setattr(os, "replace", no_room)
        else:
            monkeypatch.setattr(shards, "_file", _Full(shards._file))
        close()

    close = shards.close
    monkeypatch.setattr(shards, "close", completing)
    with pytest.raises(VolumeFailed, match="no space"):
        export(lake.snapshot(), TarTarget(shards))
    assert sorted(os.listdir(tmp_path)) == ["lake", "tree"]


class _Full:
    """A file whose last bytes find no room when it is complete."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "no room")

    def close(self) -> None:
        self._file.close()


def test_an_archive_has_its_name_only_once_it_is_durable(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lake.writer() as writer:
        writer.put("a", b"some bytes")
    synced: dict[int, int] = {}
    named: list[bool] = []
    replace = os.replace

    def sync(fd: int) -> None:
        synced[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    def name(source: str, target: str) -> None:
        there = os.stat(source)
        named.append(synced.get(there.st_ino) == there.st_size)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", name)
    export(lake.snapshot(), TarTarget(Shards(str(tmp_path / "out.tar"))))
    assert named == [True]


@pytest.mark.parametrize("shard_bytes", [None, 1000])
@pytest.mark.parametrize("age", ["old", "young"])
def test_what_a_killed_export_left_goes_with_the_next_one_once_it_is_old(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int | None, age: str
) -> None:
    with lake.writer() as writer:
        writer.put("a", b"some bytes")
    out = tmp_path / "out"
    out.mkdir()
    number = "" if shard_bytes is None else "-000003"
    left = f"out{number}.tar.{'a' * 32}.tmp"
    others = [f"out{number}.tar.tmp", f"x.tar.{'b' * 32}.tmp", f"out{number}.tar.{'b' * 31}.tmp"]
    for name in (left, *others):
        (out / name).write_bytes(b"half an archive")
    if age == "old":
        monkeypatch.setattr(leftovers, "LEFT_NS", 0)
        await_a_tick(out / left)
    done = export(lake.snapshot(), TarTarget(Shards(str(out / "out.tar"), shard_bytes)))
    (made,) = map(os.path.basename, done.outputs)
    assert sorted(os.listdir(out)) == sorted([made, *others, *([left] if age == "young" else [])])


@pytest.mark.parametrize("there", [os.mkdir, os.mkfifo])
def test_an_archive_takes_the_place_of_files_only(
    lake: Lake, tmp_path: Path, there: Callable[[Path], None]
) -> None:
    there(tmp_path / "out.tar")
    with pytest.raises(Invalid, match=r"out\.tar"):
        export(lake.snapshot(), TarTarget(Shards(str(tmp_path / "out.tar"))))
    assert sorted(os.listdir(tmp_path)) == ["lake", "out.tar"]
    assert not (tmp_path / "out.tar").is_file()


def test_the_mask_is_the_published_one() -> None:
    # TFRecord masks a CRC-32C by rotating it right by 15 bits and adding 0xa282ead8.
    assert masked_crc32c(0) == 0xA282EAD8
    assert masked_crc32c(1) == 0xA284EAD8
