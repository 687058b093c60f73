"""A value that is made once, whoever asks for it and whatever comes in between."""

from __future__ import annotations

import threading
import traceback
from contextlib import suppress

import pytest

from lakefeed.lake.once import Once


def failing() -> int:
    raise ValueError("sick")


def told(once: Once[int]) -> str:
    with pytest.raises(ValueError, match="sick") as failed:
        once.get()
    return "".join(traceback.format_tb(failed.value.__traceback__))


def test_an_error_is_told_to_everybody_as_it_came() -> None:
    once = Once(failing)
    assert "in failing" in told(once)
    again = told(once)
    assert all(told(once) == again for _ in range(3))
    assert "in failing" in again


def test_who_was_interrupted_has_said_nothing() -> None:
    answers = [KeyboardInterrupt]

    def make() -> int:
        for interrupt in answers:
            answers.clear()
            raise interrupt
        return 1

    once = Once(make)
    with pytest.raises(KeyboardInterrupt):
        once.get()
    assert once.peek() is None
    assert [once.get(), once.get()] == [1, 1]


def test_one_of_those_who_wait_goes_on_where_another_was_interrupted() -> None:
    begun, interrupted = threading.Event(), threading.Event()
    made: list[int] = []

    def make() -> int:
        if begun.is_set():
            return 1
        begun.set()
        assert interrupted.wait(60)
        raise SystemExit

    once = Once(make)

    def ask() -> None:
        with suppress(SystemExit):
            made.append(once.get())

    first = threading.Thread(target=ask)
    first.start()
    assert begun.wait(60)
    others = [threading.Thread(target=ask) for _ in range(3)]
    for other in others:
        other.start()
    interrupted.set()
    for thread in (first, *others):
        thread.join(60)
    assert made == [1, 1, 1]
