"""Many reads with one call bring what the same reads bring one by one, or fail as those do."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.errors import VolumeFailed
from lakefeed.volume import lists, posix
from lakefeed.volume.lists import Queues, ReadList
from lakefeed.volume.pieces import Pieces
from lakefeed.volume.posix import PosixReadableFile, PosixVolume

DATA = np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=8)
OFFSETS = st.integers(0, len(DATA) - 400)
READS = st.lists(st.tuples(OFFSETS, SIZES), min_size=1, max_size=300)


def listed(reads: list[tuple[int, list[int]]]) -> tuple[np.ndarray, ReadList]:
    """Reads of (offset, lengths of what they fill), whose memory lies back to back."""
    length = np.array([size for _, sizes in reads for size in sizes], np.int64)
    memory = np.zeros(int(length.sum()), np.uint8)
    pieces = Pieces([memory], np.zeros(len(length), np.int64), np.cumsum(length) - length, length)
    edges = np.cumsum([0, *(len(sizes) for _, sizes in reads)])
    return memory, ReadList(pieces, edges, np.array([offset for offset, _ in reads], np.int64))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lists")
    (root / "a").write_bytes(DATA)
    return root


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets of the reads that were made one by one."""
    offsets: list[int] = []
    usual = PosixReadableFile.read_into

    def noted(file: PosixReadableFile, offset: int, buffers: list[memoryview]) -> int:
        offsets.append(offset)
        return usual(file, offset, buffers)

    monkeypatch.setattr(PosixReadableFile, "read_into", noted)
    return offsets


def contexts() -> int:
    """The kernel queues that this process has."""
    return Path("/proc/self/maps").read_text().count("[aio]")


@given(READS, st.integers(0, 300), st.integers(0, 300))
@settings(deadline=None)
def test_each_read_fills_its_pieces(
    root: Path, reads: list[tuple[int, list[int]]], one: int, two: int
) -> None:
    memory, wanted = listed(reads)
    start, end = sorted((one % (len(reads) + 1), two % (len(reads) + 1)))
    with PosixVolume(root).open("a") as file:
        wanted.aim(file.descriptor, 0, len(reads))  # others are left alone all the same
        file.read_list(wanted, start, end)
    assert len(wanted) == len(reads)
    expected, at = bytearray(len(memory)), 0
    for number, (offset, sizes) in enumerate(reads):
        if start <= number < end:
            expected[at : at + sum(sizes)] = DATA[offset : offset + sum(sizes)]
        at += sum(sizes)
    assert memory.tobytes() == expected


def test_no_read_needs_a_call_of_its_own(root: Path, one_by_one: list[int]) -> None:
    memory, reads = listed([(7 * number, [90, 10]) for number in range(1000)])
    with PosixVolume(root).open("a") as file:
        file.read_list(reads, 0, 1000)
    assert one_by_one == []
    assert memory.tobytes() == b"".join(DATA[7 * n : 7 * n + 100] for n in range(1000))


def test_reads_of_several_files_need_no_call_each(root: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(DATA[::-1])
    memory, reads = listed([(7 * number, [90, 10]) for number in range(1000)])
    with PosixVolume(root).open("a") as a, PosixVolume(tmp_path).open("b") as b:
        for first in range(0, 1000, 50):
            file = b if first % 100 else a
            reads.aim(file.descriptor, first, first + 50)
        assert Queues().read(reads, 0, 1000) == 1000
    expected = [(DATA[::-1] if n // 50 % 2 else DATA)[7 * n : 7 * n + 100] for n in range(1000)]
    assert memory.tobytes() == b"".join(expected)


@pytest.mark.parametrize("bad", [0, 1, 130, 199])
def test_a_closed_file_among_several_ends_what_is_done(root: Path, bad: int) -> None:
    memory, reads = listed([(7 * number, [50]) for number in range(200)])
    closed = PosixVolume(root).open("a")
    closed.close()
    with PosixVolume(root).open("a") as file:
        reads.aim(file.descriptor, 0, 200)
        reads.aim(closed.descriptor, bad, bad + 1)
        assert Queues().read(reads, 0, 200) == bad
    assert memory[: 50 * bad].tobytes() == b"".join(DATA[7 * n : 7 * n + 50] for n in range(bad))


def test_what_one_call_cannot_do_is_done_by_itself(root: Path, one_by_one: list[int]) -> None:
    """A read into more buffers than the kernel takes, also behind reads of others."""
    memory, reads = listed([(1, [5])] * 3 + [(50, [1] * 3000), (9000, [5])])
    with PosixVolume(root).open("a") as file:
        file.read_list(reads, 2, 5)
    assert one_by_one == [50]
    assert memory.tobytes() == bytes(10) + DATA[1:6] + DATA[50:3050] + DATA[9000:9005]


def test_reads_that_come_one_after_the_other_are_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, reads = listed([(7 * number, [50]) for number in range(200)])
    real, taken = lists._brief_syscall, list[int]()

    def first_three(call: int, queue: object, _least: object, _most: object, *more: object) -> int:
        taken.append(real(call, queue, ctypes.c_long(3), ctypes.c_long(3), *more))
        return taken[-1]

    monkeypatch.setattr(lists, "_brief_syscall", first_three)
    with PosixVolume(root).open("a") as file:
        file.read_list(reads, 0, 200)
    assert taken == [3, 3]
    assert memory.tobytes() == b"".join(DATA[7 * n : 7 * n + 50] for n in range(200))


@pytest.mark.parametrize("bad", [0, 1, 200, 299])
def test_a_short_read_says_which(root: Path, bad: int) -> None:
    places = [(number, [3]) for number in range(300)]
    places[bad] = (len(DATA) - 2, [3])
    _, reads = listed(places)
    with (
        PosixVolume(root).open("a") as file,
        pytest.raises(VolumeFailed, match=f"at {len(DATA) - 2}"),
    ):
        file.read_list(reads, 0, 300)


def test_a_closed_file_says_so(root: Path) -> None:
    _, reads = listed([(0, [3])])
    file = PosixVolume(root).open("a")
    file.close()
    with pytest.raises(VolumeFailed) as caught:
        file.read_list(reads, 0, 1)
    assert caught.value.errno == errno.EBADF


def test_where_the_call_is_forbidden_reads_are_made_one_by_one(
    root: Path, one_by_one: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "QUEUES", Queues())
    monkeypatch.setattr(lists, "_SETUP", -1)  # no such call
    memory, reads = listed([(7 * number, [9, 1]) for number in range(200)])
    with PosixVolume(root).open("a") as file:
        file.read_list(reads, 0, 200)
    assert one_by_one == [7 * number for number in range(200)]
    assert memory.tobytes() == b"".join(DATA[7 * n : 7 * n + 10] for n in range(200))


def test_threads_have_a_queue_each_but_never_too_many(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "_QUEUES_MAX", 3)
    monkeypatch.setattr(posix, "QUEUES", Queues())
    before = contexts()
    volume = PosixVolume(root)
    together = threading.Barrier(6)
    results: list[bytes] = []

    def act() -> None:
        memory, reads = listed([(7 * number, [50]) for number in range(2000)])
        with volume.open("a") as file:
            together.wait()
            file.read_list(reads, 0, 2000)
        results.append(memory.tobytes())

    threads = [threading.Thread(target=act) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"".join(DATA[7 * n : 7 * n + 50] for n in range(2000))] * 6
    assert before < contexts() <= before + 3


def test_what_threads_share_is_made_before_they_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that made it at the same time would have the kernel look at a table that is gone."""
    memory, reads = listed([(7 * number, [50]) for number in range(200)])

    def late(pieces: Pieces, first: np.ndarray) -> np.ndarray:
        raise AssertionError("made by a thread that reads")

    monkeypatch.setattr(Pieces, "vectors", late)
    with PosixVolume(root).open("a") as file:
        file.read_list(reads, 0, 200)
    assert memory.tobytes() == b"".join(DATA[7 * n : 7 * n + 50] for n in range(200))


def test_a_queue_with_reads_under_way_is_not_lent_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is torn out of a call, by Ctrl-C for example, leaves a queue nobody can count on."""
    queues = Queues()
    _, reads = listed([(0, [10])])
    with (root / "a").open("rb") as file:
        reads.aim(file.fileno(), 0, 1)
        assert queues.read(reads, 0, 1) == 1
        before = contexts()

        def torn(queue: object, count: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(lists._Queue, "_wait_for", torn)
            with pytest.raises(KeyboardInterrupt):
                queues.read(reads, 0, 1)
        assert contexts() == before - 1
        assert queues.read(reads, 0, 1) == 1


FORKING = """
import os, sys
from tests.volume.test_lists import DATA, contexts, listed
from lakefeed.volume.posix import PosixVolume

def read():
    memory, reads = listed([(5, [100])] * 200)
    file.read_list(reads, 0, 200)
    assert memory.tobytes() == DATA[5:105] * 200

file = PosixVolume(sys.argv[1]).open("a")
read()
child = os.fork()
read()
assert contexts() == (1 if child else 2)  # a child inherits the mapping, not the queue
if not child:
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0
read()
assert contexts() == 1
"""


def test_a_forked_child_has_queues_of_its_own(root: Path) -> None:
    code = [sys.executable, "-c", FORKING, str(root)]
    done = subprocess.run(code, capture_output=True, text=True, check=False, cwd=os.getcwd())
    assert done.returncode == 0, done.stderr
