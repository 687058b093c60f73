"""Paths, snapshots and bytes through fsspec: what a reader may rely on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from lakefeed import Corrupt, Lake, NotFound
from lakefeed.adapters.fsspec import LakeFileSystem
from lakefeed.adapters.fsspec.ranges import Wanted, bounds, plan_ranges
from lakefeed.format.payload import encode
from lakefeed.format.rows import Codec, Kind, Row
from lakefeed.lake import layout
from lakefeed.lake.batch import Put
from tests.lake.tools import compact, damage

BIG = bytes(range(256)) * (5 << 12)  # 5 MiB: above what is read whole


@pytest.fixture
def root(tmp_path: Path) -> str:
    with Lake.create(tmp_path / "lake") as lake, lake.writer() as writer:
        writer.put("a/one.txt", b"one")
        writer.put("a/two.txt", b"two")
        writer.put("a/b/three.txt", b"three")
        writer.put("big.bin", BIG)
        writer.mkdir("empty")
        writer.symlink("to-file", "a/one.txt")
        writer.symlink("to-directory", "a")
        writer.symlink("to-nothing", "gone")
        writer.symlink("out", "/etc/passwd")
        writer.symlink("loop", "loop")
    return f"{tmp_path}/lake"


@pytest.fixture
def fs(root: str) -> Iterator[LakeFileSystem]:
    fs = LakeFileSystem(skip_instance_cache=True)
    yield fs
    fs.close()


def test_a_url_opens_a_file_of_the_lake(root: str) -> None:
    with fsspec.open(f"lakefeed://{root}/a/one.txt") as file:
        assert file.read() == b"one"


def test_a_url_names_a_snapshot_by_tag_or_number(root: str, fs: LakeFileSystem) -> None:
    with Lake.open(root) as lake:
        lake.tag("v1")
    fs.pipe_file(f"{root}/a/one.txt", b"changed")
    assert fs.cat_file(f"{root}@v1/a/one.txt") == b"one"
    assert fs.cat_file(f"{root}@1/a/one.txt") == b"one"
    assert fs.cat_file(f"{root}/a/one.txt") == b"changed"
    assert fs.ls(f"{root}@v1/a", detail=False)[0] == f"{root}@v1/a/b"


def test_a_directory_with_an_at_sign_is_a_lake_of_its_own(tmp_path: Path) -> None:
    with Lake.create(tmp_path / "data@v2") as lake, lake.writer() as writer:
        writer.put("x@y/z", b"at")
    fs = LakeFileSystem(skip_instance_cache=True)
    assert fs.cat_file(f"{tmp_path}/data@v2/x@y/z") == b"at"
    assert fs.cat_file(f"{tmp_path}/data@v2@1/x@y/z") == b"at"
    fs.close()


def test_two_slashes_mean_the_same_as_three(root: str, fs: LakeFileSystem) -> None:
    short = root.lstrip("/")
    assert fs.cat_file(f"lakefeed://{short}/a/one.txt") == b"one"
    assert fs.ls(f"{short}/a", detail=False)[0] == f"{short}/a/b"


def test_paths_are_relative_to_the_lake_in_the_options(root: str) -> None:
    fs = LakeFileSystem(lake=root, at=1, skip_instance_cache=True)
    assert fs.ls("a", detail=False) == ["a/b", "a/one.txt", "a/two.txt"]
    assert fs.ls("/a", detail=False) == ["/a/b", "/a/one.txt", "/a/two.txt"]
    assert "a" in fs.ls("", detail=False)
    assert fs.cat_file("lakefeed://a/one.txt") == b"one"
    fs.close()


def test_where_there_is_no_lake_the_error_says_so(tmp_path: Path) -> None:
    fs = LakeFileSystem(skip_instance_cache=True)
    with pytest.raises(FileNotFoundError, match=r"lake\.json"):
        fs.info(f"{tmp_path}/nothing/here")
    with pytest.raises(NotFound, match="directory of a lake"):
        LakeFileSystem(lake=f"{_lake(tmp_path)}/inside", skip_instance_cache=True).ls("")
    assert not fs.exists(f"{tmp_path}/nothing/here")


def _lake(tmp_path: Path) -> Path:
    Lake.create(tmp_path / "l").close()
    return tmp_path / "l"


def test_facts_hold_size_time_and_checksum(root: str, fs: LakeFileSystem) -> None:
    info = fs.info(f"{root}/a/two.txt")
    assert (info["name"], info["size"], info["type"]) == (f"{root}/a/two.txt", 3, "file")
    assert info["crc32c"] == 0x52D8B3A3
    assert fs.modified(f"{root}/a/two.txt").timestamp() == pytest.approx(info["mtime"])
    assert fs.created(f"{root}/a/two.txt") >= fs.modified(f"{root}/a/two.txt").replace(year=2000)
    assert fs.isdir(f"{root}/a") and fs.isdir(f"{root}/empty") and fs.isdir(root)
    assert fs.isfile(f"{root}/a/two.txt") and not fs.isfile(f"{root}/a")


def test_the_checksum_changes_with_the_bytes(root: str, fs: LakeFileSystem) -> None:
    before = fs.checksum(f"{root}/a/one.txt"), fs.ukey(f"{root}/a/one.txt")
    assert before == (fs.checksum(f"{root}/a/one.txt"), fs.ukey(f"{root}/a/one.txt"))
    fs.pipe_file(f"{root}/a/one.txt", b"eno")
    assert fs.checksum(f"{root}/a/one.txt") != before[0]
    assert fs.ukey(f"{root}/a/one.txt") != before[1]


def test_find_walk_du_and_glob_agree(root: str, fs: LakeFileSystem) -> None:
    files = fs.find(f"{root}/a")
    assert files == [f"{root}/a/{name}" for name in ("b/three.txt", "one.txt", "two.txt")]
    walked = [f"{top}/{name}" for top, _, names in fs.walk(f"{root}/a") for name in names]
    assert sorted(walked) == files
    assert fs.glob(f"{root}/a/**/*.txt") == files
    assert fs.glob(f"{root}/*/*.txt") == files[1:]
    assert fs.find(f"{root}/a", maxdepth=1) == files[1:]
    assert fs.find(f"{root}/a", withdirs=True) == [f"{root}/a", f"{root}/a/b", *files]
    assert fs.du(f"{root}/a") == sum(fs.du(f"{root}/a", total=False).values()) == 11
    assert fs.find(f"{root}/gone") == []
    assert fs.find(f"{root}/a/one.txt") == [f"{root}/a/one.txt"]


@pytest.mark.parametrize("call", ["find", "du", "walk"])
def test_a_call_sees_one_snapshot_whatever_is_committed_meanwhile(
    root: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    fs = LakeFileSystem(skip_instance_cache=True, refresh_seconds=0)
    calls: dict[str, Callable[[], Any]] = {
        "find": lambda: fs.find(f"{root}/a", maxdepth=3),
        "du": lambda: fs.du(f"{root}/a", maxdepth=3),
        "walk": lambda: [(where, sorted(files)) for where, _, files in fs.walk(f"{root}/a")],
    }
    before, usual, commits = calls[call](), LakeFileSystem.ls, []

    def ls(fs: LakeFileSystem, *args: Any, **options: Any) -> Any:
        found = usual(fs, *args, **options)
        with Lake.open(root) as lake, lake.writer() as writer:
            writer.put(f"a/b/later {len(commits)}", b"later")
        commits.append(args)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(LakeFileSystem, "ls", ls)
        assert calls[call]() == before
    assert calls[call]() != before
    fs.close()


def test_links_are_followed_inside_the_lake(root: str, fs: LakeFileSystem) -> None:
    info = fs.info(f"{root}/to-file")
    assert (info["type"], info["islink"], info["destination"]) == ("file", True, "a/one.txt")
    assert info["size"] == 3
    assert fs.cat_file(f"{root}/to-file") == b"one"
    assert fs.cat_file(f"{root}/to-directory/b/three.txt") == b"three"
    assert fs.ls(f"{root}/to-directory", detail=False)[0] == f"{root}/to-directory/b"
    kinds = {info["name"]: info["type"] for info in fs.ls(root)}
    assert kinds[f"{root}/to-directory"] == kinds[f"{root}/to-nothing"] == "link"
    assert kinds[f"{root}/out"] == kinds[f"{root}/loop"] == "link"


def test_a_listing_tells_of_links_what_they_lead_to_in_the_end(
    root: str, fs: LakeFileSystem
) -> None:
    with Lake.open(root) as lake, lake.writer() as writer:
        writer.symlink("to-link", "to-file")
        writer.symlink("to-stored-directory", "empty")
    listed = {info["name"].removeprefix(f"{root}/"): info for info in fs.ls(root)}
    told = {name: (listed[name]["type"], listed[name]["size"]) for name in listed}
    assert told["to-link"] == told["to-file"] == ("file", 3)
    assert told["to-stored-directory"] == ("link", len("empty"))
    assert listed["to-link"]["destination"] == "to-file"
    assert listed["to-link"] == fs.info(f"{root}/to-link")


def test_links_that_lead_nowhere_are_errors(root: str, fs: LakeFileSystem) -> None:
    with pytest.raises(FileNotFoundError, match="/etc/passwd"):
        fs.cat_file(f"{root}/out")
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{root}/to-nothing")
    with pytest.raises(OSError, match="symbolic") as caught:
        fs.cat_file(f"{root}/loop")
    assert caught.value.errno == errno.ELOOP


def test_a_link_to_what_cannot_be_spoils_no_listing(tmp_path: Path) -> None:
    targets = {"no-text": b"caf\xe9", "long": b"x" * 300, "dots": b"../../x", "nul": b"a\0b"}
    with Lake.create(tmp_path / "lake") as lake, lake.writer() as writer:
        writer.put("ok", b"ok")
        for name, target in targets.items():
            writer.apply({name: Put(encode(target), Kind.SYMLINK, None, 0o777, None)})
        writer.symlink("empty", "")
    fs = LakeFileSystem(lake=f"{tmp_path}/lake", skip_instance_cache=True)
    kinds = {name: info["type"] for name, info in fs.find("", detail=True).items()}
    assert kinds == {"ok": "file", "empty": "link", **dict.fromkeys(targets, "link")}
    assert len(fs.ls("")) == len(fs.glob("*")) == 6
    assert fs.info("no-text")["destination"] == os.fsdecode(b"caf\xe9")
    for name in (*targets, "empty"):
        with pytest.raises(NotFound):
            fs.cat_file(name)
    fs.close()


@pytest.mark.parametrize("path", ["a/one.txt", "big.bin"])
@pytest.mark.parametrize(
    ("start", "end"), [(None, None), (0, 2), (1, None), (-2, None), (None, -1), (2, 1), (1, 10**9)]
)
def test_slices_are_python_slices(
    root: str, fs: LakeFileSystem, path: str, start: int | None, end: int | None
) -> None:
    whole = {"a/one.txt": b"one", "big.bin": BIG}[path]
    assert fs.cat_file(f"{root}/{path}", start, end) == whole[start:end]


def test_many_ranges_come_in_the_order_asked(root: str, fs: LakeFileSystem) -> None:
    asked = [("big.bin", 1000, 1010), ("a/one.txt", 1, 3), ("big.bin", 5, 9),
             ("big.bin", -4, None), ("big.bin", 2 << 20, (2 << 20) + 7)]  # fmt: skip
    names, starts, ends = (list(column) for column in zip(*asked, strict=True))
    whole = {"a/one.txt": b"one", "big.bin": BIG}
    paths = [f"{root}/{name}" for name in names]
    wanted = [whole[n][s:e] for n, s, e in asked]
    assert fs.cat_ranges(paths, starts, ends) == wanted
    assert fs.cat_ranges(paths, np.array(starts), tuple(ends)) == wanted


def test_a_range_that_cannot_be_read_is_returned_as_its_error(
    root: str, fs: LakeFileSystem
) -> None:
    found = fs.cat_ranges([f"{root}/a/one.txt", f"{root}/gone", f"{root}/a"], 0, 2)
    assert found[0] == b"on"
    assert isinstance(found[1], FileNotFoundError)
    assert isinstance(found[2], IsADirectoryError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([f"{root}/gone"], 0, 2, on_error="raise")


def test_a_damaged_file_among_many_is_returned_as_its_error(root: str, fs: LakeFileSystem) -> None:
    with Lake.open(root) as lake:
        row = lake.snapshot().stat("a/two.txt")
        damage(lake.volume, layout.pack_path(row.pack), row.offset)
    names = [f"{root}/a/{name}.txt" for name in ("one", "two", "b/three")]
    before, damaged, behind = fs.cat_ranges(names, 0, 2)
    assert (before, type(damaged), behind) == (b"on", Corrupt, b"th")
    with pytest.raises(Corrupt, match=row.path):
        fs.cat_ranges(names, 0, 2, on_error="raise")


def test_cat_of_many_says_what_failed(root: str, fs: LakeFileSystem) -> None:
    paths = [f"{root}/a/one.txt", f"{root}/gone"]
    assert fs.cat(f"{root}/a", recursive=True) == {
        f"{root}/a/{name}": name[-9:-4].strip("/b").encode()
        for name in ("one.txt", "two.txt", "b/three.txt")
    }
    assert fs.cat(paths, on_error="omit") == {paths[0]: b"one"}
    assert isinstance(fs.cat(paths, on_error="return")[paths[1]], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat(paths)


def test_an_open_file_keeps_the_version_it_opened(root: str, fs: LakeFileSystem) -> None:
    with fs.open(f"{root}/big.bin", block_size=1 << 16) as big, fs.open(f"{root}/a/one.txt") as one:
        big.read(10)
        fs.pipe({f"{root}/big.bin": b"other", f"{root}/a/one.txt": b"other"})
        assert big.read() == BIG[10:]
        assert one.read() == b"one"
        big.seek(-3, 2)
        assert big.read(100) == BIG[-3:]


def test_an_open_file_follows_its_bytes_when_compaction_moves_them(
    root: str, fs: LakeFileSystem
) -> None:
    with fs.open(f"{root}/big.bin", block_size=1 << 16) as big, fs.open(f"{root}/a/one.txt") as one:
        assert big.read(10) == BIG[:10]
        old = list(Path(root).glob("packs/*/*"))
        with Lake.open(root) as lake:
            compact(lake)
        for pack in old:
            pack.unlink()
        # Descriptors of deleted files still work here; a handle on NFS would be stale.
        fs.places.close()
        assert big.read() == BIG[10:]
        assert one.read() == b"one"


def test_text_and_lines_are_read(root: str, fs: LakeFileSystem) -> None:
    fs.pipe_file(f"{root}/lines.txt", "ä\nb\n".encode())
    with fs.open(f"{root}/lines.txt", "r", encoding="utf-8") as file:
        assert list(file) == ["ä\n", "b\n"]
    assert fs.head(f"{root}/lines.txt", 2) == "ä".encode()
    assert fs.tail(f"{root}/lines.txt", 2) == b"b\n"


def test_a_tag_is_resolved_once(root: str) -> None:
    fs = LakeFileSystem(lake=root, at="v", skip_instance_cache=True)
    with Lake.open(root) as lake:
        lake.tag("v")
        assert fs.cat_file("a/one.txt") == b"one"
        with lake.writer() as writer:
            writer.put("a/one.txt", b"new")
        lake.tag("v", move=True)
    assert fs.cat_file("a/one.txt") == b"one"
    fs.invalidate_cache()
    assert fs.cat_file("a/one.txt") == b"new"
    fs.close()


def test_a_live_filesystem_sees_each_commit_and_a_patient_one_later(root: str) -> None:
    live = LakeFileSystem(lake=root, skip_instance_cache=True)
    patient = LakeFileSystem(lake=root, refresh_seconds=3600, skip_instance_cache=True)
    assert not live.exists("new") and not patient.exists("new")
    with Lake.open(root) as lake, lake.writer() as writer:
        writer.put("new", b"")
    assert live.exists("new") and not patient.exists("new")
    patient.touch("own")
    assert patient.exists("own") and patient.exists("new")
    live.close()
    patient.close()


def test_neighbouring_ranges_share_a_read() -> None:
    row = Row("f", Kind.FILE, "p", 4, 99 << 20, 99 << 20, Codec.NONE, 0, 0, 0, None, 1)
    other = row._replace(path="g")
    wanted = [Wanted(row, 500, 600), Wanted(other, 0, 9), Wanted(row, 0, 100), Wanted(row, 50, 70)]
    reads = plan_ranges(wanted, gap_bytes=400)
    assert [(r.row.path, r.start, r.end, r.answers) for r in reads] == [
        ("f", 0, 600, (2, 3, 0)), ("g", 0, 9, (1,))
    ]  # fmt: skip
    assert len(plan_ranges(wanted, gap_bytes=399)) == 3
    assert bounds(-3, None, 10) == (7, 10) and bounds(8, 2, 10) == (8, 8)
