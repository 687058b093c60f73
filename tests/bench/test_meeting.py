"""Ranks meet: nobody goes on before the last has come, and nobody waits for one that gave up."""

from __future__ import annotations

import multiprocessing
import threading

from lakefeed.bench.meeting import Meeting

CONTEXT = multiprocessing.get_context("forkserver")
PATIENCE_SECONDS = 60.0


def test_nobody_goes_on_before_the_last_has_come() -> None:
    ranks, times = 4, 50
    meeting = Meeting(CONTEXT, ranks)
    came = [0] * ranks
    early: list[str] = []
    never = threading.Event()

    def rank(number: int) -> None:
        for turn in range(1, times + 1):
            # In turns one is late by more than others look for it, so that they sleep.
            never.wait(0.001 if turn % ranks == number else 0)
            came[number] = turn
            meeting.wait(number)
            if min(came) < turn:
                early.append(f"rank {number} in turn {turn}: {came}")

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert came == [times] * ranks == meeting.came()
    assert early == []


def test_one_that_gives_up_lets_all_fail() -> None:
    meeting = Meeting(CONTEXT, 3)
    failed = []

    def rank(number: int) -> None:
        try:
            meeting.wait(number)
        except threading.BrokenBarrierError:
            failed.append(number)

    threads = [threading.Thread(target=rank, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    meeting.abort()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sorted(failed) == [0, 1]


def test_alone_there_is_nobody_to_wait_for() -> None:
    meeting = Meeting(CONTEXT, 1)
    for _ in range(3):
        meeting.wait(0)
