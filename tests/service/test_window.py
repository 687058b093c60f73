"""Compaction in a window: a run begins with what it can finish, and one that never does is told."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import Conflict, VolumeFailed
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.repacking import CopyOptions
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service import jobs, keeper
from lakefeed.service.jobs import WINDOW_RUN_BYTES, CompactionDone, run_compaction
from lakefeed.service.keeper import Keeper
from lakefeed.service.options import LakeOptions, ServiceOptions
from lakefeed.service.threads import Guard, Stopped
from lakefeed.service.window import Window

NIGHT = Window.parse("22:00-06:00")


class At(datetime):
    """A clock that stands at two minutes before the window closes."""

    @classmethod
    def now(cls, tz: object = None) -> At:
        return cls(2026, 1, 1, 5, 58)


@pytest.mark.parametrize(
    ("rate", "most"), [(None, WINDOW_RUN_BYTES), (1e6, 60 * 10**6), (1e12, WINDOW_RUN_BYTES)]
)
def test_a_run_takes_on_what_it_can_finish_in_the_window(
    monkeypatch: pytest.MonkeyPatch, rate: float | None, most: int
) -> None:
    shares: list[CompactionOptions] = []

    def compact(lake: Lake, share: CompactionOptions, how: CopyOptions, go_on: object) -> None:
        shares.append(share)
        raise Conflict("compaction")

    monkeypatch.setattr(jobs, "compact", compact)
    monkeypatch.setattr(jobs, "datetime", At)
    monkeypatch.setattr(jobs, "_segment_bytes", lambda lake: 0)
    monkeypatch.setattr(jobs, "lower_priority", lambda: None)
    options = ServiceOptions((), "us", rate_bytes=rate, window=NIGHT)
    run_compaction(None, options, Guard())  # type: ignore[arg-type]
    assert [share.bytes_max for share in shares] == [most]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clocks that are put forward on March 29, 2026, at 2:00, and back on October 25 at 3:00."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("window", "now", "minutes"),
    [
        ("22:00-06:00", datetime(2026, 3, 28, 1, 0), 300),
        ("22:00-06:00", datetime(2026, 3, 29, 1, 0), 240),
        ("22:00-06:00", datetime(2026, 10, 25, 1, 0), 360),
        ("22:00-02:30", datetime(2026, 3, 29, 1, 50), 10),
        ("22:00-02:30", datetime(2026, 10, 25, 2, 0), 30),
        ("22:00-02:30", datetime(2026, 10, 25, 2, 0, fold=1), 30),
        ("22:00-06:00", datetime(2026, 3, 28, 6, 0), 0),
    ],
)
def test_a_window_is_as_long_as_the_clocks_that_are_changed_in_it(
    window: str, now: datetime, minutes: int
) -> None:
    assert Window.parse(window).left_seconds(now) == minutes * 60


@pytest.mark.parametrize("fails", [False, True])
def test_a_window_in_which_no_run_ends_well_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    place = LakeOptions(str(tmp_path / "lake"))
    made = Keeper(place, ServiceOptions((place,), "us", window=NIGHT), CompactorMetrics())
    is_open, ends_well = False, False

    def run(*args: object) -> CompactionDone:
        nonlocal is_open
        if ends_well:
            return CompactionDone("done")
        is_open = False
        if fails:
            raise VolumeFailed("pack", errno=errno.ENOSPC)
        raise Stopped("the time of day for compaction is over")

    monkeypatch.setattr(keeper, "in_window", lambda options: is_open)
    monkeypatch.setattr(keeper, "run_compaction", run)

    def told() -> bool:
        made.status.last_success.clear()
        asyncio.run(made._compact_in_time(lake))
        return "compaction" in made.status.last_success

    with Lake.create(tmp_path / "lake") as lake:
        assert told()  # it waits for its window
        is_open = True
        assert not told()  # the window ends it, or it fails
        assert not told()
        is_open, ends_well = True, True
        assert told()
        ends_well = False
        assert not told()  # this one does not end well, either; one before it did
        assert told()
