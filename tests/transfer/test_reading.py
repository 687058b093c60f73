"""A source file is read as it is at one moment, or named: never in part, never something else."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.format.rows import Kind
from lakefeed.transfer import reading
from lakefeed.transfer.importing import import_tree
from lakefeed.transfer.problems import Problems
from lakefeed.transfer.reading import (
    STREAM_BYTES,
    Block,
    Blocks,
    Changed,
    ReadOptions,
    Wanted,
    read_block,
)
from lakefeed.transfer.streaming import PIECE_BYTES, SourceStream
from tests.lake.tools import contents
from tests.support.descriptors import open_below


def reasons(root: Path, *wanted: Wanted) -> dict[str, str]:
    """Read names of a source; return why some were left out."""
    problems = Problems()
    block = Block(list(wanted), buffer=bytearray(100))
    read_block(block, ReadOptions(str(root)), problems)
    named = {problem.path: problem.reason for problem in problems.first()}
    assert [item.path for item in block.items] == [
        one.path for one in wanted if one.path not in named
    ]
    return named


def test_what_does_not_fit_into_a_block_comes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BUFFER_BYTES", 100)
    sizes = {f"{number}": number * 9 % 100 for number in range(10, 40)}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(name.encode() * (size // 2) + b"x" * (size % 2))
    wanted = [Wanted(name, Kind.FILE, None) for name in sizes]
    seen, count = {}, 0
    blocks = Blocks(wanted, ReadOptions(str(tmp_path)), Problems())
    for block in blocks:
        count += 1
        for item in block.items:
            assert item.payload is not None
            seen[item.path] = bytes(item.payload.stored)
        blocks.give_back(block)
    blocks.close()
    assert list(seen) == list(sizes)
    assert seen == {name: (tmp_path / name).read_bytes() for name in sizes}
    assert count >= sum(sizes.values()) / 100


def test_a_name_that_became_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "ok").write_bytes(b"1")
    found = reasons(
        tmp_path,
        Wanted("file", Kind.DIR, None),
        Wanted("link", Kind.FILE, None),
        Wanted("ok", Kind.FILE, None),
    )
    assert found == {"file": "not a directory", "link": "it became a symbolic link"}


@pytest.mark.parametrize("trouble", ["changed", "stale"])
def test_a_file_that_was_disturbed_once_is_read_once_more(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """Somebody writes to it meanwhile, or puts another one into its place on a file server."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"before")
    readv = os.readv

    def disturbed(fd: int, rooms: tuple[memoryview]) -> int:
        monkeypatch.undo()
        done = readv(fd, rooms)
        (source / "a").write_bytes(b"later on")
        if trouble == "stale":
            raise OSError(errno.ESTALE, "")
        return done

    monkeypatch.setattr(os, "readv", disturbed)
    assert import_tree(lake, source).errors == 0
    assert contents(lake.snapshot()) == {"a": b"later on"}


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_big_file_that_cannot_be_read_to_its_end_is_named(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(bytes(PIECE_BYTES + 1))
    (source / "b").write_bytes(b"b")
    real, left = getattr(os, call), iter([True, False])

    def fails(*arguments: object, **more: object) -> object:
        big = call == "pread" or arguments[0] == str(source / "a")
        if big and not next(left, False):
            raise OSError(errno.EIO, "")
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        report = import_tree(lake, source)
    assert [(one.path, one.reason) for one in report.problems] == [("a", "input/output error")]
    assert contents(lake.snapshot()) == {"b": b"b"}
    assert import_tree(lake, source).files == 1


def test_a_big_file_that_is_cut_short_meanwhile_is_read_once_more(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"a" * (PIECE_BYTES + 1))
    pread, cuts = os.pread, iter([STREAM_BYTES + 1])

    def cut(fd: int, size: int, at: int) -> bytes:
        for length in cuts:
            os.truncate(source / "a", length)
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", cut)
    assert import_tree(lake, source).errors == 0
    assert contents(lake.snapshot()) == {"a": b"a" * (STREAM_BYTES + 1)}


def test_a_pipe_in_the_place_of_a_big_file_is_no_empty_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        ThreadPoolExecutor(1) as pool,
        SourceStream(str(tmp_path / "pipe"), ReadOptions("").flags, pool) as stream,
        pytest.raises(Changed),
    ):
        stream.open()


def test_an_import_leaves_no_source_file_open(lake: Lake, tree: Path) -> None:
    import_tree(lake, tree)
    assert open_below(tree) == []
