"""The daemon: one keeper for each lake, one HTTP server, one way to end.

`run` works until SIGTERM or SIGINT, `run_once` does what is due and ends. At the end every keeper
gives up what it has not committed, finishes what it has, and hands its lease over. What does not
end in time (a volume that hangs) is left behind: its threads are daemons, nothing of it was
acknowledged, and the next one recovers. `abandoned` then says that the process should not wait for
them.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from lakefeed.errors import LakefeedError
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service.http import Endpoints
from lakefeed.service.keeper import Keeper
from lakefeed.service.options import ServiceOptions
from lakefeed.service.threads import Stopped

# Kubernetes kills 30 seconds after it asked.
GRACE_SECONDS = 25.0

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Ran:
    """How a daemon ended. `skipped` lakes were another replica's; `failures` by lake.

    `stopped` lakes were not done when `signal` asked to end.
    """

    skipped: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    signal: int | None = None
    failures: dict[str, LakefeedError] = field(default_factory=dict)
    abandoned: bool = False
    lakes: list[dict[str, Any]] = field(default_factory=list)


class Daemon:
    """Looks after lakes. One use."""

    def __init__(self, options: ServiceOptions) -> None:
        self._options = options
        self._metrics = CompactorMetrics()
        self._keepers: list[Keeper] = []
        self._ran = Ran()
        self._bug: Exception | None = None

    def _facts(self) -> list[dict[str, Any]]:
        return [keeper.status.facts() for keeper in self._keepers]

    async def run(self) -> Ran:
        """Work until a signal asks to end."""
        return await self._run(listen=True, once=False)

    async def run_once(self) -> Ran:
        """Do what is due for every lake, side by side, and end; a signal ends it early."""
        return await self._run(listen=False, once=True)

    async def _run(self, *, listen: bool, once: bool) -> Ran:
        options = self._options
        self._keepers = [Keeper(lake, options, self._metrics) for lake in options.lakes]
        endpoints = Endpoints(options.name, self._metrics, self._facts)
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask, asked, number)
        try:
            if listen and options.listen is not None:
                host, port = await endpoints.open(*options.listen)
                _logger.info("listening on %s:%d", host, port, extra={"port": port})
            await self._work([self._once(k) if once else k.run() for k in self._keepers], asked)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await endpoints.close()
        if self._bug is not None:
            raise self._bug
        self._ran.lakes = self._facts()
        return self._ran

    def _ask(self, asked: asyncio.Event, number: int) -> None:
        self._ran.signal = number
        asked.set()

    async def _work(self, work: list[Coroutine[Any, Any, None]], asked: asyncio.Event) -> None:
        """Run the keepers until all end, or until `asked` and the time to end is over."""
        tasks = [asyncio.create_task(one) for one in work]
        signalled = asyncio.create_task(asked.wait())
        everything: asyncio.Future[Any] = asyncio.gather(*tasks)
        either: set[asyncio.Future[Any]] = {everything, signalled}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if not everything.done():
            _logger.info("asked to end")
            for keeper in self._keepers:
                keeper.stop()
            await asyncio.wait({everything}, timeout=GRACE_SECONDS)
        if everything.done():
            everything.result()
            return
        _logger.warning("ended with a volume that does not answer")
        self._ran.abandoned = True
        # That they were cancelled is no news: nobody is to be told of it when all are gone.
        everything.add_done_callback(lambda done: done.cancelled() or done.exception())
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)

    async def _once(self, keeper: Keeper) -> None:
        path = keeper.status.path
        try:
            if not await keeper.run_once():
                self._ran.skipped.append(path)
        except Stopped:
            # Asked to end, or too slow for the lease: what is left is for the next one.
            (self._ran.stopped if self._ran.signal else self._ran.skipped).append(path)
        except asyncio.CancelledError:
            self._ran.stopped.append(path)
            raise
        except LakefeedError as error:
            self._ran.failures[path] = error
        except Exception as error:  # noqa: BLE001 - raised as soon as the other lakes are done
            self._bug = error
