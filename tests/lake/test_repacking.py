"""What a compaction's rows cost on their way into new packs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from lakefeed.lake import repacking


class Weighed:
    """One row, which counts how often it is asked for its size."""

    def __init__(self, number: int) -> None:
        self.row = pa.table({"path": [f"{number:04}"]})
        self.asked = 0

    def __len__(self) -> int:
        self.asked += 1
        return 1

    @property
    def nbytes(self) -> int:
        self.asked += 1
        return self.row.nbytes


def test_rows_are_weighed_once_however_many_wait_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of many small sources gives thousands of small tables."""
    together = pa.concat_tables
    monkeypatch.setattr(pa, "concat_tables", lambda some: together([each.row for each in some]))
    monkeypatch.setattr(repacking, "_STEP_ROWS", 30)
    tables: list[Any] = [Weighed(number) for number in range(100)]
    gathered = list(repacking._gathered(tables))
    assert [len(table) for table in gathered] == [30, 30, 30, 10]
    paths = [path for table in gathered for path in table["path"].to_pylist()]
    assert paths == [f"{number:04}" for number in range(100)]
    assert {table.asked for table in tables} == {2}  # its rows and its bytes
