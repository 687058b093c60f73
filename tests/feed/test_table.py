"""Sixteen bytes a sample hold all that its row says, or the sample is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lakefeed.errors import Invalid
from lakefeed.feed import table as module
from lakefeed.feed.table import Table
from lakefeed.format.rows import Codec
from lakefeed.lake.reader import Extents

ROW = ("pack", "offset", "length", "size", "crc32c", "packed")


def put(table: Table, start: int, *rows: tuple[str, int, int, int, bool]) -> None:
    """Fill in samples of (pack, offset, length, size, whether that is compressed)."""
    packs = sorted({row[0] for row in rows})
    pack = np.array([packs.index(row[0]) for row in rows], np.int64)
    offset, length, size = (np.array([row[at] for row in rows], np.uint64) for at in (1, 2, 3))
    codec = np.array([Codec.ZSTD if row[4] else Codec.NONE for row in rows], np.uint8)
    checksums = np.arange(start, start + len(rows)).astype(np.uint32)
    table.put(start, Extents(packs, pack, offset, length, size, codec, checksums), "{}".format)


@pytest.fixture
def table() -> Table:
    anything: Any = SimpleNamespace(check_extents=lambda extents, name: None)
    return Table(anything, 8)


def test_a_row_comes_out_as_it_went_in(table: Table) -> None:
    rows = [
        ("b", 0, 5, 5, False),
        ("a", (1 << 44) - 1, (1 << 32) - 1, (1 << 32) - 1, False),
        ("c", 7, 3, 900, True),
        ("a", 1, 0, 0, False),
        ("b", 9, 900, 900, True),
        ("d", 2, 8, 8, False),
    ]
    for start, end in ((0, 2), (2, 4), (4, 6)):
        put(table, start, *rows[start:end])
    found = table.rows(np.array([5, 0, 4, 2, 1, 3]))
    columns = zip(*(getattr(found, name).tolist() for name in ROW), strict=True)
    assert [(table.packs[pack], *rest) for pack, *rest in columns] == [
        (*rows[at][:4], at, rows[at][4]) for at in (5, 0, 4, 2, 1, 3)
    ]


@pytest.mark.parametrize(
    ("length", "size", "packed"), [(1 << 32, 1 << 32, False), (5, 1 << 32, True)]
)
def test_a_sample_of_four_gibibytes_is_refused(
    length: int, size: int, packed: bool, table: Table
) -> None:
    with pytest.raises(Invalid, match="sample '1', expected less than 4 GiB, found 4294967296"):
        put(table, 0, ("a", 0, 1, 1, False), ("a", 1, length, size, packed))


def test_more_packs_than_there_are_numbers_for_are_refused(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PACK_BITS", 1)
    for number in range(2):
        put(table, number, (str(number), 0, 1, 1, False))
    with pytest.raises(Invalid, match="at most 2 packs"):
        put(table, 2, ("2", 0, 1, 1, False))
