"""How processes that measure start and end: forked from a server, gone with whoever started them.

They come from Python's fork server, a process that has imported what a rank needs and does nothing
else (its one thread beside is the allocator's, which minds forks), so that eight of them start in
the time of one.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

END_SECONDS = 5.0


def start_context() -> ForkServerContext:
    """Return the context that starts processes."""
    context = multiprocessing.get_context("forkserver")
    # A program's own script is imported by every process, as every way to start them has it.
    context.set_forkserver_preload(["__main__", "lakefeed.bench.ranks"])
    return context


def leave_with_parent() -> None:
    """End this process when the parent is gone: killed, or interrupted as it started us."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by another process"
    parent.join()
    os._exit(1)


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
