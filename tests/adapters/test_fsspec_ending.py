"""What is left when a call through fsspec has ended, well or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.adapters.fsspec import LakeFileSystem
from tests.adapters.lakes import commits
from tests.support.threads import Threads


def test_one_who_looks_rarely_sees_his_own_changes_at_once(tmp_path: Path) -> None:
    Lake.create(tmp_path / "lake").close()
    fs = LakeFileSystem(lake=f"{tmp_path}/lake", refresh_seconds=3600, skip_instance_cache=True)
    fs.pipe({"a": b"1", "b": b"2"})
    assert fs.ls("", detail=False) == ["a", "b"]
    fs.mv("a", "c")
    assert fs.ls("", detail=False) == ["b", "c"]
    with fs.transaction:
        fs.pipe_file("d", b"3")
        assert not fs.exists("d")
    assert fs.ls("", detail=False) == ["b", "c", "d"]
    fs.close()


def test_a_call_that_fails_keeps_nothing_from_those_behind_it(
    fs: LakeFileSystem, tmp_path: Path, threads: Threads
) -> None:
    fs.pipe_file("dir/f", b"")
    (tmp_path / "local").write_bytes(b"1")
    with pytest.raises(IsADirectoryError):
        fs.pipe({"a": b"1", "dir": b"2"})
    with pytest.raises(FileNotFoundError):
        fs.rm(["dir/f", "none"])
    with pytest.raises(IsADirectoryError):
        fs.put([str(tmp_path / "local")] * 2, ["b", "dir"])
    assert commits(fs) == 1
    assert not threads.left()
    fs.pipe({"c": b"3"})
    assert commits(fs) == 2
    with Lake.open(tmp_path / "lake") as lake:
        assert [row.path for row in lake.snapshot().ls()] == ["c", "dir"]
