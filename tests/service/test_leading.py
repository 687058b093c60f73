"""Who has the lease knows when it is over, and who cannot ask for it says so."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.lake.lake import Lake
from lakefeed.lake.leases import Lease
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service import leading
from lakefeed.service.leading import Leadership
from lakefeed.service.telling import Teller
from lakefeed.service.threads import Guard, in_thread
from lakefeed.volume.memory import MemoryVolume

LEASE_SECONDS = 0.05


class Leases:
    """Leases of a volume that answers when it is let."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def acquire(self, name: str, holder: str, lifetime_seconds: float) -> Lease:
        assert self.answers.wait(60.0)
        return Lease(name, holder, 1, 0)

    def renew(self, lease: Lease, lifetime_seconds: float) -> Lease:
        return self.acquire(lease.name, lease.holder, lifetime_seconds)


def made() -> tuple[Leadership, Leases, Teller, Guard]:
    leases, guard, teller = Leases(), Guard(), Teller("lake", CompactorMetrics())
    lake: Any = SimpleNamespace(name="lake", leases=leases)
    return Leadership(lake, "us", guard, teller), leases, teller, guard


async def until(fact: Callable[[], object]) -> None:
    async def look() -> None:
        while not fact():
            await asyncio.sleep(0)

    await asyncio.wait_for(look(), 60.0)


@pytest.mark.parametrize("held", [True, False])
def test_a_volume_that_does_not_answer_is_a_problem_until_it_does(held: bool) -> None:
    ours, leases, teller, guard = made()

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    async def story() -> None:
        running = asyncio.create_task(ours.run(LEASE_SECONDS, pause))
        teller.status.opened = True
        if held:
            leases.answers.set()
            await until(lambda: teller.status.leader)
            leases.answers.clear()
        await until(lambda: not teller.status.ready)
        assert "lease compactor of lake: the volume does not answer" in teller.status.problem
        assert not teller.status.leader
        leases.answers.set()
        await until(lambda: teller.status.ready and teller.status.leader)
        guard.stop()
        await running

    asyncio.run(story())


def test_a_lease_that_was_got_too_late_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, leases, teller, guard = made()
    leases.answers.set()
    clock = iter((100.0, 100.0 + 2 * LEASE_SECONDS))
    monkeypatch.setattr(leading, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    asyncio.run(ours.take(LEASE_SECONDS))
    assert not (guard.allowed or teller.status.leader or ours.held.is_set())


def test_a_lease_that_went_to_somebody_is_given_up_and_asked_for_again() -> None:
    clock = SimpleNamespace(now_ns=1_700_000_000 * 10**9)
    with Lake.create(MemoryVolume(clock_ns=lambda: clock.now_ns)) as lake:
        guard, teller = Guard(), Teller("lake", CompactorMetrics())
        ours = Leadership(lake, "us", guard, teller)

        async def story() -> None:
            assert await ours.take(60)
            assert guard.allowed
            clock.now_ns += 60 * 10**9
            theirs = lake.leases.acquire(leading.LEASE, "them", 60)
            for _ in range(2):
                assert not await ours.take(60)
                assert not (guard.allowed or teller.status.leader or ours.held.is_set())
            lake.leases.release(theirs)
            assert await ours.take(60)
            assert guard.allowed
            assert ours.held.is_set()

        asyncio.run(story())


@pytest.mark.parametrize("over", [True, False])
def test_a_volume_that_fails_takes_the_lease_away_once_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    ours, leases, _, guard = made()
    leases.answers.set()
    now = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(leading, "time", now)

    def failing(*args: object) -> Lease:
        raise VolumeFailed("lease", errno=errno.EIO)

    async def story() -> None:
        await ours.take(60)
        monkeypatch.setattr(leases, "renew", failing)
        monkeypatch.setattr(now, "monotonic", lambda: 160.0 if over else 159.0)
        await ours._attempt(60)
        assert guard.allowed is not over
        assert ours.held.is_set() is not over

    asyncio.run(story())


def test_a_volume_that_fails_is_not_said_to_be_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full volume answers at once. Each try tells the same, so the log has it once."""
    caplog.set_level(logging.INFO)
    ours, leases, teller, guard = made()
    leases.answers.set()
    now = SimpleNamespace(monotonic=lambda: now.seconds, seconds=100.0)
    monkeypatch.setattr(leading, "time", now)

    def failing(*args: object) -> Lease:
        raise VolumeFailed("write to tmp/00", errno=errno.ENOSPC, found="no space left")

    async def pause(seconds: float) -> None:
        monkeypatch.setattr(leases, "renew", failing)
        monkeypatch.setattr(leases, "acquire", failing)
        now.seconds += seconds
        if now.seconds > 300:
            guard.stop()

    asyncio.run(ours.run(60, pause))
    assert not (teller.status.leader or ours.held.is_set())
    assert "no space left" in teller.status.problem
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3, said  # the lease, the failure, no lease
    assert "does not answer" not in caplog.text


def test_a_call_that_hangs_keeps_no_process_from_ending() -> None:
    async def story() -> bool:
        return await in_thread("look", lambda: threading.current_thread().daemon)

    assert asyncio.run(story())
