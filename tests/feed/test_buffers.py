"""A lent buffer stays untouched while anything can see it, and is used again afterwards."""

from __future__ import annotations

import gc
import os
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from lakefeed.errors import Invalid
from lakefeed.feed.buffers import ALIGNMENT_BYTES, Pool, size_class


def test_a_buffer_is_aligned_writable_and_as_long_as_asked() -> None:
    pool = Pool(1 << 20)
    for size in (0, 1, 63, 4096, 5000, 1 << 20, (1 << 20) + 1):
        lent = pool.lend(size)
        assert len(lent) == size
        assert lent.flags.writeable
        if size:
            assert lent.ctypes.data % ALIGNMENT_BYTES == 0


@pytest.mark.parametrize(
    "keep",
    [
        lambda lent: lent[10:20],
        lambda lent: lent[5:][2:].view(np.int8),
        lambda lent: memoryview(lent)[3:9],
        lambda lent: lent.data[3:9],
        lambda lent: pa.py_buffer(lent),
        lambda lent: pa.py_buffer(lent[8:]).slice(2),
        lambda lent: np.from_dlpack(lent),
    ],
    ids=["slice", "slice of a slice", "memoryview", "data", "arrow", "slice of arrow", "dlpack"],
)
def test_whatever_refers_to_a_buffer_keeps_it(keep: object) -> None:
    pool = Pool(1 << 20)
    lent = pool.lend(5000)
    address = lent.ctypes.data
    kept = keep(lent)  # type: ignore[operator]
    del lent
    gc.collect()
    assert pool.free_bytes == 0
    assert pool.lend(5000).ctypes.data != address
    del kept
    gc.collect()
    assert pool.free_bytes == 2 * size_class(5000)
    assert address in {pool.lend(5000).ctypes.data, pool.lend(5000).ctypes.data}


def test_buffers_of_about_one_size_serve_each_other() -> None:
    pool = Pool(1 << 24)
    first = pool.lend(1_000_000)
    address = first.ctypes.data
    del first
    assert pool.lend(1_000_500).ctypes.data == address
    assert all(size <= size_class(size) <= size * 1.13 + 4096 for size in range(1, 300_000, 997))


def test_free_buffers_are_kept_up_to_a_bound() -> None:
    pool = Pool(100_000)
    lent = [pool.lend(30_000) for _ in range(10)]
    lent.clear()
    assert 0 < pool.free_bytes <= 100_000
    pool.close()
    assert pool.free_bytes == 0
    del lent
    late = pool.lend(10)
    del late
    assert pool.free_bytes == 0


def test_what_is_lent_and_what_is_kept_share_the_bound() -> None:
    pool = Pool(100_000)
    kept = pool.lend(60_000)
    lent = [pool.lend(30_000) for _ in range(4)]
    lent.clear()
    assert 0 < pool.free_bytes <= 40_000
    del kept


def test_a_buffer_comes_back_at_no_more_cost_where_thousands_are_lent() -> None:
    peaks = []
    for count in (10, 2000):
        pool = Pool(1 << 24)
        lent = [pool.lend(100) for _ in range(count)]
        tracemalloc.start()
        lent.pop()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pool.free_bytes == size_class(100)
    assert peaks[1] < 2 * peaks[0]  # what is copied in order to count it stands for the time


def test_what_nobody_needs_for_a_while_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pool = Pool(1 << 24)
    lent = [pool.lend(size) for size in (5000, 5000, 5000, 70_000)]
    lent.clear()
    for _ in range(30):
        now[0] += 1
        pool.lend(5000)
    # Of all those only the one that is used again and again is left.
    assert pool.free_bytes == size_class(5000)


def test_an_allocator_gives_the_buffers() -> None:
    asked = []

    def allocate(size_bytes: int) -> object:
        asked.append(size_bytes)
        raw = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
        return raw[-raw.ctypes.data % ALIGNMENT_BYTES :]

    pool = Pool(1 << 20, allocate)
    pool.lend(5000)[:] = 1
    assert asked == [size_class(5000)]
    with pytest.raises(Invalid, match="64-byte boundary"):
        Pool(1, lambda size: np.empty(size + 65, np.uint8)[1:]).lend(4096)
    with pytest.raises(Invalid, match="writable"):
        Pool(1, lambda size: bytes(size + 64)).lend(4096)


def test_after_a_fork_parent_and_child_fill_memory_of_their_own() -> None:
    pool = Pool(1 << 24)
    lent = pool.lend(5000)
    lent[:] = 1
    del lent
    child = os.fork()
    if child == 0:
        pool.lend(5000)[:] = 2
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # The same buffer again, with what this process wrote.
    assert (pool.lend(5000) == 1).all()
