"""A time of day in which work may be done: pure.

`22:00-06:00` is a window over midnight, in the local time of the machine that works. Its end ends
what is still running, so a window says when readers may be disturbed, not when work begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from lakefeed.errors import Invalid

_SHAPE = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")
_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the day, half-open; `end` before `start` goes over midnight."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Return the window that '22:00-06:00' means; Invalid for anything else."""
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            raise Invalid(f"window {text!r}", expected="a time of day like 22:00-06:00")
        hours = [int(word) for word in match.groups()]
        window = cls(hours[0] * 60 + hours[1], hours[2] * 60 + hours[3])
        if window.start == window.end:
            raise Invalid(f"window {text!r}", expected="two different times", found="the same")
        return window

    def holds(self, now: datetime) -> bool:
        """Tell whether `now` lies in the window."""
        minute = now.hour * 60 + now.minute
        return (minute - self.start) % _DAY < (self.end - self.start) % _DAY

    def left_seconds(self, now: datetime) -> float:
        """Return how long the window will be open from `now` on, 0 outside of it.

        Where the clocks are changed meanwhile, by as much less or more.
        """
        if not self.holds(now):
            return 0.0
        began, left = now.timestamp(), 60 - now.second
        while self.holds(datetime.fromtimestamp(began + left)):
            left += 60
        return float(left)
