"""Telling the volume's kernel what will be read next, so that it fetches in large requests.

What it fetches lies in the page cache of the machine, where the next reads find it; nothing is kept
here, and nobody waits. Two kinds of reader are helped:

- whoever reads a big file on and on gets the next megabytes fetched, more the longer it goes on;
- whoever reads small files in any order: files of a directory lie together in their pack, so a read
  that had to wait has its surroundings (1 to 4 MiB) fetched behind it. A directory that is read
  at random then costs one request for some hundred files instead of one for each.

In a lake far bigger than memory the second would fetch in vain. So surroundings are paid for out
of a credit: a read that found its bytes there earns `EARNED_BYTES`, about what the saved wait is
worth; when `CREDIT_BYTES` have been fetched for nothing, reads fetch what they need and no more.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from lakefeed.volume.base import ReadableFile

# A request to a disk or a filer that is big enough.
STEP_BYTES = 1 << 20
# Of files of this size and more, so many steps hold some hundred.
SMALL_BYTES = 32 << 10
STEPS = 4
# Waiting so long for a small read means that it was not in memory: that takes 3 us, a disk 60.
WAITED_SECONDS = 40e-6
CREDIT_BYTES = 256 << 20
# 100 us to a millisecond of a disk or a filer that gives a gigabyte a second.
EARNED_BYTES = 128 << 10
# Surroundings asked for in the last second: their bytes may still be on the way. Later they are
# gone again, if a read has to wait.
_RECENT_SECONDS = 1.0
_RECENT_MAX = 64


def advise(file: ReadableFile, start: int, end: int) -> None:
    """Have the bytes from `start` to `end` fetched, if there are any."""
    if start < end:
        file.will_need([(start, end - start)])


class Surroundings:
    """Decides whether the surroundings of a small read are fetched."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.credit_bytes = CREDIT_BYTES
        self._clock = clock
        self._recent: OrderedDict[tuple[str, int], float] = OrderedDict()  # until when it counts

    def found(self) -> None:
        """Take notice of a read that did not have to wait."""
        self.credit_bytes = min(self.credit_bytes + EARNED_BYTES, CREDIT_BYTES)

    def claim(self, pack: str, offset: int, length: int, end: int) -> tuple[int, int]:
        """Return what to fetch around a read that had to wait; an empty range for nothing.

        `end` is where the payloads of the pack end.
        """
        reach = STEP_BYTES if length < SMALL_BYTES else STEPS * STEP_BYTES
        last = (offset + max(length, 1) - 1) // reach
        now = self._clock()
        starts = [
            start
            for start in range(offset // reach * reach, last * reach + 1, reach)
            if now >= self._recent.get((pack, start), now)
        ]
        if not starts or len(starts) * reach > self.credit_bytes:
            self.credit_bytes = min(self.credit_bytes + length, CREDIT_BYTES)
            return 0, 0
        for start in starts:
            self._recent[pack, start] = now + _RECENT_SECONDS
            self._recent.move_to_end((pack, start))
            self.credit_bytes -= reach
        while len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)
        return starts[0], min(starts[-1] + reach, end)
