"""What the lake has already is compared with what the lake gives back, and restored by it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.snapshot import Snapshot
from tests.service.tools import Service, drop, service, waiting


@pytest.mark.parametrize("damage", ["a bit", "no pack"])
@pytest.mark.parametrize("size", [1000, 6 << 20])
def test_a_file_that_is_damaged_in_the_lake_can_be_restored_through_the_inbox(
    tmp_path: Path, damage: str, size: int
) -> None:
    data = os.urandom(size)
    with service(tmp_path, big_bytes=1 << 20) as made:
        drop(made.root, "a", data)
        made.take()
        row = made.lake.snapshot().stat("a")
        pack = tmp_path / "lake" / layout.pack_path(row.pack)
        if damage == "a bit":
            stored = bytearray(pack.read_bytes())
            stored[row.offset + size - 1] ^= 1
            pack.write_bytes(stored)
        made.lake.merge_index()
        if damage == "no pack":
            pack.unlink()
    with Lake.open(tmp_path / "lake") as lake:
        again = Service(lake, made.root, made.options)
        drop(made.root, "a", data)
        assert again.take() == 1
        assert waiting(made.root) == []
        assert again.files() == {"a": data}


def test_of_many_files_that_are_in_the_lake_those_that_are_damaged_there_are_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    get_many = Snapshot.get_many

    def counted(snapshot: Snapshot, paths: Sequence[str]) -> list[bytes]:
        nonlocal reads
        reads += 1
        return get_many(snapshot, paths)

    def fill() -> None:
        for number in range(100):
            drop(made.root, f"{number:02d}", b"%d" % number * 50)

    with service(tmp_path) as made:
        fill()
        made.take()
        monkeypatch.setattr(Snapshot, "get_many", counted)
        fill()
        assert made.take() == 100
        assert (reads, made.commits()) == (1, 1)  # not one for each
        for name in ("07", "63"):
            row = made.lake.snapshot().stat(name)
            pack = tmp_path / "lake" / layout.pack_path(row.pack)
            stored = bytearray(pack.read_bytes())
            stored[row.offset] ^= 1
            pack.write_bytes(stored)
        fill()
        assert made.take() == 100
        assert made.outcomes[-1].files == 2
        assert made.files()["07"] == b"7" * 50


def test_a_lake_that_does_not_answer_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*args: object) -> None:
        raise VolumeFailed("pack", errno=errno.ETIMEDOUT)

    with service(tmp_path) as made:
        drop(made.root, "a", b"1")
        made.take()
        drop(made.root, "a", b"1")
        with monkeypatch.context() as patch:
            for name in ("get_many", "read_row_range"):
                patch.setattr(Snapshot, name, silent)
            with pytest.raises(VolumeFailed):
                made.take()
        assert made.take() == 1
        assert made.commits() == 1
