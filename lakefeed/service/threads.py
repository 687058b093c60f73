"""Blocking work beside an event loop that must never block, and a way to ask it to end.

A volume whose server is gone blocks its callers in the kernel. So work runs on daemon threads of
its own: the loop goes on answering, other lakes go on working, and the process can still exit.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The work was asked to end: the daemon stops, or somebody else holds the lease."""


class Guard:
    """Tells work in threads whether to go on. Safe for threads."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._allowed = threading.Event()

    def stop(self) -> None:
        """End all work for good."""
        self._stopping.set()

    def allow(self, allowed: bool) -> None:
        """Say whether this replica is the one that works."""
        if allowed:
            self._allowed.set()
        else:
            self._allowed.clear()

    @property
    def stopping(self) -> bool:
        """Whether the daemon is about to end."""
        return self._stopping.is_set()

    @property
    def allowed(self) -> bool:
        """Whether work may be done now."""
        return self._allowed.is_set() and not self._stopping.is_set()

    def check(self, *_: object) -> None:
        """Raise Stopped unless work may go on; takes what a progress callback is given."""
        if not self.allowed:
            raise Stopped("stopped" if self.stopping else "the lease went to another replica")


# Halfway to the least: behind whoever reads or trains on this machine, before idle work.
NICENESS = 10


def lower_priority() -> None:
    """Let everybody else on this machine have the processor first, from this thread on.

    On Linux this is a thread's own, and threads that it starts inherit it.
    """
    me = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, me) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, me, NICENESS)


async def in_thread(name: str, work: Callable[[], T]) -> T:
    """Return what `work` returns, run on a daemon thread of its own; its error is raised here.

    A cancelled call leaves its thread to itself.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: list[T], error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result[0])

    def run() -> None:
        result: list[T] = []
        failure: Exception | None = None
        try:
            result.append(work())
        except Exception as error:  # noqa: BLE001 - the caller in the loop gets it
            failure = error
        try:
            loop.call_soon_threadsafe(deliver, result, failure)
        except RuntimeError:
            # The loop ended while the volume did not answer: nobody waits for this any more.
            return

    threading.Thread(target=run, name=f"lakefeed-{name}", daemon=True).start()
    return await future
