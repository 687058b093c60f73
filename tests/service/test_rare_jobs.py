"""What is done once a day is done once a day, however often daemons start and take turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.leases import Leases
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service import jobs, keeper
from lakefeed.service.keeper import Keeper
from lakefeed.service.options import LakeOptions, ServiceOptions

HOUR = 3600.0


class Story:
    """Daemons on one lake, one after the other, and what each of their looks did."""

    def __init__(self, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lake = lake
        self.fails = False
        self._hours = 0.0
        self._done: list[str] = []
        began_ns = time.time_ns()
        self.began = began_ns / 1e9

        def now_ns() -> int:
            return began_ns + int(self._hours * HOUR * 1e9)

        lake.leases = Leases(lake.volume, now_ns)
        monkeypatch.setattr(lake.refs, "server_time_ns", now_ns)
        monkeypatch.setattr(keeper, "run_collection", self._note(jobs.run_collection, "gc"))
        monkeypatch.setattr(keeper, "run_scrub", self._note(jobs.run_scrub, "scrub"))

    def _note(self, work: Callable[..., object], name: str) -> Callable[..., object]:
        def run(*args: object) -> object:
            if self.fails:
                raise VolumeFailed(name)
            self._done.append("sweep" if args[-1] is True else name)
            return work(*args)

        return run

    def damage(self) -> None:
        """Let what the lake says of its rare jobs be torn."""
        for job in ("gc", "sweep", "scrub"):
            Path(self.lake.name, layout.lease_path(job)).write_bytes(b"torn")

    def look(
        self, hours: float, daemon: str = "us", *, every: float = 24.0, collects: float = 1.0
    ) -> list[str]:
        """Let a daemon that starts then do what is due."""
        self._hours = hours
        self._done.clear()
        place = LakeOptions(self.lake.name)
        options = ServiceOptions((place,), daemon, gc_interval_seconds=collects * HOUR,
                                 scrub_interval_seconds=every * HOUR)  # fmt: skip
        made = Keeper(place, options, CompactorMetrics())
        asyncio.run(made._do_due(self.lake, keeper._Due()))
        return [*self._done]


def test_daemons_that_live_for_hours_do_what_is_due_once_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        story = Story(lake, monkeypatch)
        assert story.look(0.0) == []  # a young lake
        assert story.look(1.0) == ["gc"]
        assert story.look(20.0, "other") == ["gc"]
        assert story.look(25.0, "other") == ["sweep", "scrub"]
        assert story.look(26.0) == ["gc"]
        assert story.look(48.0) == ["gc"]
        story.fails = True
        assert story.look(50.0) == []
        story.fails = False
        assert story.look(51.0) == ["sweep", "scrub"]


def test_daemons_that_live_for_hours_collect_garbage_once_a_day_if_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        story = Story(lake, monkeypatch)
        done = {hours: story.look(hours, every=0.0, collects=24.0)
                for hours in (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)}  # fmt: skip
    assert done == {0.0: [], 20.0: [], 40.0: ["gc"], 60.0: [], 80.0: ["sweep"], 100.0: []}


def test_an_interval_that_changes_counts_from_when_the_job_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        story = Story(lake, monkeypatch)
        assert story.look(0.0, every=1e9) == []  # as good as never
        assert story.look(1.0, "other", every=2.0) == ["gc"]
        assert story.look(2.0, "other", every=2.0) == ["gc", "scrub"]
        assert story.look(20.0, every=19.0) == ["gc"]
        assert story.look(21.0, every=19.0) == ["gc", "scrub"]
        assert story.look(4.0, "other") == ["gc", "scrub"]  # the clock was a day ahead


def test_a_damaged_note_ends_neither_verification_nor_the_pass_over_all_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        story = Story(lake, monkeypatch)
        assert story.look(0.0) == []
        assert story.look(1.0) == ["gc"]
        story.damage()
        assert story.look(25.0) == ["sweep", "scrub"]
        assert story.look(26.0) == ["gc"]


def test_a_replica_that_takes_over_tells_what_others_have_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        story = Story(lake, monkeypatch)
        place = LakeOptions(lake.name)
        metrics = CompactorMetrics()
        made = Keeper(place, ServiceOptions((place,), "us"), metrics)

        def last(task: str) -> float:
            name = "lakefeed_compactor_last_success_timestamp_seconds"
            found = metrics.registry.get_sample_value(name, {"lake": lake.name, "task": task})
            assert found is not None
            return found

        made._teller.leads(True, "us", 1)
        story.look(-60.0)
        asyncio.run(made._look(lake))  # nobody has done anything, and that is known to the next one
        assert last("scrub") == pytest.approx(story.began - 60.0 * HOUR, abs=1.0)
        assert "scrub" not in made.status.last_success
        assert "scrub" in story.look(-30.0, "other")
        asyncio.run(made._look(lake))
        assert last("scrub") == pytest.approx(story.began - 30.0 * HOUR, abs=1.0)
        assert made.status.last_success["scrub"] == last("scrub")
        assert "scrub" in story.look(1.0, "other")  # by a clock that is wrong
        asyncio.run(made._look(lake))
        assert story.began <= last("scrub") <= time.time()


def test_a_clock_that_was_wrong_is_wrong_until_the_job_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        story = Story(lake, monkeypatch)
        assert story.look(999.0) == []
        assert "scrub" in story.look(9999.0, "other")
        assert story.look(1.0) == ["sweep", "scrub"]
        assert story.look(1.5) == []
        done = jobs.done_at(lake, "scrub")
        assert done is not None
        assert done[0] == pytest.approx(story.began + HOUR, abs=1.0)
