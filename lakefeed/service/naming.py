"""What stays in an inbox, named in the log: once, for as long as it stays.

So many names are kept in mind at most; of more than that their number is told. What a walk that
ended did not meet any more is forgotten, and is named again should it come back. Used by the event
loop and, one after the other, by the inbox's pool.
"""

from __future__ import annotations

import logging

from lakefeed.service.records import CLAIMS

# More lines at once than anybody reads; a permission that is wrong concerns a million files.
NAMES_MAX = 1000
_logger = logging.getLogger(__name__)


class Naming:
    """Names what is left in one inbox."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._known: set[str] = set()
        self._met: set[str] = set()
        self._unnamed = self._told = 0

    def begin(self) -> None:
        """Note that a walk, and the recovery before it, begins."""
        self._met.clear()
        self._unnamed = 0

    def name(self, path: str, reason: str) -> None:
        """Say that something is left, and why."""
        if path not in self._known:
            if len(self._known) >= NAMES_MAX:
                self._unnamed += 1
                return
            self._known.add(path)
            _logger.warning("left in inbox %s: %r: %s", self._directory, path, reason)
        self._met.add(path)

    def meet(self, path: str) -> None:
        """Note that something is still there; it is left if it was."""
        if path in self._known:
            self._met.add(path)

    def end(self) -> None:
        """Note that a walk went to its end. It does not look at claims: recovery names them."""
        self._known = {path for path in self._known if path in self._met or _is_claim(path)}
        if self._unnamed and self._unnamed != self._told:
            _logger.warning("left in inbox %s: %d more, which are not named", self._directory,
                            self._unnamed)  # fmt: skip
        self._told = self._unnamed


def _is_claim(path: str) -> bool:
    return path.startswith(f"{CLAIMS}/")
