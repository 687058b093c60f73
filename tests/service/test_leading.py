"""Who has the lease knows when it is over, and who cannot ask for it says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed.lake.leases import Lease
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service import leading
from lakefeed.service.leading import Leadership
from lakefeed.service.telling import Teller
from lakefeed.service.threads import Guard

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
