"""How processes that measure start and end: forked from a server, gone with whoever started them.

They come from Python's fork server, a process that has imported what a rank needs and does nothing
else (its one thread beside is the allocator's, which minds forks), so that eight of them start in
the time of one.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from lakefeed.errors import LakefeedError, VolumeFailed, from_os_error

END_SECONDS = 5.0
# How often is looked how far they are; AU over shorter stretches is noise.
LOOK_SECONDS = 0.5


class Patience:
    """For how long nothing has changed, as far as this process has run; used by one thread.

    A look that comes late counts as one after `LOOK_SECONDS`: this process may have been stopped
    meanwhile (Ctrl-Z), and those whom it waits for with it.
    """

    def __init__(self) -> None:
        self._seen: object = None
        self._looked = time.monotonic()
        self._seconds = 0.0

    def looked(self, seen: object) -> float:
        """Take notice of what is there now, and return for how many seconds it has been."""
        now = time.monotonic()
        more = min(now - self._looked, LOOK_SECONDS)
        self._seconds = self._seconds + more if seen == self._seen else 0.0
        self._seen, self._looked = seen, now
        return self._seconds


def start_context() -> ForkServerContext:
    """Return the context that starts processes."""
    context = multiprocessing.get_context("forkserver")
    # A program's own script is imported by every process, as every way to start them has it.
    context.set_forkserver_preload(["__main__", "lakefeed.bench.ranks"])
    return context


def start(process: BaseProcess, started: list[BaseProcess]) -> None:
    """Start a process, and with the first one the fork server; note it for `end`.

    Ctrl-C, which reaches the whole group, is put off meanwhile, and never gets to either: a server
    that still imports, or a process that nobody has noted, would end with a traceback.
    """
    resource_tracker.ensure_running()  # starting it lets SIGINT through again
    came: list[int] = []
    # Any thread may hear a signal; it is the main one that is interrupted by it.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda *_: came.append(1)) if is_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
        started.append(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is not None:
            signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def belong_to_parent() -> None:
    """Let this process, which begins, end when its parent says so or is gone."""
    # Ctrl-C reaches the whole group; the parent decides, and terminates us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, name="lakefeed-parent", daemon=True).start()


def _leave_with_parent() -> None:
    """End this process when the parent is gone: killed, or interrupted as it started us."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by another process"
    parent.join()
    os._exit(1)


def heard(process: BaseProcess, answer: Connection, name: str, hint: str) -> Any:
    """Return what a process says next; VolumeFailed if it is gone without a word."""
    try:
        return answer.recv()
    except EOFError:
        process.join(END_SECONDS)
        found = f"process gone, exit code {process.exitcode}"
        raise VolumeFailed(name, expected="a result", found=found, hint=hint) from None


def told(error: BaseException, name: str) -> Exception:
    """Return what a process says of an error that ended it, for its parent to raise.

    What the system refuses is the volume's failure; whatever else nobody foresaw is a bug. OSErrors
    of libraries, which have no number, say what they are in words alone.
    """
    if isinstance(error, LakefeedError):
        return error
    if isinstance(error, OSError) and error.errno:
        return from_os_error(error, f"{error.filename or 'a file'}, used by {name}")
    return RuntimeError(f"{name} (process {os.getpid()}): {type(error).__name__}: {error}")


def without(what: str, name: str, seconds: float) -> VolumeFailed:
    """Return the error of a process that its volume has kept waiting for so long."""
    return VolumeFailed(
        name,
        expected=what,
        found=f"none for {seconds:g} seconds",
        hint="check that the file server answers, then repeat",
        errno=errno.ETIMEDOUT,
    )


def end(processes: Sequence[BaseProcess]) -> None:
    """End what still runs, first with a request; return when all are gone."""
    deadline = time.monotonic() + END_SECONDS
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()
