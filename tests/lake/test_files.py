"""How many packs stay open, and that none does for good."""

from __future__ import annotations

import resource

import pytest

from lakefeed.lake.files import OpenFiles, open_files_max
from lakefeed.volume.base import write_file
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.metered import Meter, MeteredReadableFile, MeteredVolume


@pytest.mark.parametrize(
    ("soft", "expected"),
    [(256, 256), (1024, 256), (65_536, 4096), (1 << 20, 8192), (resource.RLIM_INFINITY, 8192)],
)
def test_more_packs_stay_open_where_the_process_may_have_more(
    monkeypatch: pytest.MonkeyPatch, soft: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert open_files_max() == expected


class SlowToOpen(MeteredVolume):
    """Whoever lends its files closes them all while one is being opened."""

    lender: OpenFiles | None = None

    def open(self, path: str) -> MeteredReadableFile:
        file = super().open(path)
        if self.lender is not None:
            self.lender.close()
        return file


def test_what_is_asked_for_when_all_are_closed_is_not_kept_open() -> None:
    volume = SlowToOpen(MemoryVolume(), Meter())
    write_file(volume, "file", b"bytes")
    files = OpenFiles(volume)
    assert files.read("file", lambda file: file.read_at(0, 5)) == b"bytes"
    files.forget("file")
    volume.lender = files
    for _ in range(2):  # closed in the middle of opening, closed before
        assert files.read("file", lambda file: file.read_at(0, 5)) == b"bytes"
        assert not files.is_open("file")
    readings = volume.meter.readings()
    assert readings["open"].calls == 3
    assert readings["close"].calls == 3 + 1  # of what was written
