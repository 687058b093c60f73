"""Written bytes that wait for their commit, in memory and in local files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.adapters.fuse.spool import MEMORY_FILE_BYTES, Budget, Spool

writes = st.tuples(st.integers(0, 5000), st.binary(max_size=300))
steps = st.lists(st.one_of(writes, st.integers(0, 6000)), max_size=30)


@given(steps=steps, memory=st.sampled_from([0, 1000, 1 << 20]))
def test_a_spool_is_a_file(steps: list[Any], memory: int) -> None:
    budget = Budget(memory_max=memory)
    spool, model = Spool(budget), bytearray()
    for step in steps:
        if isinstance(step, int):
            spool.truncate(step)
            del model[step:]
            model.extend(bytes(step - len(model)))
        else:
            offset, data = step
            spool.write(offset, data)
            model.extend(bytes(max(offset - len(model), 0)) if data else b"")
            model[offset : offset + len(data)] = data
    assert spool.read(0, 10_000) == model
    assert spool.size == len(model)
    assert budget.memory_bytes + budget.disk_bytes == len(model)
    assert budget.memory_bytes <= memory
    spool.close()
    spool.close()
    assert budget.memory_bytes == budget.disk_bytes == 0


def test_what_is_made_long_without_bytes_takes_no_memory(tmp_path: Path) -> None:
    spool = Spool(budget := Budget(str(tmp_path)))
    spool.write(0, b"kept")
    spool.truncate(2 * MEMORY_FILE_BYTES)
    assert spool.on_disk
    assert (budget.memory_bytes, budget.disk_bytes) == (0, 2 * MEMORY_FILE_BYTES)
    assert spool.read(0, 6) == b"kept\0\0"
    spool.close()


def test_a_full_spool_says_so_and_changes_nothing(tmp_path: Path) -> None:
    budget = Budget(str(tmp_path), memory_max=0, disk_max=1000)
    spool = Spool(budget)
    spool.write(0, bytes(900))
    with pytest.raises(OSError) as full:
        spool.write(900, bytes(200))
    assert full.value.errno == errno.ENOSPC
    assert spool.read(0, 2000) == bytes(900)
    spool.close()


def test_a_spool_of_too_many_files_takes_no_more(tmp_path: Path) -> None:
    budget = Budget(str(tmp_path), memory_max=0, files_max=2)
    spools = [Spool(budget) for _ in range(3)]
    for spool in spools[:2]:
        spool.write(0, b"kept")
    with pytest.raises(OSError, match="too many files") as full:
        spools[2].write(0, b"more")
    assert full.value.errno == errno.ENOSPC
    spools[0].close()
    spools[2].write(0, b"more")
    assert spools[2].read(0, 10) == b"more"
    for spool in spools:
        spool.close()
    assert budget.files == budget.disk_bytes == 0


def test_a_disk_that_is_full_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, spool = os.pwrite, Spool(budget := Budget(memory_max=0))
    spool.write(0, b"kept")

    def half(file: int, data: memoryview, offset: int) -> int:
        if len(data) == 1:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(file, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="full"):
        spool.write(4, bytes(range(1, 100)))
    spool.truncate(8)
    assert (spool.read(0, 100), budget.disk_bytes) == (b"kept" + bytes(4), 8)
