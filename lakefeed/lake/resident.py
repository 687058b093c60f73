"""Which sources have their rows in memory as addresses: those that look-ups come back to.

A source is taken in when look-ups have decoded as many row groups of it as it has, so all that
taking in costs is about twice what was spent before anyway. Snapshots whose rows fit in the cache
of decoded groups never come here. Of those with more rows than the budget holds, the newest runs
are taken in, the others stay on disk. Least recently used ones go first. The budget is one for all
lakes that a process has open: a daemon may serve many.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from lakefeed.forking import new_lock
from lakefeed.format.fingerprint import Fingerprints
from lakefeed.lake.addresses import ROW_BYTES, Addresses, Part
from lakefeed.lake.once import Once

if TYPE_CHECKING:
    from lakefeed.lake.catalogue import Source

# What a row takes decoded, as it is cached group by group.
DECODED_ROW_BYTES = 128
# Sources whose decoded groups are counted; compaction makes new ones for as long as a lake lives.
_NOTES_MAX = 4096
# Of all lakes that are open. Lakes that nobody holds any more drop out by themselves.
_everybody: weakref.WeakValueDictionary[int, Resident] = weakref.WeakValueDictionary()


def _held_by_all() -> int:
    # A copy of the references is one step to Python: no lock that a fork could find taken.
    alive = [reference() for reference in _everybody.valuerefs()]
    return sum(one.held_bytes for one in alive if one is not None)


class Resident:
    """The addresses in memory, up to a budget. Safe for threads; the lock guards the tables."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._lock = new_lock()
        self._held: OrderedDict[str, Addresses] = OrderedDict()
        self._making: dict[str, Once[Addresses]] = {}
        self._decoded_groups: dict[str, int] = {}
        self._row_bytes = ROW_BYTES
        self.held_bytes = 0
        self.prints = Fingerprints()
        _everybody[id(self)] = self

    def get(self, source_id: str) -> Addresses | None:
        """Return a source's addresses if they are in memory."""
        with self._lock:
            found = self._held.get(source_id)
            if found is not None:
                self._held.move_to_end(source_id)
            return found

    def due(self, source_id: str, missing: int, groups: int) -> bool:
        """Tell whether taking a source in pays; else note that `missing` groups are decoded now."""
        with self._lock:
            if len(self._decoded_groups) > _NOTES_MAX:
                self._decoded_groups.clear()
            spent = self._decoded_groups.get(source_id, 0)
            if spent < groups:
                self._decoded_groups[source_id] = spent + missing
            return spent >= groups

    def admitted(self, sources: Sequence[Source], decoded_bytes: int) -> frozenset[str]:
        """Return which sources of a snapshot may be taken in, given the other cache's size."""
        if sum(source.rows for source in sources) * DECODED_ROW_BYTES <= decoded_bytes:
            return frozenset()
        chosen = []
        left = self._budget_bytes - _held_by_all() + self.held_bytes
        for source in sources:
            left -= source.rows * self._row_bytes
            if left < 0:
                break
            chosen.append(source.id)
        return frozenset(chosen)

    def take_in(self, source: Source, parts: Callable[[], Iterable[Part]]) -> Addresses:
        """Return a source's addresses, made now from its parts; threads that ask wait for one."""
        with self._lock:
            making = self._making.setdefault(source.id, Once(lambda: Addresses(parts())))
        try:
            made = making.get()
        finally:
            with self._lock:
                self._making.pop(source.id, None)
        self._hold(source, made)
        return made

    def _hold(self, source: Source, made: Addresses) -> None:
        with self._lock:
            if source.id not in self._held:
                self._held[source.id] = made
                self.held_bytes += made.nbytes
            # Attributes take room of their own: so many sources of that kind do not fit.
            self._row_bytes = max(self._row_bytes, made.nbytes // max(source.rows, 1))
            self._decoded_groups.pop(source.id, None)
            while self._held and _held_by_all() > self._budget_bytes:
                _, old = self._held.popitem(last=False)
                self.held_bytes -= old.nbytes

    def clear(self) -> None:
        """Give all memory back."""
        with self._lock:
            self._held.clear()
            self.held_bytes = 0
