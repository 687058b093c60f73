"""What stays in an inbox, named in the log: once, for as long as it stays.

So many names are kept in mind at most; of more than that their number is told. What a walk that
ended did not meet any more is forgotten, and is named again should it come back. Used by the event
loop and, one after the other, by the inbox's pool.
"""

from __future__ import annotations

import logging

from lakefeed.service.records import CLAIMS
from lakefeed.service.waiting import Left

_logger = logging.getLogger(__name__)


class Naming:
    """Names what is left in one inbox."""

    def __init__(self, directory: str, names_max: int) -> None:
        self._directory = directory
        self._names_max = names_max
        self._known: dict[str, str] = {}
        self._met: set[str] = set()
        self._unnamed = self._told = 0

    @property
    def left(self) -> list[Left]:
        """What is left, by path, as far as it was named."""
        return [Left(path, reason) for path, reason in sorted(self._known.items())]

    def begin(self) -> None:
        """Note that a walk, and the recovery before it, begins."""
        self._met.clear()
        self._unnamed = 0

    def name(self, path: str, reason: str) -> None:
        """Say that something is left, and why."""
        if path not in self._known:
            if len(self._known) >= self._names_max:
                self._unnamed += 1
                return
            self._known[path] = reason
            facts = {"inbox": self._directory, "path": path, "reason": reason}
            _logger.warning("left in inbox %s: %r: %s", *facts.values(), extra=facts)
        self._met.add(path)

    def meet(self, path: str) -> None:
        """Note that something is still there; it is left if it was."""
        if path in self._known:
            self._met.add(path)

    def end(self) -> None:
        """Note that a walk went to its end. It does not look at claims: recovery names them."""
        for path in [*self._known]:
            if path not in self._met and not path.startswith(f"{CLAIMS}/"):
                del self._known[path]
        if self._unnamed and self._unnamed != self._told:
            _logger.warning("left in inbox %s: %d more, which are not named", self._directory,
                            self._unnamed)  # fmt: skip
        self._told = self._unnamed
