"""What a mounted filesystem tells late, twice or not at all is told as any other failure."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.volume.base import read_file, write_file
from lakefeed.volume.posix import PosixVolume


@pytest.mark.parametrize("lengths", [[10], [4, 6]])
def test_an_error_behind_a_part_is_one_of_the_volume(
    lengths: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, real = PosixVolume(tmp_path), (os.pread, os.preadv)
    write_file(volume, "a", b"0123456789")

    def pread(fd: int, length: int, at: int) -> bytes:
        return real[0](fd, 3, at) if not at else broken()

    def preadv(fd: int, buffers: list[memoryview], at: int) -> int:
        return real[1](fd, [buffers[0][:3]], at) if not at else broken()

    def broken() -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(os, "preadv", preadv)
    with volume.open("a") as file:
        for read in (
            lambda: file.read_at(0, 10),
            lambda: file.read_into(0, [memoryview(bytearray(length)) for length in lengths]),
        ):
            with pytest.raises(VolumeFailed, match="read of ") as failure:
                read()
            assert failure.value.errno == errno.EIO


def test_a_directory_that_another_makes_at_the_same_time_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    real = os.path.isdir
    # Nobody had made it when it was looked for.
    monkeypatch.setattr(os.path, "isdir", lambda path: path != f"{tmp_path}/a" and real(path))
    PosixVolume(tmp_path).make_directory("a/b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("refusals", "calls"),
    [
        ([errno.ESTALE], ["d/a", "d", "d/a"]),
        ([errno.ESTALE, None, errno.ESTALE], ["d/a", "d", "d/a"]),
        ([errno.EIO], ["d/a"]),
    ],
)
def test_a_name_that_leads_to_a_stale_handle_is_looked_up_once_more(
    tmp_path: Path, refusals: list[int | None], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, real, called = PosixVolume(tmp_path), os.open, list[str]()
    write_file(volume, "d/a", b"1")

    def stale(path: str, flags: int, *more: int) -> int:
        number = dict(enumerate(refusals)).get(len(called))
        called.append(os.path.relpath(path, tmp_path))
        if number:
            raise OSError(number, os.strerror(number), path)
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", stale)
    if refusals == [errno.ESTALE]:
        assert read_file(volume, "d/a") == b"1"
    else:
        with pytest.raises(VolumeFailed) as failure:
            volume.open("d/a")
        assert failure.value.errno == refusals[-1]
    assert called == calls


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_a_server_tells_only_at_the_end_is_heard_once(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = PosixVolume(tmp_path).create("a"), os.close
    file.write([b"1"])

    def late(fd: int) -> None:
        real(fd)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "close", late)
    with pytest.raises(VolumeFailed, match=f"close of {tmp_path}/a") as failure:
        file.close()
    assert failure.value.errno == number
    file.close()
