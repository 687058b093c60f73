"""What a forked child does, as an answer to its parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.support.patience import PATIENCE_SECONDS


def in_child(action: Callable[[], object]) -> bool:
    """Tell whether a child that is forked now does something to its end."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE_SECONDS))  # it may wait for a thread that it does not have
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
