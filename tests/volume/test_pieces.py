"""Pieces of memory are filled as the buffers that they stand for, and lie nowhere else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.volume import pieces as module
from lakefeed.volume.base import write_file
from lakefeed.volume.pieces import Pieces, deal_out, preadv, total_bytes
from lakefeed.volume.posix import PosixVolume

DATA = bytes(number % 251 for number in range(4000))
LENGTHS = st.lists(st.integers(0, 60), max_size=40)


def back_to_back(lengths: list[int], buffers: int = 3) -> tuple[list[np.ndarray], Pieces]:
    """Pieces dealt to some buffers in turns, each behind the one before it."""
    size = np.array(lengths, np.int64)
    which = np.arange(len(lengths)) % buffers
    start = np.zeros(len(lengths), np.int64)
    for number in range(buffers):
        mine = which == number
        start[mine] = np.cumsum(size[mine]) - size[mine]
    memory = [np.full(3000, 255, np.uint8) for _ in range(buffers)]
    return memory, Pieces(memory, which, start, size)


@given(LENGTHS, st.integers(0, 40), st.integers(0, 40))
def test_they_are_the_buffers_that_they_stand_for(lengths: list[int], one: int, two: int) -> None:
    memory, pieces = back_to_back(lengths)
    part = pieces[min(one, two) : max(one, two)]
    expected = lengths[min(one, two) : max(one, two)]
    assert [piece.nbytes for piece in part] == expected
    assert len(part) == len(expected)
    assert part.nbytes == total_bytes(part) == sum(expected)
    deal_out(memoryview(DATA)[: part.nbytes], part)
    assert b"".join(part) == DATA[: part.nbytes]
    assert sum(int((buffer != 255).sum()) for buffer in memory) <= sum(expected)
    if expected:
        assert bytes(part[-1]) == bytes(part[len(expected) - 1])
    with pytest.raises(IndexError):
        part[len(expected)]


@given(LENGTHS, st.integers(0, 3000))
def test_a_call_fills_them_as_a_list_of_buffers(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], offset: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces"
    path.write_bytes(DATA)
    _, pieces = back_to_back(lengths)
    _, others = back_to_back(lengths)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert preadv(fd, pieces, offset) == preadv(fd, list(others), offset)
    finally:
        os.close(fd)
    assert list(map(bytes, pieces)) == list(map(bytes, others))


@pytest.mark.parametrize(
    ("which", "start", "length"),
    [
        ([1], [0], [1]),
        ([-1], [0], [1]),
        ([0], [-1], [1]),
        ([0], [0], [-1]),
        ([0], [5], [6]),
        ([0], [11], [0]),
        ([0, 0], [0], [1]),
    ],
)
def test_a_place_outside_of_its_buffer_is_refused(
    which: list[int], start: list[int], length: list[int]
) -> None:
    columns = (np.array(column, np.int64) for column in (which, start, length))
    with pytest.raises(Invalid, match="inside of writable buffers"):
        Pieces([np.zeros(10, np.uint8)], *columns)


def test_memory_that_must_not_be_written_is_refused() -> None:
    nothing, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    for buffer in (np.frombuffer(b"12345678", np.uint8), np.zeros(10, np.uint8)[::2]):
        with pytest.raises(Invalid, match="inside of writable buffers"):
            Pieces([buffer], nothing, nothing, one)


def test_they_keep_their_buffers_alive() -> None:
    _, pieces = back_to_back([10, 20, 30])
    part = pieces[1:]
    del pieces, _
    deal_out(memoryview(DATA)[:50], part)
    assert b"".join(part) == DATA[:50]


def test_an_error_of_the_call_has_its_number() -> None:
    _, pieces = back_to_back([10])
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        preadv(-1, pieces, 0)
    assert caught.value.errno == errno.EBADF


def test_an_interrupted_call_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(DATA)
    real, interrupted = module._preadv, [2]

    def preadv_interrupted(fd: int, vector: int, count: int, offset: int) -> int:
        if interrupted[0]:
            interrupted[0] -= 1
            module.ctypes.set_errno(errno.EINTR)
            return -1
        return int(real(fd, vector, count, offset))

    monkeypatch.setattr(module, "_preadv", preadv_interrupted)
    _, pieces = back_to_back([10, 20, 30])
    with PosixVolume(tmp_path).open("a") as file:
        assert file.read_into(5, pieces) == 60
    assert b"".join(pieces) == DATA[5:65]
    assert interrupted == [0]


def test_a_call_that_brings_a_part_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux may bring less than asked for; here at most the first two pieces of every call."""
    volume = PosixVolume(tmp_path)
    write_file(volume, "a", DATA)
    real = module._preadv
    monkeypatch.setattr(
        module, "_preadv", lambda fd, vector, count, offset: real(fd, vector, min(count, 2), offset)
    )
    _, pieces = back_to_back([7, 0, 20, 1, 9, 40])
    with volume.open("a") as file:
        assert file.read_into(3, pieces) == 77
    assert b"".join(pieces) == DATA[3:80]
