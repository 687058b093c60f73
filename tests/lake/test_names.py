"""Names that a writer takes and refuses: a path is a file or a directory, never both."""

from __future__ import annotations

import io
import stat
from typing import Any

import numpy as np
import pytest

from lakefeed.errors import Invalid
from lakefeed.format.pack import Meta
from lakefeed.format.rows import Kind
from lakefeed.lake import names
from lakefeed.lake.check import check
from lakefeed.lake.overlay import Overlay
from lakefeed.lake.writer import WriterOptions
from tests.lake.tools import QUIET, all_rows, contents, new_lake, write


def test_a_path_is_a_file_or_a_directory_never_both() -> None:
    with new_lake() as lake:
        write(lake, {"file": b"1", "dir/inner": b"2"})
        with lake.writer(QUIET) as writer:
            for action in (
                lambda: writer.put("file/below", b""),
                lambda: writer.symlink("file/below", "x"),
                lambda: writer.mkdir("file"),
                lambda: writer.rename("dir", "file"),
                lambda: writer.rename("file", "dir"),
                lambda: writer.rename("dir", "dir/inner/deeper"),
                lambda: writer.rename("dir/inner", "dir"),
                lambda: writer.copy("dir", "elsewhere"),
                lambda: writer.delete("dir"),
            ):
                with pytest.raises(Invalid):
                    action()
            writer.put("new/inner", b"")
            with pytest.raises(Invalid):
                writer.put("new", b"")
        assert check(lake).clean


def test_a_name_changes_its_nature_once_it_is_free() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        writer.put("a/b", b"1")
        writer.delete("a/b")
        writer.put("a", b"2")
        with pytest.raises(Invalid):
            writer.put("a/c", b"")
        writer.flush()
        writer.delete("a")
        writer.put("a/d", b"3")
        assert [row.path for row in writer.ls("a")] == ["a/d"]
        writer.flush()
        assert contents(lake.snapshot()) == {"a/d": b"3"}


def test_a_file_where_directories_were_holds_nothing_at_any_depth() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        writer.put("a/b/c", b"1")
        writer.delete("a/b/c")
        writer.put("a", b"2")
        with pytest.raises(Invalid):
            writer.put("a/b/d", b"")


def test_a_writer_does_not_forget_its_directories_when_names_change_elsewhere() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        for path in ("kept/x", "moved/x", "gone/y", "file"):
            writer.put(path, b"1")
        writer.rename("file", "other")
        writer.rename("moved", "there")
        writer.delete("gone/y")
        writer.put("gone", b"2")
        for directory in ("kept", "there"):
            with pytest.raises(Invalid, match="a directory"):
                writer.put(directory, b"3")
        writer.put("moved", b"4")


def test_directories_that_move_with_one_are_known_by_their_new_names() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        for path in ("tree/kept/a/b", "tree/freed/c"):
            writer.put(path, b"1")
        writer.delete("tree/freed/c")
        writer.flush()
        write(lake, {"tree/freed": b"2"})
        writer.copy_tree("tree", "copied")
        writer.rename("tree", "moved")
        for tree in ("copied", "moved"):
            for path in ("kept", "kept/a"):
                with pytest.raises(Invalid, match="a directory"):
                    writer.put(f"{tree}/{path}", b"3")
            with pytest.raises(Invalid, match=f"{tree}/freed"):
                writer.put(f"{tree}/freed/c", b"4")


def test_a_writer_remembers_directories_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_PARENTS_MAX", 10)
    known = names.Names(lambda: view)
    with new_lake() as lake:
        write(lake, {f"{number}/x": b"" for number in range(20)})
        view = Overlay([], lake.snapshot(), lake.snapshot)
        for number in range(20):
            known.check_move(f"{number}", f"moved-{number}")
        assert len(known._parents) <= 10


def test_a_file_that_is_renamed_to_where_a_directory_was_holds_nothing() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        for path in ("there/x/y/z", "tree/x"):
            writer.put(path, b"1")
        writer.delete("there/x/y/z")
        writer.rename("tree", "there")
        for path in ("there/x/z", "there/x/y/z"):
            with pytest.raises(Invalid, match="there/x"):
                writer.put(path, b"2")


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "a/../b", "a\0b", "x" * 256, "\ud800"]
)
def test_a_path_that_no_lake_holds_is_refused(path: str) -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        with pytest.raises(Invalid):
            writer.put(path, b"")
        with pytest.raises(Invalid):
            writer.mkdir(path)


def test_a_stored_directory_stays_until_it_is_deleted() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        writer.put("d/e/f", b"")
        writer.mkdir("d/e", mode=0o700, mtime_ns=5)
        writer.flush()
        writer.delete("d/e/f")
        writer.flush()
        row = lake.snapshot().stat("d/e")
        assert (row.kind, row.mode, row.mtime_ns) == (Kind.DIR, 0o700, 5)
        writer.delete("d/e")
        writer.flush()
        assert lake.snapshot().ls() == []


def test_no_file_takes_the_place_of_a_directory_that_this_writer_has_made() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        writer.mkdir("a/b", mode=0o700)
        writer.put("file", b"1")
        for _ in range(2):
            for action in (
                lambda: writer.put("a/b", b""),
                lambda: writer.symlink("a/b", "x"),
                lambda: writer.copy("file", "a/b"),
            ):
                with pytest.raises(Invalid, match="found a directory"):
                    action()
            writer.flush()
        row = lake.snapshot().stat("a/b")
        assert (row.kind, row.mode) == (Kind.DIR, 0o700)
        writer.delete("a/b")
        writer.put("a/b", b"2")
        writer.flush()
        assert contents(lake.snapshot()) == {"a/b": b"2", "file": b"1"}


def test_of_a_mode_the_permission_bits_are_kept() -> None:
    options = WriterOptions(flush_age_seconds=3600.0, big_bytes=2, merge_after=0)
    mode: Any = np.uint32(0o600)
    with new_lake() as lake:
        with lake.writer(options) as writer:
            writer.put("a", b"1", mode=stat.S_IFREG | 0o4751)
            writer.put_file("b", io.BytesIO(b"big"), meta=Meta(1, stat.S_IFREG | 0o640))
            writer.mkdir("c", stat.S_IFDIR | 0o1770)
            writer.put("d", b"2", mode=(1 << 32) - 1)
            writer.put("e", b"3", mode=mode)
        modes = [row.mode for row in all_rows(lake.snapshot())]
        assert modes == [0o4751, 0o640, 0o1770, 0o7777, 0o600]


def test_attributes_are_bounded_and_count_as_bytes_of_a_batch() -> None:
    options = WriterOptions(flush_bytes=1000, flush_age_seconds=60, merge_after=0)
    about = {"caption": "x" * 1000}
    with new_lake() as lake, lake.writer(options) as writer:
        writer.put("a", b"", attrs=about).wait()  # full, or this would wait for a minute
        writer.copy("a", "b").wait()
        with pytest.raises(Invalid, match="attributes of 'c', expected at most 1048576 bytes"):
            writer.put("c", b"", attrs={"caption": "x" * (1 << 20)})
        with pytest.raises(Invalid, match="found 1048583"):
            writer.put("d", b"", attrs={"caption": "é" * (1 << 19)})
    assert [row.attrs for row in all_rows(lake.snapshot())] == [about, about]
