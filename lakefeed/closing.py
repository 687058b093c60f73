"""What resources share: they close at the end of their `with` block, whatever happened in it, and
they stay in the process that made them. And how to close one where no lock may be taken."""

from __future__ import annotations

import _thread
import contextlib
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn, TypeVar

from lakefeed.errors import Invalid

_Self = TypeVar("_Self", bound="Closing")


class _Here(threading.local):
    """What is true of this thread; reading it takes no lock."""

    works = False  # closing something may wait for this thread


_here = _Here()


class Closing:
    """A resource to be used in a `with` block."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Staying:
    """A resource that only the process that made it can use. Pickling it is Invalid, with a hint on
    what to send instead."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise Invalid(
            type(self).__name__,
            expected="to stay in the process that made it",
            hint="send what it was made of (the lake or its path, a snapshot, options), and make "
            "one there",
        )


def beside(close: Callable[[], None]) -> None:
    """Close something in a new thread. The garbage collector calls this in the middle of anything,
    so no lock may be taken, not even those that `threading` takes to start a thread.

    Does nothing where the interpreter is about to end: that closes everything.
    """
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(close, ())


def work_here() -> None:
    """Say that this thread is one of those that closing something waits for."""
    _here.works = True


def close_from_anywhere(close: Callable[[], None]) -> None:
    """Close something now; `beside` a thread that closing may wait for, or whose locks it may want:
    there it is the garbage collector that calls."""
    if _here.works:
        beside(close)
    else:
        close()


def ending(running: ExitStack) -> Callable[[], None]:
    """Return what closes an iteration from anywhere, once. The end of the process calls it where
    nobody did: a generator left in a variable would be closed later, when its modules are gone."""
    return weakref.finalize(running, close_from_anywhere, running.close)
