"""A call to the disk may do less than it was asked for: the rest is asked for again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import export
from lakefeed.transfer.importing import import_tree
from lakefeed.transfer.streaming import PIECE_BYTES
from tests.lake.tools import contents

SHORT_BYTES = 300_001


def test_what_moves_in_short_calls_arrives_whole(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    files = {"held": chance.randbytes(700_000), "streamed": chance.randbytes(PIECE_BYTES + 700_000)}
    (tmp_path / "source").mkdir()
    for name, data in files.items():
        (tmp_path / "source" / name).write_bytes(data)
    pread, readv, write = os.pread, os.readv, os.write
    short = 0

    def cut(size: int) -> int:
        nonlocal short
        short += size > SHORT_BYTES
        return min(size, SHORT_BYTES)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda fd, size, at: pread(fd, cut(size), at))
        patch.setattr(os, "readv", lambda fd, rooms: readv(fd, [rooms[0][: cut(len(rooms[0]))]]))
        report = import_tree(lake, tmp_path / "source")
        assert (report.errors, short > 16) == (0, True)
    assert contents(lake.snapshot()) == files
    short = 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[: cut(len(data))]))
        export(lake.snapshot(), DirectoryTarget(tmp_path / "out"))
        assert short > 16
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
