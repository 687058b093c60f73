"""A feed that outlives its epoch: what it found out, its buffers, and the reads of the next epoch.

Opening a lake, resolving the selection and touching fresh buffers take as long as some hundred
batches. An adapter whose iteration is one epoch therefore serves an endless feed, stops at the end
of an epoch, and leaves the feed in `Kept` for the next iteration. Meanwhile the feed reads the
beginning of the next epoch, within its budget (I9).

A feed that nobody takes up is closed after `IDLE_SECONDS`, when whoever would take it is gone, at
the end of the process (threads inside of native code do not survive the end of the interpreter) and
before a fork (a lock that one of its threads holds would stay held in the child).

At the end of the process feeds that are in use are closed as well, and their users waited for: a
thread of TensorFlow's that comes back to Python after the interpreter has ended takes the process
down ("terminate called without an active exception").
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from lakefeed.adapters._places import Place
from lakefeed.closing import Closing, beside
from lakefeed.feed.feed import Feed, FeedOptions, Mix
from lakefeed.feed.selection import Select, Selection
from lakefeed.forking import new_lock

# Longer than a validation between two epochs usually takes.
IDLE_SECONDS = 60.0
# How long is waited at the end of the process for whoever uses a feed; one that asks for no more
# batches does not hear that it is closed.
_LEAVE_SECONDS = 0.2
_RETURN_SECONDS = 0.1
_ANSWERS_MAX = 10


class OpenedFeed(Closing):
    """A feed and the lake it reads from; `close` closes both. Works twice."""

    def __init__(
        self, place: Place, select: Select | Mix | Selection, options: FeedOptions
    ) -> None:
        self.options = options
        self.unused = threading.Event()  # nobody goes through it
        self.unused.set()
        self.closed = False
        with ExitStack() as opening:
            snapshot = opening.enter_context(place.opened())
            self.feed = opening.enter_context(Feed(snapshot, select, options))
            self._resources = opening.pop_all()
        _OPENED.add(self)

    def stand_at(self, state: Mapping[str, object]) -> None:
        """Let the feed go on from a state, which costs nothing where it stands there already."""
        if self.feed.state() != state:
            self.feed.restore(state)

    def close(self) -> None:
        """Close the feed and what it was opened from."""
        self.closed = True
        if self.feed.is_at_work_here:
            beside(self._resources.close)
        else:
            self._resources.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """A kept feed, the thread that closes it some day, and what wakes that thread."""

    opened: OpenedFeed
    thread: threading.Thread
    wake: queue.SimpleQueue[None]


class Kept:
    """At most one feed between two epochs. Safe for threads."""

    def __init__(self) -> None:
        self._lock = new_lock()  # guards what is kept
        self._kept: _Watched | None = None
        _ALL.add(self)

    def follow(self, owner: object) -> None:
        """Close what is kept when an object goes."""
        weakref.finalize(owner, self._owner_is_gone).atexit = False

    def take(self, options: FeedOptions) -> OpenedFeed | None:
        """Return the kept feed if it has these options.

        Not one that was closed: an iteration may be broken off while the thread that works ahead of
        it takes the epoch's last batch and leaves the feed here.
        """
        kept = self._out()
        if kept is None:
            return None
        opened = kept.opened
        if opened.options == options and not opened.closed:
            return opened
        opened.close()
        return None

    def keep(self, opened: OpenedFeed) -> None:
        """Keep a feed for the next epoch, instead of one that is kept already.

        It is closed instead where no thread can be started to watch it: the system allows no more,
        or the interpreter is about to end.
        """
        self.close()
        wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        thread = threading.Thread(
            target=self._watch, args=(wake,), name="lakefeed-kept", daemon=True
        )
        try:
            with self._lock:
                thread.start()
                self._kept = _Watched(opened, thread, wake)
        except RuntimeError:
            opened.close()

    def close(self) -> None:
        """Close what is kept. Works twice."""
        kept = self._out()
        if kept is not None:
            kept.thread.join()
            kept.opened.close()

    def _out(self) -> _Watched | None:
        """Return what is kept; its thread is about to end.

        Who takes it up does not wait for that, and `keep` says that the thread is a daemon, because
        Python notes down each foreign thread that joins another or makes one of unknown kind: those
        of a framework that goes through epochs became more and more.
        """
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.wake.put(None)
        return kept

    def _watch(self, wake: queue.SimpleQueue[None]) -> None:
        """Close the feed unless somebody takes it up."""
        try:
            wake.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            pass  # nobody came
        with self._lock:
            kept = self._kept
            if kept is None or kept.wake is not wake:
                return
            self._kept = None
        kept.opened.close()

    def _owner_is_gone(self) -> None:
        """Let the watching thread close. The garbage collector calls this wherever it pleases, in
        the feed's own threads too, so it may take no lock: this queue's `put` is made for that."""
        kept = self._kept
        if kept is not None:
            kept.wake.put(None)


_ALL: weakref.WeakSet[Kept] = weakref.WeakSet()
_OPENED: weakref.WeakSet[OpenedFeed] = weakref.WeakSet()
ENDING = threading.Event()  # the process ends: nobody should begin anything
ANSWERED = threading.Event()  # somebody wanted to, and was told that there is nothing


def _close_kept() -> None:
    for kept in list(_ALL):
        kept.close()


def _close_all() -> None:
    ENDING.set()
    _close_kept()
    used = [opened for opened in list(_OPENED) if not opened.unused.is_set()]
    for opened in used:
        opened.close()
    for opened in used:
        opened.unused.wait(_LEAVE_SECONDS)
    # A native thread that was told so may ask again, a few times at most, before it is content.
    for _ in range(_ANSWERS_MAX if used else 0):
        if not ANSWERED.wait(_RETURN_SECONDS):
            break
        ANSWERED.clear()


atexit.register(_close_all)
os.register_at_fork(before=_close_kept)
