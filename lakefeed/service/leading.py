"""Having the lease of a lake, and knowing in time when it is gone.

The lease is asked for three times within its life. While the server is silent nobody can say who
has it, so it counts as lost once its time is over by the local clock, counted from before the last
call that was answered; work that asks its guard ends then. Runs on the event loop.

Whoever asks has a name of its own, whatever the replica is called: two that were given one name
would both be the holder.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from lakefeed.errors import Conflict, LakefeedError
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.lake.leases import Lease
from lakefeed.service.telling import Teller
from lakefeed.service.threads import Guard, in_thread

LEASE = "compactor"
_SILENT = "the volume does not answer"
_LATE = "it could not be prolonged in time"
# Digits enough to tell apart the few replicas that ever run at one time under one name.
_MARK = 8
_logger = logging.getLogger(__name__)


class Leadership:
    """The lease of one lake: `held` is set while it is ours."""

    def __init__(self, lake: Lake, name: str, guard: Guard, teller: Teller) -> None:
        self._lake = lake
        self._holder = f"{name}/{layout.new_id()[:_MARK]}"
        self._guard = guard
        self._teller = teller
        self._lease: Lease | None = None
        self._deadline = 0.0
        self.held = asyncio.Event()

    async def run(self, lease_seconds: float, pause: Callable[[float], Awaitable[None]]) -> None:
        """Have the lease whenever it can be had, until the guard stops; `pause` may end early."""
        while not self._guard.stopping:
            left_seconds = self._deadline - time.monotonic()
            if self.held.is_set() and left_seconds <= 0:
                # What kept it from being prolonged was told by then: silence is another trouble.
                self._set(False, _LATE)
            attempt = asyncio.create_task(self._attempt(lease_seconds))
            patience = left_seconds if self.held.is_set() else lease_seconds
            done, _ = await asyncio.wait({attempt}, timeout=patience)
            if not done:
                self._teller.problem(f"lease {LEASE} of {self._lake.name}: {_SILENT}")
                self._set(False, _SILENT)
            await attempt
            await pause(lease_seconds / 3)

    async def _attempt(self, lease_seconds: float) -> None:
        try:
            await self.take(lease_seconds)
            self._teller.problem("")
        except LakefeedError as error:
            self._teller.problem(str(error))
            if time.monotonic() >= self._deadline:
                self._set(False, "the volume failed")

    async def take(self, lease_seconds: float) -> bool:
        """Try once to get or prolong the lease; tell whether it is ours."""
        lake, lease = self._lake, self._lease

        def work() -> Lease:
            if lease is not None:
                return lake.leases.renew(lease, lease_seconds)
            return lake.leases.acquire(LEASE, self._holder, lease_seconds)

        began = time.monotonic()
        try:
            self._lease = await in_thread("lease", work)
        except Conflict as error:
            self._lease = None
            self._set(False, str(error.found))
            return False
        # The server may have counted from any moment of the call.
        self._deadline = began + lease_seconds
        if time.monotonic() < self._deadline:
            self._set(not self._guard.stopping, self._holder)
        else:
            self._set(False, _SILENT)
        return True

    def _set(self, held: bool, holder: str) -> None:
        self._guard.allow(held)
        token = self._lease.token if self._lease is not None else 0
        self._teller.leads(held, holder, token)
        if held:
            self.held.set()
        else:
            self.held.clear()

    async def release(self) -> None:
        """Give the lease up, so that another replica need not wait."""
        lease, self._lease = self._lease, None
        self._guard.allow(False)
        if lease is not None:
            try:
                await in_thread("release", lambda: self._lake.leases.release(lease))
            except LakefeedError as error:
                _logger.warning("lease not given up, it runs out by itself: %s", error)
        self._set(False, "")
