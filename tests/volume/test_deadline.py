"""A volume that stops answering: a typed error in time, no wrong bytes, no process that hangs."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import NotFound, VolumeFailed
from lakefeed.volume import deadline
from lakefeed.volume.base import FileStat, Volume, read_file, write_file
from lakefeed.volume.deadline import DeadlineReadableFile, DeadlineVolume, _Call, _Opened
from lakefeed.volume.memory import MemoryReadableFile, MemoryVolume, MemoryWritableFile
from lakefeed.volume.posix import PosixVolume
from tests.support.patience import PATIENCE_SECONDS
from tests.support.stalling import DATA, stalling
from tests.support.threads import Threads
from tests.volume.conformance import VolumePromises, race

# Far beyond what any call here takes, and short: the least a test of a deadline has to wait.
AMPLE_SECONDS = 60.0
SHORT_SECONDS = 0.05


class TestDeadlinePosix(VolumePromises):
    @pytest.fixture
    def volume(self, tmp_path: Path) -> Volume:
        return DeadlineVolume(PosixVolume(tmp_path), AMPLE_SECONDS)


class TestDeadlineMemory(VolumePromises):
    @pytest.fixture
    def volume(self) -> Volume:
        return DeadlineVolume(MemoryVolume(), AMPLE_SECONDS, threads_max=2)


class SlowReader(MemoryReadableFile):
    """Answers only while the server is up."""

    up: threading.Event
    done: threading.Event
    closed: threading.Event

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        assert self.up.wait(AMPLE_SECONDS)
        try:
            return super().read_into(offset, buffers)
        finally:
            self.done.set()

    def close(self) -> None:
        super().close()
        self.closed.set()


class SlowVolume(MemoryVolume):
    """A server that can go down: `stat`, `create` and reads then wait until it is up again."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.up = threading.Event()
        self.done = threading.Event()
        self.created: list[MemoryWritableFile] = []
        self.up.set()

    def stat(self, path: str) -> FileStat:
        assert self.up.wait(AMPLE_SECONDS)
        return super().stat(path)

    def create(self, path: str) -> MemoryWritableFile:
        assert self.up.wait(AMPLE_SECONDS)
        file = super().create(path)
        self.created.append(file)
        return file

    def open(self, path: str) -> MemoryReadableFile:
        reader = SlowReader(self._node(path), path, self._lock)
        reader.up, reader.done, reader.closed = self.up, self.done, threading.Event()
        return reader


@pytest.fixture
def slow() -> SlowVolume:
    inner = SlowVolume()
    write_file(inner, "a", b"bytes")
    return inner


def blocked(volume: DeadlineVolume) -> int:
    """Return how many threads wait in calls whose callers have gone."""
    return sum(pool._blocked for pool in volume._pools.values())


def hasty(volume: DeadlineVolume) -> DeadlineVolume:
    """Return the same volume and threads for calls that are to be late."""
    twin = DeadlineVolume(volume.inner, SHORT_SECONDS, volume._threads_max)
    twin._pools = volume._pools
    return twin


def wait_until_idle(volume: DeadlineVolume) -> None:
    """Return once the threads that were blocked have come back."""
    pool = next(iter(volume._pools.values()))
    for _ in range(2000):
        with pool._lock:
            if not pool._blocked:
                return
            pool._wake.wait(0.01)
    raise AssertionError("a thread is still blocked")


def test_a_late_answer_is_a_timeout_that_names_the_call(slow: SlowVolume) -> None:
    volume = DeadlineVolume(slow, AMPLE_SECONDS)
    slow.up.clear()
    with pytest.raises(VolumeFailed, match=r"stat of slow/a, found no answer in 0.05") as failure:
        hasty(volume).stat("a")
    assert failure.value.errno == errno.ETIMEDOUT
    assert failure.value.retryable
    slow.up.set()
    wait_until_idle(volume)
    assert volume.stat("a").size == 5


def test_the_time_for_which_the_process_was_stopped_is_not_waited_for(
    slow: SlowVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait is over at once when the process goes on, before the thread that asks has gone on."""
    usual = _Call.__init__

    class Stopped(threading.Event):
        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            if self.waits == 1:
                return False
            slow.up.set()
            return super().wait(timeout)

    def stopped(call: _Call[Any], *arguments: Any, **how: Any) -> None:
        usual(call, *arguments, **how)
        call.done = Stopped()

    monkeypatch.setattr(_Call, "__init__", stopped)
    slow.up.clear()
    assert DeadlineVolume(slow, AMPLE_SECONDS).stat("a").size == 5


def test_when_every_thread_is_blocked_calls_fail_at_once(slow: SlowVolume) -> None:
    volume = DeadlineVolume(slow, AMPLE_SECONDS, threads_max=3)
    slow.up.clear()
    while blocked(volume) < 3:
        with pytest.raises(VolumeFailed):
            hasty(volume).stat("a")
    with pytest.raises(VolumeFailed, match="3 earlier calls without an answer") as failure:
        volume.space()
    assert failure.value.errno == errno.ETIMEDOUT
    slow.up.set()
    wait_until_idle(volume)
    assert volume.space().free_bytes > 0


def test_a_blocked_call_does_not_hold_up_the_others(slow: SlowVolume) -> None:
    volume = DeadlineVolume(slow, AMPLE_SECONDS, threads_max=2)
    slow.up.clear()
    while not blocked(volume):
        with pytest.raises(VolumeFailed):
            hasty(volume).stat("a")
    assert [entry.name for entry in volume.list("")] == ["a"]
    slow.up.set()


def test_more_callers_than_threads_take_turns() -> None:
    volume = DeadlineVolume(MemoryVolume(), AMPLE_SECONDS, threads_max=2)
    write_file(volume, "a", b"bytes")
    assert race(8, lambda _: [read_file(volume, "a") for _ in range(20)]) == [[b"bytes"] * 20] * 8


def test_a_late_read_writes_into_no_ones_buffer(slow: SlowVolume) -> None:
    volume = DeadlineVolume(slow, AMPLE_SECONDS)
    buffer = bytearray(5)
    with volume.open("a") as file:
        slow.up.clear()
        late = DeadlineReadableFile(file._inner, hasty(volume), "a")
        while not blocked(volume):
            with pytest.raises(VolumeFailed, match="read of slow/a"):
                late.read_into(0, [memoryview(buffer)])
        buffer[:] = b"other"
        slow.up.set()
        assert slow.done.wait(AMPLE_SECONDS)
        wait_until_idle(volume)
    assert buffer == b"other"


def test_a_file_created_too_late_is_closed(
    slow: SlowVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, closed = _Opened.close, threading.Event()

    def close(opened: _Opened[Any]) -> None:
        usual(opened)
        closed.set()

    monkeypatch.setattr(_Opened, "close", close)
    volume = DeadlineVolume(slow, AMPLE_SECONDS)
    slow.created.clear()
    slow.up.clear()
    while not blocked(volume):
        with pytest.raises(VolumeFailed, match="create of slow/b"):
            hasty(volume).create("b")
    slow.up.set()
    assert closed.wait(AMPLE_SECONDS)
    (late,) = slow.created
    with pytest.raises(VolumeFailed, match="closed"):
        late.write([b"x"])


@pytest.mark.parametrize("how", ["no thread", "no answer"])
def test_a_file_whose_closing_comes_too_late_is_closed(slow: SlowVolume, how: str) -> None:
    volume = DeadlineVolume(slow, AMPLE_SECONDS, threads_max=2)
    late = hasty(volume)
    inner = [volume.open("a")._inner for _ in range(3)]
    files = [DeadlineReadableFile(one, late, "a") for one in inner]
    slow.up.clear()
    while blocked(volume) < 2:
        with pytest.raises(VolumeFailed):
            late.stat("a")
    if how == "no answer":  # a thread seems to be free, and is taken before the call gets it
        next(iter(volume._pools.values()))._blocked -= 1
    for file in files:
        with pytest.raises(VolumeFailed, match="close of slow/a"):
            file.close()
        file.close()
    if how == "no answer":
        next(iter(volume._pools.values()))._blocked += 1
    slow.up.set()
    for one in inner:
        assert isinstance(one, SlowReader)
        assert one.closed.wait(AMPLE_SECONDS)
    wait_until_idle(volume)
    assert volume.stat("a").size == 5


def test_close_ends_the_threads_and_not_the_volume(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "IDLE_SECONDS", AMPLE_SECONDS)
    volume = DeadlineVolume(MemoryVolume(), AMPLE_SECONDS)
    race(4, lambda _: volume.space())
    volume.close()
    volume.close()
    assert threads.left() == []
    assert volume.space().free_bytes > 0
    assert threads.running()
    volume.close()
    assert threads.left() == []


def test_a_mistake_in_a_call_reaches_its_caller() -> None:
    volume = DeadlineVolume(MemoryVolume(), AMPLE_SECONDS)
    with pytest.raises(TypeError):
        volume.stat([])  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        volume.stat("none")


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_call_that_gets_no_thread_fails_and_the_next_one_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = DeadlineVolume(MemoryVolume(), AMPLE_SECONDS)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(VolumeFailed, match=r"stat of .*can't start new thread") as failure:
            volume.stat("a")
    assert failure.value.errno == errno.EAGAIN
    assert failure.value.retryable
    assert volume.space().free_bytes > 0


def test_what_is_closed_without_a_thread_is_closed_later(
    slow: SlowVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = DeadlineVolume(slow, AMPLE_SECONDS)
    file = volume.open("a")
    assert isinstance(file._inner, SlowReader)
    volume.close()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(VolumeFailed, match=r"close of .*can't start new thread"):
            file.close()
    volume.space()
    assert file._inner.closed.wait(AMPLE_SECONDS)


def test_where_no_more_threads_can_be_callers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []

    def start_one(thread: threading.Thread) -> None:
        if thread.name == "lakefeed-deadline":
            if started:
                refuse(thread)
            started.append(thread)
        start(thread)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start_one)
    volume = DeadlineVolume(MemoryVolume(), AMPLE_SECONDS)
    write_file(volume, "a", b"bytes")
    assert race(8, lambda _: [read_file(volume, "a") for _ in range(20)]) == [[b"bytes"] * 20] * 8


def run(program: str) -> str:
    """Run a program of its own, which must end by itself."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fork_makes_its_own_threads() -> None:
    program = f"""
        import os, sys
        sys.path[:0] = {sys.path!r}
        from lakefeed.volume.deadline import DeadlineVolume
        from lakefeed.volume.memory import MemoryVolume
        volume = DeadlineVolume(MemoryVolume(), 30)
        volume.space()
        child = os.fork()
        if not child:
            volume.make_directory("a")
            os._exit(len([*volume.list("")]) + 10)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        volume.space()
    """
    assert run(program) == "11\n"


@pytest.mark.root
@pytest.mark.slow
def test_a_mount_that_stops_answering_is_a_timeout_and_comes_back(tmp_path: Path) -> None:
    with stalling(tmp_path) as server:
        volume = DeadlineVolume(PosixVolume(tmp_path), AMPLE_SECONDS)
        assert read_file(volume, "data") == DATA
        file = volume.open("data")
        late = hasty(volume)
        late_file = DeadlineReadableFile(file._inner, late, "data")
        server.stop()
        for act in (
            lambda: late.stat("data"), lambda: late.open("data"), lambda: [*late.list("")],
            lambda: late_file.read_at(0, 10), late.space, lambda: late.refresh(""),
        ):  # fmt: skip
            with pytest.raises(VolumeFailed) as failure:
                act()
            assert failure.value.errno == errno.ETIMEDOUT
        server.resume()
        assert file.read_at(5, 5) == DATA[5:10]
        wait_until_idle(volume)
        assert volume.stat("data").size == len(DATA)
        file.close()
        volume.close()


@pytest.mark.root
@pytest.mark.slow
def test_a_process_with_blocked_threads_exits(tmp_path: Path) -> None:
    with stalling(tmp_path) as server:
        assert read_file(PosixVolume(tmp_path), "data") == DATA
        server.stop()
        program = f"""
            import sys
            sys.path[:0] = {sys.path!r}
            from lakefeed.errors import VolumeFailed
            from lakefeed.volume.deadline import DeadlineVolume
            from lakefeed.volume.posix import PosixVolume
            volume = DeadlineVolume(PosixVolume({str(tmp_path)!r}), 0.05)
            for _ in range(3):
                try:
                    volume.stat("data")
                except VolumeFailed as error:
                    print(error.errno)
        """
        assert run(program) == f"{errno.ETIMEDOUT}\n" * 3
