"""Writing behind is only late: what it says is on the volume is there."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.transfer import behind
from lakefeed.transfer.behind import BehindFile
from lakefeed.volume.base import Buffer, FileStat


class SlowFile:
    """A file whose writes take long enough for a sync that does not wait for them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.began = threading.Event()
        self._synced = threading.Event()

    def write(self, buffers: Sequence[Buffer]) -> int:
        self.began.set()
        self._synced.wait(0.02)
        self.calls.append("write")
        return sum(map(len, buffers))

    def sync(self) -> None:
        self._synced.set()
        self.calls.append("sync")

    def tell(self) -> int:
        raise NotImplementedError

    def stat(self) -> FileStat:
        raise NotImplementedError

    def close(self) -> None:
        self.calls.append("close")


@pytest.mark.parametrize("writes", [1, 3])
def test_sync_comes_after_everything_that_was_taken(writes: int) -> None:
    slow = SlowFile()
    file = BehindFile(slow)
    for _ in range(writes):
        file.write([b"x"])
    assert slow.began.wait(60)
    file.sync()
    file.close()
    assert slow.calls == ["write"] * writes + ["sync", "close"]


class FullFile(SlowFile):
    """A file that has no room."""

    def write(self, buffers: Sequence[Buffer]) -> int:
        raise VolumeFailed("pack", found="no space left")


@pytest.mark.timeout(60)
def test_a_failed_write_comes_out_of_every_call_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(behind, "BEHIND_BYTES", 1)  # what failed still fills it: nobody may wait
    full = FullFile()
    file = BehindFile(full)
    file.write([b"x"])
    for call in (file.sync, lambda: file.write([b"x"]), file.close):
        with pytest.raises(VolumeFailed, match="no space"):
            call()
    assert full.calls == ["close"]


def test_no_more_waits_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "BEHIND_BYTES", 4)
    taken: list[int] = []

    class WatchedFile(SlowFile):
        """Looks at what was taken when its first byte is written."""

        def write(self, buffers: Sequence[Buffer]) -> int:
            written = super().write(buffers)
            taken.append(file.tell())
            return written

    with BehindFile(WatchedFile()) as file:
        for _ in range(8):
            file.write([b"x"])
    assert len(taken) == 8
    assert taken[0] <= 4


def test_a_file_whose_thread_could_not_be_started_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    slow = SlowFile()
    file = BehindFile(slow)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            file.write([b"x"])
    file.close()
    assert slow.calls == ["close"]
