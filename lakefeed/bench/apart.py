"""Work in a process of its own, which can be ended where a volume never answers.

A thread that a volume holds in the kernel can neither be interrupted nor waited for, and Python
waits for its threads when it ends. A process can be killed. So what reads without a deadline runs
apart: `run_apart` starts it, hears what it tells and returns what it returns. The process is ended
when it has waited for its volume for too long, when the caller is interrupted, and at the end.

The work says through its `Line` whether it waits for the volume or computes; only waiting counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from lakefeed.bench.processes import (
    LOOK_SECONDS,
    Patience,
    belong_to_parent,
    end,
    heard,
    start,
    start_context,
    told,
    without,
)

T = TypeVar("T")


class Line:
    """The work's end of the line to whoever started it. Used by one thread."""

    def __init__(self, since: Any, messages: Connection) -> None:
        self._since = since
        self._messages = messages

    def tell(self, *message: object) -> None:
        """Let the caller hear this."""
        self._messages.send((False, message))

    def waits(self) -> None:
        """Say that from now on the work waits for its volume."""
        self._since.value = time.monotonic()

    def computes(self) -> None:
        """Say that it does not wait for the volume now."""
        self._since.value = 0.0


def run_apart(work: Callable[[Line], T], hear: Callable[..., object], timeout_seconds: float) -> T:
    """Return what the work returns; `hear` gets its messages.

    The work's own error, or VolumeFailed once it has waited for `timeout_seconds`; 0: it may for
    ever.
    """
    context = start_context()
    since = context.RawValue("d", 0.0)
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(work, since, theirs), name="lakefeed-apart", daemon=True
    )
    started: list[BaseProcess] = []
    patience = Patience()
    try:
        start(process, started)
        theirs.close()
        while True:
            if not mine.poll(LOOK_SECONDS):
                waits = patience.looked(since.value)
                if timeout_seconds and since.value and waits > timeout_seconds:
                    raise without("an answer", "the volume", timeout_seconds)
                continue
            done, said = heard(
                process, mine, "the process that measures", "it may have run out of memory"
            )
            if isinstance(said, BaseException):
                raise said
            if done:
                result: T = said
                return result
            hear(*said)
    finally:
        end(started)
        mine.close()


def _work(work: Callable[[Line], object], since: Any, messages: Connection) -> None:
    """Do the work; this is the whole life of its process."""
    belong_to_parent()
    try:
        said: object = work(Line(since, messages))
    except BaseException as error:  # noqa: BLE001 - carried to the parent, which raises it
        said = told(error, "the process that measures")
    messages.send((True, said))
    messages.close()
