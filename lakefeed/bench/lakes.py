"""Lakes as benchmarks open them for what is not measured: every call answers in time, or fails.

What is measured is read without a deadline, which would cost it two hand-overs between threads a
call; there `ranks` notices that nothing comes any more.
"""

from __future__ import annotations

from lakefeed.lake.lake import Lake
from lakefeed.volume.base import Volume
from lakefeed.volume.deadline import DeadlineVolume
from lakefeed.volume.posix import PosixVolume


def open_lake(where: str, timeout_seconds: float) -> Lake:
    """Return a lake whose volume answers within so many seconds; 0 waits for ever."""
    volume: Volume = PosixVolume(where)
    if timeout_seconds:
        volume = DeadlineVolume(volume, timeout_seconds)
    return Lake.open(volume)
