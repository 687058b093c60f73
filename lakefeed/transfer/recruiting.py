"""Worker processes of an import, started before it is known what they will do.

A process needs half a second of imports before it can read a file. Started as soon as a source
turns out to be big, it has done them by the time the first names are dealt. Nothing
beside the standard library and `closing` is loaded: who starts workers early must not wait.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque

from lakefeed.closing import Closing

# A look at some thousand names from memory; a source that takes longer is worth workers anyway.
LOOK_SECONDS = 0.1

_START = "from lakefeed.transfer.worker import main; main()"


class Recruits(Closing):
    """Processes that wait for work. `close` lets those go that got none."""

    def __init__(self) -> None:
        self._waiting: deque[subprocess.Popen[bytes]] = deque()

    def start(self, count: int) -> None:
        """Start processes that are ready a little later."""
        for _ in range(count):
            self._waiting.append(_started())

    def take(self) -> subprocess.Popen[bytes]:
        """Return a process that waits for its job, started now if there is none."""
        return self._waiting.popleft() if self._waiting else _started()

    def close(self) -> None:
        """End the processes that nobody took. Works twice."""
        while self._waiting:
            process = self._waiting.popleft()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


def _started() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; {_START}"
    # A session of its own: Ctrl-C is the parent's to hear.
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def looks_big(root: str, names: int) -> bool:
    """Tell whether a directory seems to hold so many names below it, after a short look."""
    due = time.monotonic() + LOOK_SECONDS
    directories = deque([root])
    while directories and names > 0:
        if time.monotonic() >= due:
            return True
        try:
            with os.scandir(directories.popleft()) as entries:
                for entry in entries:
                    names -= 1
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
        except OSError:
            # Whoever walks in earnest says what is wrong with it.
            continue
    return names <= 0
