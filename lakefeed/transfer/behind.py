"""Writing behind: a pack's bytes go to the volume on a thread while the next files are read.

`Behind` stands in front of a volume for `new_pack`: files it creates take buffers, return at once,
and write them in order on a thread of their own. At most BEHIND_BYTES wait; then `write` waits too.
A failed write comes out of the next `write`, `sync` or `close`: never lost, only late. Keeps V2
(`sync` returns after everything is written and synced) and so I2.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from lakefeed.closing import Closing
from lakefeed.volume.base import Buffer, FileStat, WritableFile

# A few of the writes that a pack makes: enough that neither side waits for a late partner.
BEHIND_BYTES = 16 << 20


class BehindFile(Closing):
    """A new file whose writes happen on a thread. The lock guards the queue and the failure."""

    def __init__(self, file: WritableFile) -> None:
        self._file = file
        self._changed = threading.Condition()
        self._queue: deque[Sequence[Buffer] | Callable[[], None]] = deque()
        self._waiting_bytes = 0
        self._taken = 0
        self._idle = True
        self._failure: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Take buffers, which must stay as they are until written."""
        size = sum(map(len, buffers))
        self._put(buffers, size)
        self._taken += size
        return size

    def then(self, action: Callable[[], None]) -> None:
        """Call `action` on the thread once everything taken so far is written."""
        self._put(action, 0)

    def _put(self, step: Sequence[Buffer] | Callable[[], None], size: int) -> None:
        with self._changed:
            while self._waiting_bytes >= BEHIND_BYTES and self._failure is None:
                self._changed.wait()
            self._check()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="lakefeed-behind", daemon=True)
                thread.start()
                self._thread = thread
            self._queue.append(step)
            self._waiting_bytes += size
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue or self._failure is not None:
                    return
                step = self._queue.popleft()
                self._idle = False
            size, failure = 0, None
            try:
                if callable(step):
                    step()
                else:
                    size = self._file.write(step)
            except BaseException as error:  # noqa: BLE001 - it comes out of the next call
                failure = error
            with self._changed:
                self._idle = True
                if failure is not None and self._failure is None:
                    self._failure = failure
                self._waiting_bytes -= size
                self._changed.notify_all()

    def tell(self) -> int:
        """Return the bytes taken so far."""
        return self._taken

    def stat(self) -> FileStat:
        """Return the facts of the file as the server has them."""
        return self._file.stat()

    def sync(self) -> None:
        """Return once everything taken is on stable storage."""
        with self._changed:
            while (self._queue or not self._idle) and self._failure is None:
                self._changed.wait()
            self._check()
        self._file.sync()

    def close(self) -> None:
        """Stop the thread after what it was given, and close the file. Works twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._file.close()
        self._check()
