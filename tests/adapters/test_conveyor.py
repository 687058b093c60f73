"""What is made ahead comes in order, whatever an interrupt of the consumer falls between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lakefeed.adapters._conveyor import Conveyor, Stamped
from lakefeed.errors import Invalid
from tests.support.patience import PATIENCE_SECONDS


class Alarm(Exception):
    """What a handler of a signal raises."""


def enter(condition: Any) -> Any:
    """Interrupt the main thread when a condition has taken its lock for it, which stays taken."""
    entered = ENTER(condition)
    if threading.get_ident() == threading.main_thread().ident:
        raise Alarm
    return entered


ENTER = threading.Condition.__enter__


@pytest.mark.parametrize("threads", [0, 2])
def test_the_consumer_takes_no_lock_that_an_interrupt_could_leave_taken(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    items: list[Stamped] = [({"at": at}, at) for at in range(5)]
    conveyor = Conveyor(iter(items), lambda: None, lambda at: at * at, threads, 1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Condition, "__enter__", enter)
        assert [*conveyor] == [(state, at * at) for state, at in items]
    conveyor.close()


def test_whoever_waits_for_what_is_never_made_hears_that_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two_begun, go = threading.Event(), threading.Event()

    def source() -> Iterator[Stamped]:
        for at in range(9):
            if at == 2:
                two_begun.set()
            yield {}, at

    def action(at: int) -> int:
        go.wait()
        return at

    def shutdown(pool: ThreadPoolExecutor, **_: bool) -> None:
        whole(pool, wait=False, cancel_futures=True)
        go.set()
        whole(pool)

    whole = ThreadPoolExecutor.shutdown
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    conveyor, taken = Conveyor(source(), lambda: None, action, 1, 3), list[int]()
    waiting = threading.Thread(target=lambda: taken.extend(at for _, at in conveyor), daemon=True)
    waiting.start()
    two_begun.wait()
    conveyor.close()
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()
    assert set(taken) <= {0}


def test_what_a_source_says_to_being_woken_is_the_end() -> None:
    begun, closed = threading.Event(), threading.Event()

    def source() -> Iterator[Stamped]:
        yield {}, 1
        begun.set()
        closed.wait()
        raise Invalid("feed", expected="an open feed", found="a closed one")

    conveyor = Conveyor(source(), closed.set, lambda at: at, 0, 2)
    assert next(conveyor) == ({}, 1)
    begun.wait()
    conveyor.close()
    assert [*conveyor] == []
