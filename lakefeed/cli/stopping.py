"""How a command hears SIGINT and SIGTERM: as exceptions that unwind every `with`, and are not lost.

Python runs a signal's handler between any two instructions of the main thread, also inside a weak
reference's callback or a `__del__`; importing a module runs such callbacks. What is raised there
reaches nobody: it is printed, and the command goes on as if it had not been asked to stop. So the
signal is sent once more, a moment later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from lakefeed.cli.common import EXIT_TERMINATED

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# Longer than a callback takes. Sent from within the hook itself, it would be lost there as well.
_AGAIN_SECONDS = 0.01
_SIGNALS = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}


def hear_signals() -> None:
    """Make SIGTERM raise SystemExit as SIGINT raises KeyboardInterrupt, both until they arrive."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _once_more


@contextmanager
def held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM arrive at the end of the block; what is begun in it can be noted.

    In the main thread. A process that is started meanwhile knows nothing of it.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS.values()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for arrived in came[:1]:
            signal.raise_signal(arrived)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_TERMINATED)


def _once_more(lost: UnraisableHookArgs) -> None:
    number = _SIGNALS.get(lost.exc_type)
    if number is None:
        sys.__unraisablehook__(lost)
        return
    again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
