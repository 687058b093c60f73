"""One lake looked after: its lease, its inboxes, its jobs. Runs on the event loop, never blocks it.

- Who holds the lease works, the other replicas wait (`leading`).
- Each inbox is walked in a loop of its own; compaction, index merges, garbage collection and
  verification take turns in another, so a long compaction does not keep files waiting. A third one
  looks at the lake, so that none of them hides for hours how it is.
- Every failure of a job is told and tried again later; none ends the daemon, not even one that is a
  mistake of ours: its traceback is logged, and the other jobs and lakes go on.

Blocking work runs on daemon threads (`threads`, `inbox`), so a volume that hangs holds up this lake
alone. Safe with any number of replicas: see `ingest` and the commit protocol.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from lakefeed.errors import Conflict, LakefeedError
from lakefeed.format.commit import State
from lakefeed.lake.lake import Lake
from lakefeed.lake.scrub import known_damage
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service.inbox import Backlog, Inbox
from lakefeed.service.ingest import Outcome
from lakefeed.service.jobs import (
    MERGE_FROM,
    Rare,
    done_at,
    in_window,
    merge_rows,
    rest_seconds,
    run_collection,
    run_compaction,
    run_scrub,
)
from lakefeed.service.leading import Leadership
from lakefeed.service.options import InboxOptions, LakeOptions, ServiceOptions
from lakefeed.service.status import LakeStatus
from lakefeed.service.telling import Teller, inbox_job
from lakefeed.service.threads import Guard, Stopped, in_thread
from lakefeed.volume.base import Space
from lakefeed.volume.deadline import posix_volume

# After a failure the next try waits at least so long, so that a sick volume is not hammered.
RETRY_SECONDS = 5.0
# Between two looks into an inbox in which nothing was due.
POLL_SECONDS = 1.0

T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Due:
    """When to look next, by the monotonic clock, whether the lake says that a job is due."""

    gc: float = 0.0
    scrub: float = 0.0


def _rare(options: ServiceOptions) -> Iterator[Rare]:
    """Yield the jobs of which the lake says when they were last done."""
    if options.gc_interval_seconds:
        yield "gc"
    if options.scrub_interval_seconds:
        yield "scrub"


class Keeper:
    """Looks after one lake until it is stopped."""

    def __init__(
        self, place: LakeOptions, options: ServiceOptions, metrics: CompactorMetrics
    ) -> None:
        self._place = place
        self._options = options
        directories = [inbox.directory for inbox in place.inboxes]
        # These are overdue when they have not ended well for long.
        watched = ("compaction", *_rare(options))
        self._teller = Teller(place.path, metrics, directories, watched)
        self._guard = Guard()
        self._stop = asyncio.Event()
        self._backlogs: dict[str, Backlog] = {}
        self._leadership: Leadership | None = None
        # Runs of compaction that ended well in this window, and whether the last one had none.
        self._ended_well = 0
        self._fruitless = False

    @property
    def status(self) -> LakeStatus:
        """What is known of the lake, without asking its volume."""
        return self._teller.status

    def stop(self) -> None:
        """Ask everything to end soon: what is committed is finished, all else given up."""
        self._guard.stop()
        self._stop.set()
        if self._leadership is not None:
            self._leadership.held.set()

    # -- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped; return once the lease is given up."""
        lake = await self._opened()
        if lake is None:
            return
        leading = Leadership(lake, self._options.name, self._guard, self._teller)
        self._leadership = leading
        loops = [leading.run(self._options.lease_seconds, self._pause)]
        loops += [self._housekeep(lake, leading), self._observe(lake, leading), self._measure(lake)]
        loops += [self._watch(lake, leading, inbox) for inbox in self._place.inboxes]
        try:
            await asyncio.gather(*loops)
        finally:
            await leading.release()

    async def run_once(self) -> bool:
        """Do everything that is due once; False when another replica holds the lease.

        What fails keeps nothing else from being done; the first error is raised in the end.
        """
        lake = await self._open()
        leading = Leadership(lake, self._options.name, self._guard, self._teller)
        self._leadership = leading
        if not await leading.take(self._options.lease_seconds):
            return False
        holding = asyncio.create_task(leading.run(self._options.lease_seconds, self._pause))
        failures: list[LakefeedError] = []
        try:
            for options in self._place.inboxes:
                failures += await self._drain(lake, options)
            failures += await self._finish("compaction", lambda: self._compact_all(lake))
            failures += await self._finish("merge", lambda: self._merge(lake, 2))
            if self._options.gc_interval_seconds:
                failures += await self._finish("gc", lambda: self._collect(lake, orphans=True))
            failures += await self._finish("look", lambda: self._look(lake))
        finally:
            self.stop()
            await holding
            await leading.release()
        if failures:
            raise failures[0]
        return True

    async def _finish(self, job: str, work: Callable[[], Awaitable[None]]) -> list[LakefeedError]:
        """Do a job to its end, or to that of its window; return what kept it from being done."""
        try:
            await work()
        except Stopped as stopped:
            if not self._guard.allowed:
                raise
            self._teller.ended_early(job, str(stopped))
        except LakefeedError as error:
            self._teller.failure(job, error)
            return [error]
        else:
            self._teller.success(job)
        return []

    async def _opened(self) -> Lake | None:
        """Return the lake, however long its volume takes to come up; None when stopped."""
        while not self._stop.is_set():
            try:
                return await self._open()
            except LakefeedError as error:
                self._teller.problem(str(error))
            await self._pause(RETRY_SECONDS)
        return None

    async def _open(self) -> Lake:
        volume = posix_volume(self._place.path, self._options.timeout_seconds)
        lake = await in_thread("open", lambda: Lake.open(volume))
        self.status.opened = True
        self._teller.problem("")
        return lake

    async def _pause(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # -- inboxes ---------------------------------------------------------------------------------

    async def _watch(self, lake: Lake, leading: Leadership, options: InboxOptions) -> None:
        """Take in what arrives, for as long as this replica has the lease."""
        job = inbox_job(options.directory)
        inbox = self._inbox(lake, options, job)
        try:
            while not self._stop.is_set():
                await leading.held.wait()
                if self._stop.is_set():
                    return
                took = await self._attempt(job, inbox.run)
                self._note(options, inbox)
                if not took:
                    await self._pause(RETRY_SECONDS if took is None else POLL_SECONDS)
        finally:
            inbox.close()

    async def _drain(self, lake: Lake, options: InboxOptions) -> list[LakefeedError]:
        """Take in all that is complete; return what kept it from being done, if anything did."""
        job = inbox_job(options.directory)
        inbox = self._inbox(lake, options, job)
        try:
            while await inbox.run(everything=True):
                _logger.debug("more may have arrived in %s", options.directory)
            self._note(options, inbox)
        except LakefeedError as error:
            self._teller.failure(job, error)
            return [error]
        finally:
            inbox.close()
        self._teller.success(job)
        return []

    def _inbox(self, lake: Lake, options: InboxOptions, job: str) -> Inbox:
        def report(outcome: Outcome) -> None:
            # A walk over a million files ends well only hours later.
            self._teller.advance(job)
            self._teller.packed(outcome)

        return Inbox(lake, options, self._guard, report)

    def _note(self, options: InboxOptions, inbox: Inbox) -> None:
        if not self.status.leader:
            self._backlogs.clear()
            return
        self._backlogs[options.directory] = inbox.backlog
        self._teller.waiting(self._backlogs.values())

    # -- jobs ------------------------------------------------------------------------------------

    async def _housekeep(self, lake: Lake, leading: Leadership) -> None:
        """Let the jobs take turns."""
        options = self._options
        due = _Due()
        while not self._stop.is_set():
            await leading.held.wait()
            if self._stop.is_set():
                return
            more = await self._compact_in_time(lake)
            await self._attempt("merge", lambda: self._merge(lake, MERGE_FROM))
            await self._do_due(lake, due)
            if not more:
                await self._pause(options.interval_seconds)

    async def _observe(self, lake: Lake, leading: Leadership) -> None:
        """Tell all the time how the lake is."""
        while not self._stop.is_set():
            await leading.held.wait()
            if self._stop.is_set():
                return
            await self._attempt("look", lambda: self._look(lake))
            await self._pause(self._options.interval_seconds)

    async def _measure(self, lake: Lake) -> None:
        """Tell all the time how much room there is, without the lease, too: a full volume gives
        nobody one. What else is wrong with the volume is told by whoever asks for the lease."""
        while not self._stop.is_set():
            asked = asyncio.create_task(in_thread("room", lake.volume.space))
            done, _ = await asyncio.wait({asked}, timeout=self._options.lease_seconds)
            if not done:
                self._teller.room(None)
            try:
                self._teller.room(await asked)
            except LakefeedError:
                self._teller.room(None)
            await self._pause(self._options.interval_seconds)

    async def _do_due(self, lake: Lake, due: _Due) -> None:
        options = self._options
        if options.gc_interval_seconds and time.monotonic() >= due.gc:
            rest = await self._rest(lake, "gc")
            if rest == 0.0:
                sweep = await self._rest(lake, "sweep") == 0.0
                await self._attempt("gc", lambda: self._collect(lake, orphans=sweep))
                rest = options.gc_interval_seconds
            due.gc = time.monotonic() + (rest or 0.0)
        if options.scrub_interval_seconds and time.monotonic() >= due.scrub:
            rest = await self._rest(lake, "scrub")
            if rest == 0.0:
                await self._attempt("scrub", lambda: self._scrub(lake))
                rest = options.scrub_interval_seconds
            due.scrub = time.monotonic() + (rest or 0.0)

    async def _rest(self, lake: Lake, job: Rare) -> float | None:
        """Return how long a job need not be done yet, None when the lake does not say."""
        options = self._options

        async def ask() -> float:
            return await in_thread("look", lambda: rest_seconds(lake, job, options))

        return await self._attempt("look", ask)

    async def _attempt(self, job: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """Return what a job returns, None when it failed: that is told, and tried again."""
        self.status.begin(job)
        try:
            result = await work()
        except Stopped as stopped:
            self._teller.ended_early(job, str(stopped))
            return None
        except Conflict as error:
            self._teller.conflict(job, str(error))
            return None
        except Exception as error:  # noqa: BLE001 - our mistake in one lake must not end the others
            self._teller.failure(job, error)
            return None
        finally:
            self.status.end(job)
        self._teller.success(job)
        return result

    async def _compact_in_time(self, lake: Lake) -> bool:
        """Run compaction once, in its window; True when more is left. To wait for the window is
        fine, unless the last one closed before any run had ended: then none may ever do."""
        if in_window(self._options):
            return bool(await self._attempt("compaction", lambda: self._compact(lake)))
        self._ended_well = 0
        if not self._fruitless:
            self._teller.success("compaction")
        return False

    async def _compact(self, lake: Lake) -> bool:
        if not in_window(self._options):
            return False
        options, guard = self._options, self._guard
        try:
            done = await in_thread("compact", lambda: run_compaction(lake, options, guard))
        except Exception as error:
            # Who was stopped in the middle of a window might have ended well.
            if not isinstance(error, Stopped) or not in_window(options):
                self._fruitless = not self._ended_well
            raise
        self._ended_well += 1
        self._fruitless = False
        self._teller.compacted(done)
        return done.left > 0

    async def _compact_all(self, lake: Lake) -> None:
        while await self._compact(lake):
            _logger.debug("more is worth compacting in %s", self._place.path)

    async def _merge(self, lake: Lake, least: int) -> None:
        self._teller.moved(0, await in_thread("merge", lambda: merge_rows(lake, least)))

    async def _collect(self, lake: Lake, *, orphans: bool) -> None:
        options, guard = self._options, self._guard
        collected, left_bytes = await in_thread(
            "gc", lambda: run_collection(lake, options, guard, orphans)
        )
        self._teller.collected(collected, left_bytes)

    async def _scrub(self, lake: Lake) -> None:
        options, guard = self._options, self._guard
        self._teller.scrubbed(await in_thread("scrub", lambda: run_scrub(lake, options, guard)))

    async def _look(self, lake: Lake) -> None:
        def work() -> tuple[State, Space, int, dict[Rare, tuple[float, bool] | None]]:
            # Damage too: verification may run elsewhere, and leaves its notes on the volume.
            done = {job: done_at(lake, job) for job in _rare(self._options)}
            return lake.log.head(), lake.volume.space(), len(known_damage(lake)), done

        state, space, damaged, done = await in_thread("look", work)
        self._teller.looked(state, space, damaged)
        for job, known in done.items():
            if known is not None:
                self._teller.noted(job, *known)
