"""What an import of archives counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.transfer import unpacking
from lakefeed.transfer.importing import Progress
from lakefeed.transfer.unpacking import import_archives
from tests.transfer.test_unpacking import archive, member, take


def test_each_pack_is_counted_once(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_BIG_BYTES", 2 << 20)
    big = bytes(3 << 20)
    report = take(lake, tmp_path, archive(member("a", big), member("b", b"b"), member("c", big)))
    assert report.packs == len(lake.snapshot().state.packs) == 3


def test_progress_ends_with_the_sum(lake: Lake, tmp_path: Path) -> None:
    take(lake, tmp_path, archive(member("there", b"12")))
    (tmp_path / "x.tar").write_bytes(
        archive(member("there", b"12"), member("new", b"345"), member("../out", b""))
    )
    told: list[Progress] = []
    report = import_archives(lake, [tmp_path / "x.tar"], progress=told.append)
    assert told[-1] == Progress(report.files, report.bytes, report.skipped, report.errors)
    assert told[-1] == Progress(files=1, bytes=3, skipped=1, errors=1)
