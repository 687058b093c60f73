"""A writer that fails tells all who wait; one that is closed, forked or shared stays sane."""

from __future__ import annotations

import errno
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lakefeed.errors import Corrupt, Invalid, NotFound, VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.batch import PutHandle
from lakefeed.lake.check import check
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.writer import Writer, WriterOptions
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, contents, new_lake, write
from tests.support.faulty import FaultyVolume

NEVER = 1e9


def test_a_failed_commit_reaches_every_waiter_and_the_writer_goes_on() -> None:
    inner = MemoryVolume()
    Lake.create(inner).close()
    volume = FaultyVolume(inner, 1, verbs=["sync"])
    with Lake.open(volume) as lake, lake.writer(QUIET) as writer:
        handles = [writer.put(f"{number}", b"x") for number in range(3)]
        with pytest.raises(VolumeFailed) as caught:
            writer.flush()
        assert caught.value.errno == errno.EIO
        errors = []
        for handle in handles:
            with pytest.raises(VolumeFailed) as failed:
                handle.wait(0)
            errors.append(failed.value)
        assert len({id(error) for error in errors}) == 3
        with pytest.raises(NotFound):
            writer.get("0")
        writer.put("later", b"y")
        writer.flush()
        assert contents(lake.snapshot()) == {"later": b"y"}
        assert check(lake).counters.orphans == 0


def test_each_of_several_failed_batches_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise VolumeFailed("commit", found="EIO")

    with new_lake() as lake:
        writer = lake.writer(WriterOptions(flush_age_seconds=NEVER, flush_files=1))
        with monkeypatch.context() as broken:
            broken.setattr(lake.log, "commit", fail)
            for number in range(3):
                writer.put(f"{number}", b"x")._batch.finished.wait()
        for _ in range(3):
            with pytest.raises(VolumeFailed):
                writer.flush()
        writer.put("later", b"y")
        writer.close()
        assert contents(lake.snapshot()) == {"later": b"y"}


def test_a_merge_that_fails_in_a_way_nobody_foresaw_stops_no_writer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise MemoryError

    with new_lake() as lake:
        monkeypatch.setattr(lake, "merge_index", fail)
        with lake.writer(WriterOptions(merge_after=1)) as writer:
            for number in range(3):
                writer.put(f"{number}", b"x").wait()
        assert len(contents(lake.snapshot())) == 3
    assert "MemoryError" in caplog.text


def test_no_more_than_a_batch_gathers_while_the_index_is_merged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merging, gate, settled = threading.Event(), threading.Event(), threading.Event()

    def merge() -> None:
        merging.set()
        assert gate.wait(60)

    class Watched(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread() is producer:
                settled.set()
            return super().wait(timeout)

    def put() -> None:
        for number in range(50):
            writer.put(f"{number}", b"x")
        settled.set()

    options = WriterOptions(flush_age_seconds=NEVER, flush_files=5, merge_after=1)
    with new_lake() as lake:
        monkeypatch.setattr(lake, "merge_index", merge)
        with lake.writer(options) as writer:
            producer = threading.Thread(target=put)
            writer._changed = Watched()
            writer.put("first", b"1")
            writer.flush()
            assert merging.wait(60)
            producer.start()
            assert settled.wait(60)
            gathered = len(writer._pending.operations)
            gate.set()
            producer.join()
        assert gathered <= 5
        assert len(contents(lake.snapshot())) == 51


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("way", ["flush", "close"])
def test_what_a_dead_commit_thread_dropped_is_told_by_flush_or_close(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging, gathered = threading.Event(), threading.Event()

    def fail() -> None:
        merging.set()
        gathered.wait()
        raise MemoryError

    with new_lake() as lake:
        monkeypatch.setattr(lake, "_merge_quietly", fail)
        writer = lake.writer(WriterOptions(flush_age_seconds=NEVER, merge_after=1))
        writer.put("committed", b"1")
        writer.flush()
        merging.wait()
        writer.put("dropped", b"2")
        gathered.set()
        assert writer._thread is not None
        writer._thread.join()
        with pytest.raises(VolumeFailed, match="MemoryError"):
            getattr(writer, way)()
        writer.close()
        assert contents(lake.snapshot()) == {"committed": b"1"}


@pytest.mark.parametrize("committed", [False, True])
def test_a_put_of_another_thread_is_moved_with_the_file_that_is_being_renamed(
    committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        writer.put("a", b"1")
        if committed:
            writer.flush()
        gather, threads = writer._add_all, []

        def gathered(path: str, *what: Any) -> PutHandle:
            if path == "b" and not threads:
                threads.append(threading.Thread(target=overwrite))
                threads[0].start()
                threads[0].join()
            return gather(path, *what)

        def overwrite() -> None:
            writer.put("a", b"2")
            if not committed:
                writer.flush()

        monkeypatch.setattr(writer, "_add_all", gathered)
        writer.rename("a", "b")
        writer.flush()
        assert contents(lake.snapshot()) == {"b": b"2"}


@pytest.mark.parametrize(
    "facts",
    [
        {"mtime_ns": 1 << 63},
        {"mtime_ns": -(1 << 63) - 1},
        {"mode": -1},
        {"attrs": {"label": 3}},
        {"attrs": {"label": "\ud800"}},
    ],
)
def test_what_no_row_can_say_is_refused_before_it_fails_the_batch(facts: dict[str, Any]) -> None:
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            writer.put("good", b"1")
            with pytest.raises(Invalid):
                writer.put("bad", b"2", **facts)
        assert contents(lake.snapshot()) == {"good": b"1"}


@pytest.fixture
def idle() -> Iterator[Writer]:
    """Return a writer that did nothing until all it had seen was rewritten and collected."""
    with new_lake() as lake, Lake.open(lake.volume) as other:
        for number in range(3):
            write(other, {f"a/{number}": b"x", f"z/{number}": b"x"})
        with lake.writer(QUIET) as writer:
            writer.put("a/own", b"1")
            writer.flush()
            write(other, {"z/later": b"2"})
            other.merge_index(everything=True)
            compact(other)
            assert collect(other, Retention(keep_seconds=0)).deleted
            yield writer


@pytest.mark.parametrize(
    "look",
    [
        lambda writer: [row.path for row in writer.ls("a")] == ["a/0", "a/1", "a/2", "a/own"],
        lambda writer: writer.stat("a/1").size == 1,
        lambda writer: writer.get("a/1") == b"x",
        lambda writer: writer.put("new/name", b"3"),
        lambda writer: writer.mkdir("new/name"),
        lambda writer: writer.delete("a/1"),
        lambda writer: writer.copy("a/1", "b"),
    ],
    ids=["ls", "stat", "get", "put", "mkdir", "delete", "copy"],
)
def test_a_writer_that_was_idle_for_longer_than_snapshots_are_kept_looks_at_the_newest(
    idle: Writer, look: Callable[[Writer], object]
) -> None:
    assert look(idle)


def test_a_lost_index_is_no_empty_directory_to_a_writer() -> None:
    with new_lake() as lake:
        write(lake, {"a/1": b"x"})
        lake.merge_index()
        (segment,) = lake.log.head().segments
        lake.volume.unlink(layout.segment_path(segment))
        with Lake.open(lake.volume) as other, other.writer(QUIET) as writer:
            for look in (lambda: writer.ls(), lambda: writer.stat("a/1")):
                with pytest.raises(Corrupt):
                    look()


def test_leaving_by_an_exception_drops_what_is_not_acknowledged() -> None:
    with new_lake() as lake:
        with pytest.raises(ZeroDivisionError), lake.writer(QUIET) as writer:
            writer.put("acknowledged", b"1")
            writer.flush()
            handle = writer.put("dropped", b"2")
            raise ZeroDivisionError
        with pytest.raises(VolumeFailed):
            handle.wait(0)
        assert contents(lake.snapshot()) == {"acknowledged": b"1"}
        with pytest.raises(Invalid):
            writer.put("late", b"")


def test_a_closed_writer_refuses_and_closes_twice() -> None:
    with new_lake() as lake:
        writer = lake.writer(QUIET)
        writer.put("a", b"1")
        writer.close()
        writer.close()
        with pytest.raises(Invalid, match="closed"):
            writer.put("b", b"2")
        assert contents(lake.snapshot()) == {"a": b"1"}
        assert "lakefeed-commit" not in {thread.name for thread in threading.enumerate()}


def test_a_writer_whose_thread_could_not_be_started_starts_it_with_the_next_put(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with new_lake() as lake, lake.writer(WriterOptions(flush_age_seconds=0)) as writer:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError):
                writer.put("refused", b"1")
        assert writer.put("taken", b"2").wait(60) == 1
        assert contents(lake.snapshot()) == {"taken": b"2"}


def test_an_interrupted_start_leaves_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    start = threading.Thread.start
    with new_lake() as lake, lake.writer(QUIET) as writer:
        with monkeypatch.context() as pressed:
            pressed.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.put("interrupted", b"1")
        writer.put("taken", b"2")
        started[0].join(60)
        assert not started[0].is_alive()
        assert writer.flush() == 1
        assert contents(lake.snapshot()) == {"taken": b"2"}


def test_a_writer_whose_thread_could_not_be_started_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        monkeypatch.setattr(threading.Thread, "start", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.put("refused", b"1")


class Kept(bytearray):
    """Bytes of which can be told whether somebody keeps them."""


def test_whoever_keeps_a_handle_keeps_no_bytes() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        data = Kept(b"bytes")
        kept = weakref.ref(data)
        handle = writer.put("a", data)
        del data
        writer.flush()
        gc.collect()
        assert kept() is None
        assert handle.wait(0) == 1


def test_a_failed_batch_that_nobody_asks_for_keeps_no_bytes() -> None:
    inner = MemoryVolume()
    Lake.create(inner).close()
    with Lake.open(FaultyVolume(inner, 1, verbs=["sync"])) as lake:
        writer = lake.writer(QUIET)
        data = Kept(b"bytes")
        kept = weakref.ref(data)
        batch = writer.put("a", data)._batch
        del data
        with writer._changed:
            writer._flush_wanted = True
            writer._changed.notify_all()
        assert batch.finished.wait(60)
        gc.collect()
        assert kept() is None
        with pytest.raises(VolumeFailed, match="fault"):
            writer.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused_and_harms_nothing() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        writer.put("a", b"1")
        child = os.fork()
        if not child:
            refused = 0
            for action in (lambda: writer.put("b", b"2"), writer.flush):
                try:
                    action()
                except Invalid:
                    refused += 1
            writer.close()
            os._exit(refused)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 2
        writer.flush()
        assert contents(lake.snapshot()) == {"a": b"1"}


@pytest.mark.slow
def test_many_threads_share_a_writer() -> None:
    options = WriterOptions(flush_age_seconds=NEVER, flush_files=50, merge_after=8)
    with new_lake() as lake, lake.writer(options) as writer:

        def work(name: int) -> None:
            for number in range(100):
                writer.put(f"{name}/{number}", f"{name}.{number}".encode())
                assert writer.get(f"{name}/{number}") == f"{name}.{number}".encode()
            writer.rename(f"{name}", f"done/{name}")

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.flush()
        expected = {f"done/{name}/{number}": f"{name}.{number}".encode()
                    for name in range(4) for number in range(100)}  # fmt: skip
        assert contents(lake.snapshot()) == expected
        assert check(lake, deep=True).clean


def test_facts_of_the_caller_are_in_the_history() -> None:
    with new_lake() as lake:
        with lake.writer(QUIET, operation="ingest", message="why", app={"offset": "9"}) as writer:
            writer.put("a", b"")
        (commit,) = lake.history()
        assert (commit.operation, commit.message, commit.app) == ("ingest", "why", {"offset": "9"})
