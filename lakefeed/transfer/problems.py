"""What went wrong with single files of a long transfer: all counted, the first ones kept.

One bad file must not stop a million good ones, and must not vanish either. `Problems` counts every
one and keeps the first `KEPT_MAX`, so that memory stays bounded when a whole source is unreadable.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from lakefeed.errors import LakefeedError

# Enough to see what is going on; some 200 bytes each.
KEPT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that was left out, and why; `path` is printable whatever the name holds."""

    path: str
    reason: str


class Problems:
    """Collects problems. Safe for threads; the lock guards both fields."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Problem] = []
        self._count = 0

    def add(self, path: str, reason: str | OSError | LakefeedError) -> None:
        """Count a file that was left out."""
        problem = Problem(decodable(path), _text(reason))
        with self._lock:
            self._count += 1
            if len(self._kept) < KEPT_MAX:
                self._kept.append(problem)

    def take(self, others: Problems) -> None:
        """Add what others have collected."""
        self.take_some(others.count, others.first())

    def take_some(self, count: int, kept: Sequence[Problem]) -> None:
        """Add `count` problems, of which only the first are known."""
        with self._lock:
            self._count += count
            self._kept.extend(kept[: KEPT_MAX - len(self._kept)])

    @property
    def count(self) -> int:
        """How many there were."""
        with self._lock:
            return self._count

    def first(self) -> tuple[Problem, ...]:
        """Return the first ones, in path order as far as threads kept it."""
        with self._lock:
            return tuple(sorted(self._kept, key=lambda problem: problem.path))


def _text(reason: str | OSError | LakefeedError) -> str:
    if isinstance(reason, str):
        return reason
    if isinstance(reason, LakefeedError):
        return reason.text
    return os.strerror(reason.errno).lower() if reason.errno else str(reason)


def decodable(path: str) -> str:
    """Return a path as it is, or its repr where its bytes are no text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return repr(os.fsencode(path))
    return path
