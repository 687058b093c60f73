"""What one thread waits for and others ring, and any interrupt can end the wait of.

`threading.Condition.wait` lets go of a lock and takes it again in Python: an interrupt (Ctrl-C, an
alarm) between the two leaves a `with` block whose lock is free, which is a RuntimeError in place of
the interrupt, or another thread's, which is then let in by two. Here waiting is one call of a lock
of its own, outside of any other; whoever waits looks again when it is over.
"""

from __future__ import annotations

import threading


class Bell:
    """One ring lets one `wait` through, at once if it came before; more rings are one.

    So where several may wait, whoever comes through and finds something rings on.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()  # held until it rings
        self._silence.acquire()

    def wait(self) -> None:
        """Wait for a ring."""
        self._silence.acquire()

    def ring(self) -> None:
        """Wake who waits; two threads at once must have a lock in common."""
        if self._silence.locked():
            self._silence.release()
