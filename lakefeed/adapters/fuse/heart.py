"""The daemon's sign of life, once a second, to its watchdog (`guard`).

The loop that answers requests says that it turns; a thread passes that on. While the loop waits for
a volume that used to answer at once (`Pace.here`), the thread speaks for it: a file server that
restarts is no reason to end a mount, and with it what is not committed yet.
"""

from __future__ import annotations

import logging
import threading
from typing import IO

import trio

from lakefeed.adapters.fuse.guard import BEAT, GOODBYE
from lakefeed.adapters.fuse.pace import Pace

BEAT_SECONDS = 1.0

_logger = logging.getLogger(__name__)


class Heart:
    """Beats into a pipe from `start` to `stop`."""

    def __init__(self, pace: Pace, pipe: IO[bytes]) -> None:
        self._pace = pace
        self._pipe = pipe
        self._turned = True
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lakefeed-beat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    async def turn(self) -> None:
        """Say that the loop turns, for as long as it does."""
        while True:
            self._turned = True
            # Twice a beat, so that each beat finds a turn whatever their phase.
            await trio.sleep(BEAT_SECONDS / 2)

    def is_well(self) -> bool:
        """Tell whether the loop has turned since the last look, or waits for the volume."""
        turned, self._turned = self._turned, False
        return turned or self._pace.waits

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            if self.is_well() and not self._say(BEAT):
                return

    def stop(self) -> None:
        """Say good-bye."""
        self._stopped.set()
        self._thread.join()
        self._say(GOODBYE)

    def _say(self, word: bytes) -> bool:
        try:
            self._pipe.write(word)
            self._pipe.flush()
        except OSError as error:
            _logger.warning("the watchdog is gone: %s", error)
            return False
        return True
