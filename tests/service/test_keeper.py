"""What happens to one lake is told of that lake, and ends neither its other jobs nor the others."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service import inbox, telling, waiting
from lakefeed.service import keeper as keeping
from lakefeed.service.inbox import Backlog
from lakefeed.service.jobs import CompactionDone
from lakefeed.service.keeper import Keeper
from lakefeed.service.leading import LEASE
from lakefeed.service.options import InboxOptions, LakeOptions, ServiceOptions
from lakefeed.service.telling import Teller, inbox_job
from lakefeed.service.waiting import Candidate, Rules, Walk
from lakefeed.volume.base import Space
from lakefeed.volume.posix import PosixVolume
from tests.service.tools import drop, run_once, service


def keeper(path: Path) -> Keeper:
    lake = LakeOptions(str(path), (InboxOptions("/a"),))
    return Keeper(lake, ServiceOptions((lake,), "test"), CompactorMetrics())


@pytest.mark.parametrize("error", [VolumeFailed("pack"), OverflowError("too big")])
def test_a_job_that_fails_is_told_and_whoever_runs_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    made = keeper(tmp_path)

    async def work() -> int:
        raise error

    for _ in range(2):
        assert asyncio.run(made._attempt("gc", work)) is None
    assert type(error).__name__ in made.status.last_failure["gc"]
    assert caplog.text.count("gc failed") == 1
    assert ("Traceback" in caplog.text) is isinstance(error, OverflowError)


def test_a_job_that_ends_does_not_hide_the_one_beside_it(tmp_path: Path) -> None:
    made = keeper(tmp_path)
    shown: list[str] = []

    async def story() -> None:
        copied = asyncio.Event()

        async def compaction() -> None:
            await copied.wait()

        async def walk() -> None:
            shown.append(made.status.facts()["job"])

        long = asyncio.create_task(made._attempt("compaction", compaction))
        await asyncio.sleep(0)
        await made._attempt("inbox /a", walk)
        shown.append(made.status.facts()["job"])
        copied.set()
        await long

    asyncio.run(story())
    assert shown == ["compaction, inbox /a", "compaction"]
    assert made.status.facts()["job"] == ""


def test_a_job_that_takes_long_does_not_hide_how_the_lake_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def compacting(*args: object) -> CompactionDone:
        assert ended.wait(60.0)
        return CompactionDone("nothing")

    monkeypatch.setattr(keeping, "run_compaction", compacting)
    with service(tmp_path) as other, other.lake.writer() as writer:
        writer.put("a", b"1").wait()
        lake = LakeOptions(other.lake.name)
        made = Keeper(lake, ServiceOptions((lake,), "us"), CompactorMetrics())

        async def looked() -> None:
            while not made.status.packs:
                await asyncio.sleep(0)

        async def story() -> None:
            running = asyncio.create_task(made.run())
            await asyncio.wait_for(looked(), 60.0)
            assert "compaction" in made.status.jobs
            assert "look" in made.status.last_success
            ended.set()
            made.stop()
            await running

        asyncio.run(story())


def test_how_much_room_there_is_is_told_without_the_lease_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full volume takes no lease: if the leader alone told, the alert would end there."""
    room = [Space(1 << 30, 0)]

    def space(volume: PosixVolume) -> Space:
        if not room:
            raise VolumeFailed(volume.name)
        return room[0]

    monkeypatch.setattr(PosixVolume, "space", space)
    metrics = CompactorMetrics()
    with service(tmp_path) as other:
        path = other.lake.name
        other.lake.leases.acquire(LEASE, "them", 600.0)
        lake = LakeOptions(path)
        made = Keeper(lake, ServiceOptions((lake,), "us", interval_seconds=0.001), metrics)

        async def tells(free_bytes: float | None) -> None:
            name = "lakefeed_volume_free_bytes"
            while metrics.registry.get_sample_value(name, {"lake": path}) != free_bytes:
                await asyncio.sleep(0)

        async def story() -> None:
            running = asyncio.create_task(made.run())
            await asyncio.wait_for(tells(0.0), 60.0)
            assert not made.status.leader
            room.clear()
            await asyncio.wait_for(tells(None), 60.0)
            room.append(Space(1 << 30, 7))
            await asyncio.wait_for(tells(7.0), 60.0)
            made.stop()
            await running

        asyncio.run(story())


def value(metrics: CompactorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"lakefeed_compactor_{name}", labels)


def test_an_inbox_that_fails_shows_beside_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(telling, "time", SimpleNamespace(time=lambda: now[0]))
    metrics = CompactorMetrics()
    teller = Teller("lake", metrics, ["/a", "/b"])
    teller.leads(True, "us", 1)
    now[0] = 200.0
    teller.failure(inbox_job("/b"), VolumeFailed("/b"))
    teller.success(inbox_job("/a"))
    assert [*teller.status.last_failure] == ["inbox /b"]
    last = "last_success_timestamp_seconds"
    assert value(metrics, last, lake="lake", task="inbox") == 100.0
    now[0] = 300.0
    teller.advance(inbox_job("/b"))
    assert value(metrics, last, lake="lake", task="inbox") == 200.0


@pytest.mark.parametrize(
    ("intervals", "watched"),
    [((60.0, 60.0), {"compaction", "gc", "scrub"}), ((0.0, 0.0), {"compaction"})],
)
def test_a_job_that_never_ended_well_is_late_from_when_the_lease_was_got(
    monkeypatch: pytest.MonkeyPatch, intervals: tuple[float, float], watched: set[str]
) -> None:
    now, metrics = [100.0], CompactorMetrics()
    monkeypatch.setattr(telling, "time", SimpleNamespace(time=lambda: now[0]))
    place = LakeOptions("lake")
    gc, scrub = intervals
    options = ServiceOptions((place,), "us", gc_interval_seconds=gc, scrub_interval_seconds=scrub)
    teller = Keeper(place, options, metrics)._teller

    def last() -> dict[str, float | None]:
        name = "last_success_timestamp_seconds"
        every = ("compaction", "gc", "scrub")
        return {task: value(metrics, name, lake="lake", task=task) for task in every}

    assert {*last().values()} == {None}  # whoever has no lease does nothing, and is not late
    teller.leads(True, "us", 1)
    assert last() == {task: 100.0 if task in watched else None for task in last()}
    now[0] = 200.0
    teller.success("compaction")
    teller.failure("gc", VolumeFailed("pack"))
    for held in (False, True):
        now[0] += 100.0
        teller.leads(held, "us", 2)
    assert last()["compaction"] == 200.0
    assert last()["gc"] == (100.0 if "gc" in watched else None)


def test_what_waits_is_told_by_the_leader_alone() -> None:
    metrics = CompactorMetrics()
    teller = Teller("lake", metrics)
    teller.leads(True, "us", 1)
    teller.waiting([Backlog(2, 10, 5.0), Backlog(1, 1, 7.0)])
    assert value(metrics, "ingest_lag_seconds", lake="lake") == 7.0
    teller.leads(False, "them", 0)
    assert (teller.status.backlog_files, teller.status.ingest_lag_seconds) == (0, 0.0)
    assert value(metrics, "backlog_files", lake="lake") == 0.0
    assert value(metrics, "ingest_lag_seconds", lake="lake") == 0.0


def test_a_walk_that_fails_after_the_lease_is_lost_tells_no_backlog(tmp_path: Path) -> None:
    made = keeper(tmp_path / "lake")
    with service(tmp_path, quiet_seconds=3600.0) as other:
        (other.root / "fresh").write_bytes(b"1")
        box = other.inbox()
        run_once(box)
        made._teller.leads(True, "us", 1)
        made._note(InboxOptions("/a"), box)
        assert made.status.backlog_files == 1
        made._teller.leads(False, "them", 0)
        made._note(InboxOptions("/a"), box)
        assert made.status.backlog_files == 0


def test_files_that_wait_grow_older_while_walks_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(inbox, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with service(tmp_path, pack_age_seconds=1e12) as made:
        drop(made.root, "a", b"12")
        box = made.inbox()

        async def story() -> None:
            await box.run()
            before = box.backlog
            assert (before.files, before.bytes) == (1, 2)
            monkeypatch.setattr(Walk, "next_slice", failing)
            clock[0] += 60.0
            with pytest.raises(VolumeFailed):
                await box.run()
            assert box.backlog.files == 1
            assert box.backlog.oldest_seconds - before.oldest_seconds == pytest.approx(60.0)

        asyncio.run(story())
        box.close()


def test_what_was_taken_does_not_make_older_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, day_ns = [1000.0], 24 * 3600 * 10**9
    judge, step = waiting.judge, Walk.next_slice

    def judged(path: str, info: os.stat_result, rules: Rules) -> object:
        file, complete = judge(path, info, rules)
        assert isinstance(file, Candidate)
        return file._replace(ctime_ns=file.ctime_ns - day_ns * (path == "old")), complete

    def slow(walk: Walk) -> object:
        clock[0] += 3600.0
        return step(walk)

    monkeypatch.setattr(inbox, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(waiting, "judge", judged)
    monkeypatch.setattr(Walk, "next_slice", slow)
    with service(tmp_path, quiet_seconds=3600.0) as made:
        drop(made.root, "old", b"12")
        (made.root / "fresh").write_bytes(b"3")
        box = made.inbox()
        assert run_once(box) == 1
        assert (box.backlog.files, box.backlog.bytes) == (1, 1)
        took_seconds = clock[0] - 1000.0
        assert took_seconds <= box.backlog.oldest_seconds < took_seconds + 3600.0


def failing(walk: Walk) -> None:
    raise OSError(5, "Input/output error")
