"""A commit refers to what is there, and says what failed first."""

from __future__ import annotations

import errno
import io
import tarfile
from dataclasses import replace
from typing import BinaryIO, cast

import pytest

from lakefeed.errors import Conflict, Invalid, VolumeFailed
from lakefeed.format.commit import Changes
from lakefeed.lake import layout
from lakefeed.lake.committing import read_up_to
from lakefeed.lake.garbage import Retention, collect, stored_files
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, compact, contents, new_lake, write
from tests.support.faulty import FaultyVolume

BIG = replace(QUIET, big_bytes=1000)


@pytest.mark.parametrize("stored", [True, False])
def test_a_rename_of_what_another_writer_deleted_moves_the_bytes_or_is_a_conflict(
    stored: bool,
) -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake, Lake.open(volume) as other, lake.writer(QUIET) as writer:
        write(other, {"a": b"1"})
        (pack,) = other.snapshot().state.packs
        writer.rename("a", "b")
        write(other, {}, delete=["a"])
        if stored:
            writer.flush()
            assert contents(lake.snapshot()) == {"b": b"1"}
        else:
            other.log.commit(Draft("test"), lambda state: Changes(remove_packs=(pack,)))
            with pytest.raises(Conflict, match="it was deleted"):
                writer.flush()
            assert contents(lake.snapshot()) == {}
            named = {layout.pack_path(id_) for id_ in lake.snapshot().state.packs}
            assert {*stored_files(volume)} - named == {layout.pack_path(pack)}


def test_what_cannot_be_removed_either_does_not_hide_what_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stuck(path: str) -> None:
        raise VolumeFailed(f"unlink {path}", errno=errno.EIO)

    inner = MemoryVolume()
    Lake.create(inner).close()
    monkeypatch.setattr(inner, "unlink", stuck)
    volume = FaultyVolume(inner, 1, verbs=["sync"])
    with Lake.open(volume) as lake, lake.writer(QUIET) as writer:
        writer.put("a", b"1")
        with pytest.raises(VolumeFailed, match="sync"):
            writer.flush()
    assert len([*stored_files(inner)]) == 1  # an orphan, for garbage collection


def test_a_batch_whose_small_files_cannot_be_written_leaves_no_big_one_behind() -> None:
    inner = MemoryVolume()
    Lake.create(inner).close()
    with Lake.open(FaultyVolume(inner, 2, verbs=["sync"])) as lake, lake.writer(BIG) as writer:
        writer.put_file("big", io.BytesIO(bytes(2000)))
        writer.put("small", b"1")
        with pytest.raises(VolumeFailed, match="sync"):
            writer.flush()
    assert [*stored_files(inner)] == []


def test_a_batch_that_is_a_conflict_leaves_no_big_file_behind() -> None:
    with new_lake() as lake, Lake.open(lake.volume) as other, lake.writer(BIG) as writer:
        write(other, {"a": b"1"})
        writer.put_file("big", io.BytesIO(bytes(2000)))
        writer.rename("a", "b")
        write(other, {}, delete=["a"])
        other.log.commit(Draft("test"), lambda state: Changes(remove_packs=(*state.packs,)))
        before = [*stored_files(lake.volume)]
        with pytest.raises(Conflict, match="it was deleted"):
            writer.flush()
        assert len(before) == 3
        assert len([*stored_files(lake.volume)]) == 2


def test_a_big_file_whose_writer_is_closed_meanwhile_leaves_nothing_behind() -> None:
    with new_lake() as lake:
        writer = lake.writer(BIG)

        class Closing(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell():
                    writer.close()
                return super().read(size)

        with pytest.raises(Invalid, match="it is closed"):
            writer.put_file("big", Closing(bytes(2000)))
        assert [*stored_files(lake.volume)] == []


def test_a_rename_outlives_the_snapshot_that_it_is_looked_up_in() -> None:
    with new_lake() as lake, Lake.open(lake.volume) as other, lake.writer(QUIET) as writer:
        write(lake, {"a": b"1"})
        writer.rename("a", "b")
        write(other, {"0": b"2", "z": b"3"})
        lake.log.head()
        compact(other)
        collect(other, Retention(keep_seconds=0, grace_seconds=0))
        writer.flush()
        assert contents(lake.snapshot()) == {"0": b"2", "b": b"1", "z": b"3"}


def test_a_member_as_tarfile_gives_it_out_is_read_up_to_its_end() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("a")
        info.size = 1000
        tar.addfile(info, io.BytesIO(b"x" * 1000))
    with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as tar:
        stream = tar.extractfile("a")
        assert stream is not None
        assert read_up_to(cast("BinaryIO", stream), 5000) == b"x" * 1000
