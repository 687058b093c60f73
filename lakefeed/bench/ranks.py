"""Ranks as processes: each opens its own source and runs the same loop, all in step.

Processes are not forked from here: the parent may hold threads, and a rank of a real job shares
nothing with its neighbours either. They come from Python's fork server, a process that has imported
what a rank needs and does nothing else (its one thread beside is the allocator's, which minds
forks), so that eight ranks start in the time of one. The first failure breaks the barrier, stops
every rank and comes out of `run_ranks` with its own type. Ctrl-C and `stop` end the ranks as well;
none is left behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from lakefeed.bench.emulation import shared_state
from lakefeed.bench.meeting import Meeting
from lakefeed.bench.opening import opened
from lakefeed.bench.sources import Spec
from lakefeed.bench.steps import LIVE, Company, Loop, RankResult, run
from lakefeed.errors import LakefeedError, VolumeFailed

# A rank that does not come to the barrier for so long has lost its volume: NFS's hard mounts wait
# for ever, and a person has long stopped watching.
BARRIER_SECONDS = 600.0
# How often progress is looked at; AU over shorter stretches is noise.
LOOK_SECONDS = 0.5
_END_SECONDS = 5.0

Look = Callable[[list[list[float]]], object]


@dataclass(frozen=True, slots=True)
class Job:
    """What the ranks do: `spec.world_size` of them."""

    spec: Spec
    loop: Loop


def run_ranks(job: Job, look: Look | None = None) -> list[RankResult]:
    """Run every rank to its end and return what each did.

    `look` is called twice a second with the live numbers (`steps.LIVE`) of every rank.
    """
    context = _context()
    count = job.spec.world_size
    meeting = Meeting(context, count)
    shared = shared_state(context)
    lives = [context.RawArray("d", len(LIVE)) for _ in range(count)]
    processes: list[BaseProcess] = []
    answers: list[Connection] = []
    try:
        for rank in range(count):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank,
                args=(job, rank, (meeting, shared, lives[rank]), theirs),
                name=f"lakefeed-rank-{rank}",
                daemon=True,
            )
            process.start()
            theirs.close()
            processes.append(process)
            answers.append(mine)
        return _gather(processes, answers, lives, look)
    finally:
        _end(processes)
        for answer in answers:
            answer.close()


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    # A program's own script is imported by every rank, as every way to start processes has it.
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _gather(
    processes: list[BaseProcess],
    answers: list[Connection],
    lives: list[Any],
    look: Look | None,
) -> list[RankResult]:
    results: dict[int, RankResult] = {}
    waiting = dict(enumerate(answers))
    while waiting:
        ready = wait(list(waiting.values()), timeout=LOOK_SECONDS)
        if look is not None:
            look([list(live) for live in lives])
        for rank, answer in list(waiting.items()):
            if answer not in ready:
                continue
            del waiting[rank]
            try:
                said = answer.recv()
            except EOFError:
                processes[rank].join(_END_SECONDS)
                code = processes[rank].exitcode
                raise VolumeFailed(
                    f"rank {rank}",
                    expected="a result",
                    found=f"process gone, exit code {code}",
                    hint="it may have run out of memory; try fewer accelerators",
                ) from None
            if isinstance(said, BaseException):
                raise said
            if said is not None:
                results[rank] = said
    assert len(results) == len(processes), "a rank that gave up left another's error"
    return [results[rank] for rank in sorted(results)]


def _end(processes: list[BaseProcess]) -> None:
    deadline = time.monotonic() + _END_SECONDS
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _leave_with_parent() -> None:
    """End this process when the parent is gone: killed, or interrupted as it started us."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a rank is a child"
    parent.join()
    os._exit(1)


def _rank(job: Job, rank: int, company: tuple[Meeting, Any, Any], answer: Connection) -> None:
    """Run one rank; this is the whole life of its process."""
    # Ctrl-C reaches the whole group; the parent decides, and terminates us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, name="lakefeed-rank-parent", daemon=True).start()
    meeting, shared, live = company

    def meet() -> None:
        meeting.wait(rank, BARRIER_SECONDS)

    try:
        with opened(job.spec, rank, shared) as source:
            said: object = run(source, job.loop, Company(meet, live, threading.Event()), rank)
    except LakefeedError as error:
        said = error
    except threading.BrokenBarrierError:
        said = None  # another rank failed; its own error is the news
    except BaseException as error:  # noqa: BLE001 - carried to the parent, which raises it
        said = RuntimeError(f"rank {rank} (process {os.getpid()}): {type(error).__name__}: {error}")
    if isinstance(said, BaseException):
        meeting.abort()
    answer.send(said)
    answer.close()
