"""Open files of a lake, few at a time.

Packs and segments never change, so an open one is reused by every thread; the least recently used
idle ones are closed above a limit. A handle that went stale (ESTALE: the server restarted, or the
file was deleted by another client) is dropped and opened by name once more; if the name is gone
too, NotFound says so and the caller looks for the same bytes in a newer snapshot.

All tables of a process together leave half of its descriptors free: the one with the most files
gives up idle ones. Who has just opened one there closes them, so that opening is never faster than
closing; those of another table are closed by a thread made for it, as its volume may hang. Where
the process has none left all the same, because `ulimit -n` is low or others hold them, the opener's
table gives up what is idle, or else another one, and the file is opened once something is closed.

After `close` a file is lent to whoever still asks, and closed behind them: a thread that a volume
kept waiting meanwhile leaves nothing open. The lock guards the table and `_closed` only; opening
and closing happen outside it.
"""

from __future__ import annotations

import errno
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from lakefeed.errors import VolumeFailed
from lakefeed.forking import new_lock
from lakefeed.volume.base import ReadableFile, Volume

# A quarter of the usual 1,024 descriptors of a process, and more packs than one batch touches.
# Where `ulimit -n` allows far more, a global order over thousands of packs need not open one for
# nearly each read; a sixteenth leaves room for a dozen other lakes.
OPEN_FILES_MIN, OPEN_FILES_MAX = 256, 8192
_LIMIT_SHARE = 16
# What all lakes together may keep open: with 256 each, four would take everything.
_ALL_SHARE = 2
# More than have to go, so that a thread is made once for so many.
_SPARE_FILES = 32
# Closing what was only read takes a round trip at most; a volume that hangs may do so for ever.
_ROOM_SECONDS = 10.0
# Tables that nobody holds any more drop out by themselves.
_everybody: weakref.WeakValueDictionary[int, OpenFiles] = weakref.WeakValueDictionary()

_Result = TypeVar("_Result")


def open_files_max() -> int:
    """Return how many files to keep open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_FILES_MAX if soft == resource.RLIM_INFINITY else soft // _LIMIT_SHARE
    return max(OPEN_FILES_MIN, min(allowed, OPEN_FILES_MAX))


@dataclass(slots=True)
class _Slot:
    file: ReadableFile
    users: int = 0
    doomed: bool = False


class _Room:
    """How many files all tables gave up that are not closed yet, and how many are."""

    def __init__(self) -> None:
        self.leaving, self.gone = 0, 0
        self.changed = threading.Condition(new_lock())  # guards both


_room = _Room()


def _tables() -> list[OpenFiles]:
    # A copy of the references is one step to Python: no lock that a fork could find taken.
    return [table for ref in _everybody.valuerefs() if (table := ref()) is not None]


def _relieve(opener: OpenFiles) -> None:
    """Have the table with the most files give up idle ones, if all together hold too many."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    tables = _tables()
    surplus = sum(table.count for table in tables) - soft // _ALL_SHARE
    if surplus <= 0 or soft == resource.RLIM_INFINITY:
        return
    _take_from(max(tables, key=lambda table: table.count), opener, surplus + _SPARE_FILES)


def _take_from(table: OpenFiles, opener: OpenFiles, most: int) -> bool:
    """Have idle files of a table closed, those of another than the opener's by a thread; False if
    there are none."""
    idle = table.give_up(most)
    if not idle:
        return False
    if table is opener:
        _close_all(idle)
        return True
    closing = threading.Thread(target=_close_all, args=(idle,), name="lakefeed-close", daemon=True)
    try:
        closing.start()
    except RuntimeError:
        _close_all(idle)
    return True


def _close_all(given_up: list[_Slot]) -> None:
    for slot in given_up:
        _close(slot)
        with _room.changed:
            _room.leaving -= 1
            _room.gone += 1
            _room.changed.notify_all()


def _close(slot: _Slot) -> None:
    # Nothing was written to it, and whoever had it open has what was read.
    with suppress(VolumeFailed):
        slot.file.close()


class OpenFiles:
    """A bounded table of open files, safe for threads. `close()` closes them all."""

    def __init__(self, volume: Volume, limit: int | None = None) -> None:
        self._volume = volume
        self._limit = open_files_max() if limit is None else limit
        self._lock = new_lock()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._closed = False
        _everybody[id(self)] = self

    @property
    def count(self) -> int:
        """How many files are open."""
        return len(self._slots)

    @contextmanager
    def use(self, path: str) -> Iterator[ReadableFile]:
        """Lend the open file at `path` for the time of the block."""
        slot = self._borrow(path)
        try:
            yield slot.file
        finally:
            self._give_back(slot)

    def is_open(self, path: str) -> bool:
        """Tell whether a file is open, so that using it costs no look-up."""
        with self._lock:
            return path in self._slots

    def read(self, path: str, action: Callable[[ReadableFile], _Result]) -> _Result:
        """Return what `action` reads from the file, on a fresh handle if the first went stale."""
        try:
            with self.use(path) as file:
                return action(file)
        except VolumeFailed as error:
            if error.errno != errno.ESTALE:
                raise
            self.forget(path)
        with self.use(path) as file:
            return action(file)

    def _borrow(self, path: str) -> _Slot:
        with self._lock:
            slot = self._slots.get(path)
            if slot is not None:
                slot.users += 1
                self._slots.move_to_end(path)
                return slot
        fresh = _Slot(self._open(path), users=1)
        with self._lock:
            slot = self._slots.get(path)
            if self._closed:
                slot, fresh.doomed = fresh, True
            elif slot is None:
                slot = self._slots[path] = fresh
            else:
                slot.users += 1
            surplus = len(self._slots) - self._limit
        if slot is not fresh:
            _close(fresh)
        if surplus > 0:
            _close_all(self.give_up(surplus))
        _relieve(self)
        return slot

    def _open(self, path: str) -> ReadableFile:
        """Open a file, with the descriptor of an idle one if there is no other."""
        while True:
            gone = _room.gone
            try:
                return self._volume.open(path)
            except VolumeFailed as error:
                if error.errno != errno.EMFILE or not self._make_room(gone):
                    raise

    def _make_room(self, gone: int) -> bool:
        """Return once more than `gone` files went; False if none is idle or about to go."""
        # Own ones first: the volumes of others may hang.
        for table in sorted(_tables(), key=lambda table: (table is not self, -table.count)):
            if _take_from(table, self, _SPARE_FILES):
                break
        with _room.changed:
            while _room.gone == gone:
                if not _room.leaving or not _room.changed.wait(_ROOM_SECONDS):
                    return False
        return True

    def give_up(self, most: int) -> list[_Slot]:
        """Return so many files for closing, or as many as are idle, the longest idle ones first."""
        with self._lock, _room.changed:
            idle = [path for path, slot in self._slots.items() if not slot.users][:most]
            _room.leaving += len(idle)
            return [self._slots.pop(path) for path in idle]

    def _give_back(self, slot: _Slot) -> None:
        with self._lock:
            slot.users -= 1
            close = slot.doomed and not slot.users
        if close:
            slot.file.close()

    def forget(self, path: str) -> None:
        """Close the file at `path` as soon as nobody uses it, and open it anew when asked again."""
        with self._lock:
            slot = self._slots.pop(path, None)
            if slot is None:
                return
            slot.doomed = True
            close = not slot.users
        if close:
            slot.file.close()

    def close(self) -> None:
        """Close every file, also when one of them fails to close. Works twice."""
        with self._lock:
            self._closed = True
            paths = list(self._slots)
        with ExitStack() as stack:
            for path in paths:
                stack.callback(self.forget, path)
