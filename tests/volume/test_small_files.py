"""Small files are read whole, also while others replace them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lakefeed.errors import Corrupt, VolumeFailed
from lakefeed.volume.base import SMALL_FILE_BYTES_MAX, read_file, write_file
from lakefeed.volume.memory import MemoryReadableFile, MemoryVolume
from lakefeed.volume.posix import PosixVolume


class Stale(MemoryReadableFile):
    """A file whose name another client has given to another one: NFSv3 keeps nothing of it."""

    def read_at(self, offset: int, length: int) -> bytes:
        raise VolumeFailed("read", errno=self.errno)

    errno = errno.ESTALE


class ReplacedVolume(MemoryVolume):
    """Files are replaced between being opened and being read, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.refreshed: list[str] = []

    def open(self, path: str) -> MemoryReadableFile:
        if not self.times:
            return super().open(path)
        self.times -= 1
        return Stale(self._node(path), path, self._lock)

    def refresh(self, directory: str) -> None:
        self.refreshed.append(directory)


def test_a_file_replaced_before_it_was_read_is_opened_again() -> None:
    volume = ReplacedVolume(1)
    write_file(volume, "refs/v1", b"new")
    assert read_file(volume, "refs/v1") == b"new"
    assert volume.refreshed == ["refs"]


def test_a_file_that_stays_stale_is_a_failure() -> None:
    volume = ReplacedVolume(2)
    write_file(volume, "a", b"1")
    with pytest.raises(VolumeFailed):
        read_file(volume, "a")


def test_another_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stale, "errno", errno.EIO)
    volume = ReplacedVolume(1)
    write_file(volume, "a", b"1")
    with pytest.raises(VolumeFailed):
        read_file(volume, "a")
    assert volume.refreshed == []


def test_a_file_that_is_a_hole_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(SMALL_FILE_BYTES_MAX + 1)
    with pytest.raises(Corrupt, match="a, expected at most 1073741824 bytes, found 1073741825"):
        read_file(PosixVolume(tmp_path), "a")
