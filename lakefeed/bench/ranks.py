"""Ranks as processes: each opens its own source and runs the same loop, all in step.

Processes are not forked from here: the parent may hold threads, and a rank of a real job shares
nothing with its neighbours either (`processes`). The first failure breaks the barrier, stops every
rank and comes out of `run_ranks` with its own type; so does a volume that does not answer, which is
told by no rank getting on. Ctrl-C and `stop` end the ranks as well; neither a rank nor a file of
one is left behind.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from lakefeed.bench.emulation import shared_state
from lakefeed.bench.meeting import Meeting
from lakefeed.bench.opening import opened
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
from lakefeed.bench.sources import Spec
from lakefeed.bench.steps import LIVE, Company, Loop, RankResult, run

# Ranks that get on by no batch for so long have lost their volume: NFS's hard mounts wait for ever,
# and a person has long stopped watching.
TIMEOUT_SECONDS = 600.0
# Until all ranks run: the fork server has to import first, seconds where the machine is busy.
_START_SECONDS = 60.0

Look = Callable[[list[list[float]]], object]


@dataclass(frozen=True, slots=True)
class Job:
    """What the ranks do: `spec.world_size` of them.

    VolumeFailed once no rank has had a batch for `timeout_seconds` and a step; 0 waits for ever.
    """

    spec: Spec
    loop: Loop
    timeout_seconds: float = TIMEOUT_SECONDS


def run_ranks(job: Job, look: Look | None = None) -> list[RankResult]:
    """Run every rank to its end and return what each did.

    `look` is called twice a second with the live numbers (`steps.LIVE`) of every rank.
    """
    context = start_context()
    count = job.spec.world_size
    meeting = Meeting(context, count)
    shared = shared_state(context)
    lives = [context.RawArray("d", len(LIVE)) for _ in range(count)]
    processes: list[BaseProcess] = []
    answers: list[Connection] = []
    # A rank that is ended removes nothing: all of their files lie here.
    with tempfile.TemporaryDirectory(prefix="lakefeed-bench-") as scratch:
        try:
            for rank in range(count):
                mine, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_rank,
                    args=(job, rank, (meeting, shared, lives[rank], scratch), theirs),
                    name=f"lakefeed-rank-{rank}",
                    daemon=True,
                )
                start(process, processes)
                theirs.close()
                answers.append(mine)
            return _gather(processes, answers, _Watch(job, meeting, lives, look))
        finally:
            end(processes)
            for answer in answers:
                answer.close()


class _Watch:
    """Looks at the ranks from time to time: shows how far they are, notices that none gets on."""

    def __init__(self, job: Job, meeting: Meeting, lives: list[Any], look: Look | None) -> None:
        self._patience_seconds = job.timeout_seconds + job.loop.computation_seconds
        self._ends = job.timeout_seconds > 0
        self._meeting = meeting
        self._lives = lives
        self._look = look
        self._patience = Patience()

    def show(self) -> None:
        """Show how far the ranks are."""
        if self._look is not None:
            self._look([list(live) for live in self._lives])

    def check(self, waiting: Collection[int]) -> None:
        """VolumeFailed with those of the ranks that keep the others waiting, once none gets on."""
        came = self._meeting.came()
        waits = self._patience.looked((came, [list(live) for live in self._lives], len(waiting)))
        seconds = self._patience_seconds
        if not min(came):
            seconds = max(seconds, _START_SECONDS)
        if self._ends and waits > seconds:
            least = min(came[rank] for rank in waiting)
            late = [str(rank) for rank in waiting if came[rank] == least]
            raise without("a batch", f"rank {', '.join(late)}", seconds)


def _gather(
    processes: list[BaseProcess], answers: list[Connection], watch: _Watch
) -> list[RankResult]:
    results: dict[int, RankResult] = {}
    waiting = dict(enumerate(answers))
    while waiting:
        ready = wait(list(waiting.values()), timeout=LOOK_SECONDS)
        watch.show()
        for rank, answer in list(waiting.items()):
            if answer not in ready:
                continue
            del waiting[rank]
            hint = "it may have run out of memory; try fewer accelerators"
            said = heard(processes[rank], answer, f"rank {rank}", hint)
            if isinstance(said, BaseException):
                raise said
            if said is not None:
                results[rank] = said
        if waiting:
            watch.check(waiting)
    assert len(results) == len(processes), "a rank that gave up left another's error"
    return [results[rank] for rank in sorted(results)]


def _rank(job: Job, rank: int, company: tuple[Meeting, Any, Any, str], answer: Connection) -> None:
    """Run one rank; this is the whole life of its process."""
    belong_to_parent()
    meeting, shared, live, scratch = company

    def meet() -> None:
        meeting.wait(rank)

    try:
        meet()
        beside = Company(meet, live, threading.Event(), scratch)
        with opened(job.spec, rank, shared) as source:
            said: object = run(source, job.loop, beside, rank)
    except threading.BrokenBarrierError:
        said = None  # another rank failed; its own error is the news
    except BaseException as error:  # noqa: BLE001 - carried to the parent, which raises it
        said = told(error, f"rank {rank}")
    if isinstance(said, BaseException):
        meeting.abort()
    answer.send(said)
    answer.close()
