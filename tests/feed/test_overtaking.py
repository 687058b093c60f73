"""What a straggler writes after it was overtaken reaches nobody, and covers no damage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lakefeed.feed import assembly
from lakefeed.feed.assembly import Places
from lakefeed.feed.buffers import Pool
from lakefeed.feed.reads import plan_reads
from lakefeed.feed.table import Rows
from lakefeed.format.checksum import crc32c

PAYLOADS = [bytes([number]) * (1000 + number) for number in range(6)]


def rows_of(payloads: list[bytes]) -> Rows:
    """Rows of raw payloads, one behind the other in one pack."""
    sizes = np.array([len(data) for data in payloads], np.int64)
    checksums = np.array([crc32c(data) for data in payloads], np.uint32)
    places = 4 + np.cumsum(sizes) - sizes
    nothing = np.zeros(len(payloads), np.int64)
    return Rows(["a" * 32], nothing, places, sizes, sizes, checksums, nothing.astype(np.bool_))


@pytest.mark.parametrize("small_bytes", [0, 1 << 20], ids=["one by one", "by batch"])
@pytest.mark.parametrize("gap_bytes", [-1, 0], ids=["a read each", "one read"])
def test_a_late_write_changes_no_batch(
    gap_bytes: int, small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "_SMALL_BYTES", small_bytes)
    monkeypatch.setattr(assembly, "_WORTH_BYTES", 0)
    rows = rows_of(PAYLOADS)
    reads = plan_reads(rows, gap_bytes, 1 << 20)
    places, pool = Places(rows, reads), Pool(1 << 20)
    assert places.by_batch == (small_bytes > 0)
    places.open(pool, [0, 3, 6])
    stored = b"\0" * 4 + b"".join(PAYLOADS)
    late = places.read_list.one(0)[1]
    for buffer in late:  # as far as the straggler came before it was overtaken
        buffer[: len(buffer) // 2] = b"\xdd" * (len(buffer) // 2)
    for read in range(len(reads)):
        own = stored[reads.offset[read] : reads.offset[read] + reads.length[read]]
        if read == 0:
            places.accept(read, memoryview(own))
        else:
            (place,) = places.read_list.one(read)[1]
            place[:] = own
        if not places.by_batch:
            assert places.damaged(read, read + 1) == []
    if places.by_batch:
        assert places.damaged_in(0) == places.damaged_in(1) == []
    batches = [places.gather(number, np.arange(3 * number, 3 * number + 3)) for number in (0, 1)]
    for buffer in late:
        buffer[:] = b"\xff" * len(buffer)
    again = pool.lend(len(stored))
    again[:] = 0xEE
    found = [
        bytes(data[start:end])
        for data, splits in batches
        for start, end in itertools.pairwise(splits)
    ]
    assert found == PAYLOADS


@pytest.mark.parametrize("small_bytes", [0, 1 << 20], ids=["one by one", "by batch"])
def test_what_an_overtaking_read_brings_is_verified_itself(
    small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "_SMALL_BYTES", small_bytes)
    monkeypatch.setattr(assembly, "_WORTH_BYTES", 0)
    rows = rows_of(PAYLOADS)
    reads = plan_reads(rows, 0, 1 << 20)
    places, pool = Places(rows, reads), Pool(1 << 20)
    places.open(pool, [0, 3, 6])
    own = bytearray(b"".join(PAYLOADS))
    at = 0
    for buffer in places.read_list.one(0)[1]:  # the straggler has it right, and too late
        buffer[:] = own[at : at + len(buffer)]
        at += len(buffer)
    own[10] ^= 1
    places.accept(0, memoryview(own))
    found = places.damaged_in(0) if places.by_batch else places.damaged(0, 1)
    assert found == [0]


@pytest.mark.parametrize("stretch_bytes", [500, 1500, 1 << 20])
@pytest.mark.parametrize("victim", range(6))
def test_damage_is_found_in_its_stretch_and_looked_for_nowhere_else(
    victim: int, stretch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "_WORTH_BYTES", 0)
    monkeypatch.setattr(assembly, "_STRETCH_BYTES", stretch_bytes)
    rows, pool = rows_of(PAYLOADS), Pool(1 << 20)
    places = Places(rows, plan_reads(rows, 0, 1 << 20))
    places.open(pool, [0, 3, 6])
    for buffer, data in zip(places.read_list.one(0)[1], PAYLOADS, strict=True):
        buffer[:] = data
    looked_at, usual = list[int](), places._suspicious

    def looked(samples: np.ndarray) -> list[int]:
        looked_at.extend(samples.tolist())
        return usual(samples)

    monkeypatch.setattr(places, "_suspicious", looked)
    assert places.damaged_in(0) == places.damaged_in(1) == looked_at == []
    places.read_list.one(0)[1][victim][-1] ^= 1
    batch = victim // 3
    assert places.damaged_in(1 - batch) == looked_at == []
    assert places.damaged_in(batch) == [victim]
    assert looked_at == ([victim] if stretch_bytes == 500 else looked_at)
    assert {at // 3 for at in looked_at} == {batch}
