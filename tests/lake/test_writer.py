"""The writer: what is acknowledged is durable and visible; a failure reaches all who wait."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pytest

from lakefeed.errors import Invalid, NotFound
from lakefeed.format.pack import Meta
from lakefeed.format.rows import Codec, Kind
from lakefeed.lake.batch import Delete, Refer
from lakefeed.lake.check import check
from lakefeed.lake.garbage import stored_files
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.writer import WriterOptions
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import (
    QUIET,
    GatedVolume,
    all_rows,
    contents,
    new_lake,
    small_groups,
    write,
)

NEVER = 1e9


def test_nothing_is_visible_before_the_commit_and_all_of_it_after() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        handles = [writer.put(f"{number}", b"x") for number in range(3)]
        assert not any(handle.done() for handle in handles)
        assert contents(lake.snapshot()) == {}
        assert writer.flush() == 1
        assert [handle.wait(0) for handle in handles] == [1, 1, 1]
        assert len(contents(lake.snapshot())) == 3


def test_a_handle_not_yet_durable_times_out() -> None:
    with new_lake() as lake, lake.writer(QUIET) as writer:
        handle = writer.put("a", b"1")
        with pytest.raises(TimeoutError):
            handle.wait(0)


@pytest.mark.parametrize(
    "options",
    [
        WriterOptions(flush_age_seconds=NEVER, flush_files=3, merge_after=0),
        WriterOptions(flush_age_seconds=NEVER, flush_bytes=30, merge_after=0),
        WriterOptions(flush_age_seconds=0.001, merge_after=0),
    ],
    ids=["count", "size", "age"],
)
def test_a_batch_is_committed_by_count_size_or_age(options: WriterOptions) -> None:
    with new_lake() as lake, lake.writer(options) as writer:
        for number in range(3):
            handle = writer.put(f"{number}", bytes(10))
        assert handle.wait(60) >= 1
        assert len(contents(lake.snapshot())) == 3


def test_the_newest_of_several_writes_in_a_batch_stands() -> None:
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            writer.put("a", b"1")
            writer.put("a", b"2")
            writer.put("b", b"1")
            writer.delete("b")
            writer.put("c", b"1")
            writer.delete("c")
            writer.put("c", b"3")
        assert contents(lake.snapshot()) == {"a": b"2", "c": b"3"}


def test_the_writer_reads_pending_in_flight_and_committed_writes() -> None:
    volume = GatedVolume(MemoryVolume())
    with new_lake(volume) as lake, lake.writer(QUIET) as writer:
        volume.gate.set()
        writer.put("dir/committed", b"1")
        writer.put("dir/replaced", b"old")
        writer.flush()
        volume.gate.clear()
        volume.reached.clear()
        writer.put("dir/in-flight", b"2")
        writer.put("dir/replaced", b"new")
        flushing = threading.Thread(target=writer.flush)
        flushing.start()
        assert volume.reached.wait(60)
        writer.put("dir/pending", b"3")
        writer.delete("dir/committed")
        names = ["dir/in-flight", "dir/pending", "dir/replaced"]
        assert [row.path for row in writer.ls("dir")] == names
        assert [writer.get(name) for name in names] == [b"2", b"3", b"new"]
        assert writer.stat("dir").kind is Kind.DIR
        with pytest.raises(NotFound):
            writer.get("dir/committed")
        volume.gate.set()
        flushing.join()
        assert [writer.get(name) for name in names] == [b"2", b"3", b"new"]


def test_a_writer_looks_no_further_into_a_directory_than_at_its_first_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, seen = Snapshot.scan_range, []

    def counted(snapshot: Snapshot, low: str, high: str | None) -> Iterator[pa.Table]:
        for table in usual(snapshot, low, high):
            seen.append(len(table))
            yield table

    with small_groups(), new_lake() as lake:
        write(lake, {f"d/{number:03}": b"" for number in range(300)})
        with lake.writer(QUIET) as writer:
            writer.delete("d/000")
            monkeypatch.setattr(Snapshot, "scan_range", counted)
            assert writer.stat("d").kind is Kind.DIR
            assert [row.path for row in writer.ls()] == ["d"]
            writer.put("d/new", b"")
            with pytest.raises(Invalid):
                writer.put("d", b"")
            assert 0 < sum(seen) < 200
            for number in range(1, 300):
                writer.delete(f"d/{number:03}")
            writer.delete("d/new")
            with pytest.raises(NotFound):
                writer.stat("d")


def test_a_full_batch_behind_one_in_flight_makes_put_wait() -> None:
    volume = GatedVolume(MemoryVolume())
    options = WriterOptions(flush_age_seconds=NEVER, flush_files=2, merge_after=0)
    with new_lake(volume) as lake, lake.writer(options) as writer:
        first = [writer.put(f"first/{number}", b"") for number in range(2)]
        assert volume.reached.wait(60)
        for number in range(2):
            writer.put(f"second/{number}", b"")
        done_when_put_returned: list[bool] = []

        def put_one_more() -> None:
            writer.put("third", b"")
            done_when_put_returned.append(first[0].done())

        thread = threading.Thread(target=put_one_more)
        thread.start()
        thread.join(0.05)  # gives a put that does not wait the time to show it
        volume.gate.set()
        thread.join()
        assert done_when_put_returned == [True]
    assert len(contents(lake.snapshot())) == 5


# -- moving, copying, deleting ---------------------------------------------------------------------


@pytest.mark.parametrize("when", ["pending", "in flight", "committed"])
def test_files_and_directories_are_renamed_in_any_state(when: str) -> None:
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            for name in ("old/a", "old/sub/b", "old!", "single"):
                writer.put(name, name.encode())
            if when == "committed":
                writer.flush()
            elif when == "in flight":
                with writer._changed:
                    writer._flush_wanted = True
                    writer._changed.notify_all()
            writer.rename("old", "new/place")
            writer.rename("single", "new/single")
            writer.rename("new/single", "last")
            assert [row.path for row in writer.ls("new/place")] == ["new/place/a", "new/place/sub"]
            assert writer.get("new/place/sub/b") == b"old/sub/b"
        expected = {"new/place/a": b"old/a", "new/place/sub/b": b"old/sub/b", "old!": b"old!",
                    "last": b"single"}  # fmt: skip
        assert contents(lake.snapshot()) == expected
        lake.merge_index(everything=True)
        assert contents(lake.snapshot()) == expected
        assert check(lake, deep=True).clean


def test_a_rename_of_committed_files_moves_no_bytes() -> None:
    with new_lake() as lake:
        write(lake, {"a/big": bytes(100_000)})
        with lake.writer(QUIET) as writer:
            writer.rename("a", "b")
        newest = max(lake.snapshot().state.packs.values(), key=lambda info: info.seq)
        assert newest.sealed.payload_end < 100
        assert contents(lake.snapshot()) == {"b/big": bytes(100_000)}


def test_a_rename_replaces_a_file_and_keeps_its_facts() -> None:
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            writer.put("a", b"1", mtime_ns=7, mode=0o600, attrs={"label": "x"})
            writer.put("b", b"2")
        with lake.writer(QUIET) as writer:
            writer.rename("a", "b")
        (row,) = all_rows(lake.snapshot())
        assert (row.path, row.mtime_ns, row.mode, row.attrs) == ("b", 7, 0o600, {"label": "x"})


def test_a_copy_lives_on_when_its_origin_changes() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        with lake.writer(QUIET) as writer:
            writer.copy("a", "b")
            writer.put("a", b"2")
            writer.copy("a", "c")
            writer.delete("a")
        assert contents(lake.snapshot()) == {"b": b"1", "c": b"2"}


def test_another_writer_between_rename_and_commit_is_not_lost() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake, Lake.open(volume) as other:
        write(lake, {"a": b"1"})
        with lake.writer(QUIET) as writer:
            writer.rename("a", "b")
            write(other, {"a": b"2", "x": b"x"})
        # The commit moved what was there when it was made.
        assert contents(lake.snapshot()) == {"b": b"2", "x": b"x"}


def test_what_changes_a_tree_changes_what_another_writer_has_put_there() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake, Lake.open(volume) as other, lake.writer(QUIET) as writer:
        writer.put("own", b"1")
        writer.flush()
        writer.put("gathered", b"2")
        write(other, {f"{tree}/x": b"x" for tree in ("moved", "copied", "deleted")})
        writer.rename("moved", "there")
        writer.copy_tree("copied", "copy")
        writer.delete_tree("deleted")
        writer.flush()
        assert contents(lake.snapshot()) == {
            "own": b"1", "gathered": b"2", "there/x": b"x", "copied/x": b"x", "copy/x": b"x",
        }  # fmt: skip


def test_a_tree_is_deleted_in_one_commit() -> None:
    with new_lake() as lake:
        number = write(lake, {"t/a": b"", "t/b/c": b"", "t!": b"", "u": b""})
        with lake.writer(QUIET) as writer:
            writer.put("t/pending", b"")
            writer.delete_tree("t")
            writer.delete_tree("u")
            for missing in ("t", "t/a", "u", "nothing"):
                with pytest.raises(NotFound):
                    writer.delete_tree(missing)
                with pytest.raises(NotFound):
                    writer.delete(missing)
        assert list(contents(lake.snapshot())) == ["t!"]
        assert lake.snapshot().number == number + 1


# -- files and streams -----------------------------------------------------------------------------


def test_a_local_file_keeps_its_mode_and_time(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"bytes")
    source.chmod(0o640)
    os.utime(source, ns=(1, 1_234_567_890))
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            writer.put_file("a", source)
            with pytest.raises(FileNotFoundError):
                writer.put_file("b", tmp_path / "missing")
        (row,) = all_rows(lake.snapshot())
        assert (row.mode, row.mtime_ns, row.size) == (0o640, 1_234_567_890, 5)


def test_a_stream_above_the_limit_gets_a_pack_of_its_own() -> None:
    options = WriterOptions(flush_age_seconds=NEVER, big_bytes=1000, merge_after=0)
    big, bigger = os.urandom(100_000), os.urandom(5_000_000)
    with new_lake() as lake:
        with lake.writer(options) as writer:
            writer.put_file("big", io.BytesIO(big))
            writer.put("small", b"1")
            # A path lives in one pack of a commit: each of these waits for the batch before.
            writer.put("big", b"2")
            writer.put_file("small", io.BytesIO(bigger))
            writer.put_file("edge", io.BytesIO(bytes(1000)))
        expected = {"big": b"2", "small": bigger, "edge": bytes(1000)}
        assert contents(lake.snapshot()) == expected
        assert check(lake, deep=True).clean


@pytest.mark.parametrize("codec", list(Codec))
def test_payloads_read_back_in_either_codec(codec: Codec) -> None:
    files = {"text": b"word " * 5000, "random": os.urandom(5000), "empty": b"", "one": b"1"}
    options = WriterOptions(flush_age_seconds=NEVER, codec=codec, merge_after=0)
    with new_lake() as lake:
        with lake.writer(options) as writer:
            for path, data in files.items():
                writer.put(path, data)
        assert contents(lake.snapshot()) == files
        lengths = {row.path: row.length for row in all_rows(lake.snapshot())}
        assert (lengths["text"] < 5000) == (codec is Codec.ZSTD)
        assert lengths["random"] == 5000


@pytest.mark.parametrize("codec", Codec)
def test_memory_of_any_shape_is_stored_as_its_bytes_and_harms_no_neighbour(codec: Codec) -> None:
    picture = np.arange(48, dtype=np.float32).reshape(4, 4, 3)
    with new_lake() as lake:
        with lake.writer(WriterOptions(flush_age_seconds=NEVER, codec=codec)) as writer:
            writer.put("a", b"before")
            writer.put("b", picture)  # type: ignore[arg-type]
            writer.put("c", np.full(99, 7, np.uint8))  # type: ignore[arg-type]
            assert writer.get("b") == picture.tobytes()
        expected = {"a": b"before", "b": picture.tobytes(), "c": b"\x07" * 99}
        assert contents(lake.snapshot()) == expected


def test_a_reference_can_have_times_mode_and_attributes_of_its_own() -> None:
    with new_lake() as lake:
        with lake.writer() as writer:
            writer.put("a", b"bytes", mtime_ns=1, mode=0o644)
            writer.flush()
            row = writer.stat("a")
            writer.apply({"b": Refer("a", row, Meta(7, 0o600, {"k": "v"})), "a": Delete()})
            assert writer.stat("b")[8:11] == (7, 0o600, {"k": "v"})
            writer.flush()
        found = lake.snapshot().stat("b")
        assert (found.mtime_ns, found.mode, found.attrs) == (7, 0o600, {"k": "v"})
        assert (found.pack, found.offset, found.crc32c) == (row.pack, row.offset, row.crc32c)
        assert lake.snapshot().get("b") == b"bytes"
        assert not lake.snapshot().exists("a")


@pytest.mark.parametrize("size", [0, 999, 1000, 1001, 5000])
def test_a_stream_that_gives_less_than_was_asked_for_is_read_to_its_end(size: int) -> None:
    class Dripping(io.RawIOBase):
        """What a pipe or a socket is: each read brings what has come so far."""

        def __init__(self, data: bytes) -> None:
            super().__init__()
            self._rest = data

        def read(self, size: int = -1) -> bytes:
            data, self._rest = self._rest[: min(size, 7)], self._rest[min(size, 7) :]
            return data

    data = os.urandom(size)
    options = WriterOptions(flush_age_seconds=NEVER, big_bytes=1000, merge_after=0)
    with new_lake() as lake:
        with lake.writer(options) as writer:
            writer.put_file("a", cast(BinaryIO, Dripping(data)))
        assert lake.snapshot().get("a") == data


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("big_bytes", [100, 1000])
def test_a_stream_that_does_not_wait_is_never_taken_for_one_that_ended(
    buffering: int, big_bytes: int
) -> None:
    options = WriterOptions(flush_age_seconds=NEVER, big_bytes=big_bytes, merge_after=0)
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.write(theirs, b"x" * 500)
    with new_lake() as lake, lake.writer(options) as writer:
        with open(ours, "rb", buffering) as stream, pytest.raises(Invalid, match="waits"):
            writer.put_file("a", cast(BinaryIO, stream))
        writer.flush()
        assert all_rows(lake.snapshot()) == []
        assert list(stored_files(lake.volume)) == []
    os.close(theirs)


@pytest.mark.parametrize(("typed_at_a_terminal", "asked"), [(True, 1), (False, 2)])
def test_a_person_ends_a_file_once(typed_at_a_terminal: bool, asked: int) -> None:
    class Asked(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.count += 1
            return super().read(size)

        def isatty(self) -> bool:
            return typed_at_a_terminal

    stream = Asked(b"typed")
    with new_lake() as lake, lake.writer(QUIET) as writer:
        writer.put_file("a", stream)
        assert (writer.get("a"), stream.count) == (b"typed", asked)
