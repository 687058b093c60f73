"""Files opened for writing through fsspec, and what comes back of a pickled one."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import pickle
from pathlib import Path

import pytest

from lakefeed import Lake, SnapshotExpired, VolumeFailed
from lakefeed.adapters.fsspec import LakeFileSystem, local
from lakefeed.adapters.fsspec.files import WriteFile
from lakefeed.format.rows import Row
from lakefeed.lake import view
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.writer import Writer
from tests.adapters.lakes import BIG, commits, stored
from tests.lake.tools import compact


def test_a_closed_file_is_durable_and_an_open_one_invisible(fs: LakeFileSystem) -> None:
    with fs.open("a", "wb") as file:
        file.write(b"so")
        file.write(b"on")
        assert file.tell() == 4
        assert not fs.exists("a")
    assert stored(fs, "a") == b"soon"


@pytest.mark.slow
def test_a_big_file_streams_into_the_lake(fs: LakeFileSystem) -> None:
    with fs.open("big", "wb", block_size=1 << 20) as file:
        for start in range(0, len(BIG), 5 << 18):
            file.write(BIG[start : start + (5 << 18)])
    assert stored(fs, "big") == BIG
    with fs.open("big", "rb") as file:
        assert b"".join(iter(lambda: file.read(3 << 20), b"")) == BIG


def test_a_file_whose_writer_fails_never_appears(fs: LakeFileSystem) -> None:
    for blocks in (1, 40):
        with pytest.raises(KeyError), fs.open("half", "wb", block_size=1 << 16) as file:
            file.write(b"x" * (blocks << 14))
            raise KeyError("the program")
    assert not fs.exists("half")
    assert commits(fs) == 0
    assert list(Path(str(fs.lake)).glob("packs/*/*")) == []


@pytest.mark.parametrize("compression", [None, "gzip", "bz2", "xz", "zip"])
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_text_and_compressed_files_are_whole_or_not_at_all(
    fs: LakeFileSystem, mode: str, compression: str | None
) -> None:
    half = "half" if mode == "w" else b"half"
    with pytest.raises(KeyError), fs.open("half", mode, compression=compression) as file:
        file.write(half)
        raise KeyError("the program")
    assert file.closed
    del file
    gc.collect()
    assert commits(fs) == 0
    with fs.open("whole", mode, compression=compression) as file:
        file.write(half * 2)
    assert file.closed
    with fs.open("whole", mode.replace("w", "r"), compression=compression) as twin:
        assert twin.read() == half * 2
    with pytest.raises(LookupError):
        fs.open("no", "w", compression=compression, encoding="none such")
    gc.collect()
    assert commits(fs) == 1


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_what_nobody_closed_is_whole_at_the_end_of_its_transaction(
    fs: LakeFileSystem, mode: str, compression: str | None
) -> None:
    words = "words" if mode == "w" else b"words"
    with fs.transaction:
        file = fs.open("left open", mode, compression=compression)
        file.write(words)
    with fs.open("left open", mode.replace("w", "r"), compression=compression) as twin:
        assert twin.read() == words


def test_text_that_cannot_be_handed_on_is_not_stored_in_part(
    fs: LakeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    file = fs.open("text", "w")
    file.write("words")
    monkeypatch.setattr(WriteFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.close()
    assert file.closed and commits(fs) == 0


def test_text_is_written_as_asked(fs: LakeFileSystem) -> None:
    with fs.open("a.txt.gz", "wt", compression="infer", encoding="latin-1", newline="\r\n") as file:
        print("ä", file=file)
    assert gzip.decompress(fs.cat("a.txt.gz")) == b"\xe4\r\n"
    with fs.transaction, fs.open("b", "at") as file:
        file.write("b")
        assert not fs.exists("b")
    assert fs.cat("b") == b"b"


def test_a_failing_volume_is_an_error_for_who_writes(
    fs: LakeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise VolumeFailed("pack", errno=errno.ENOSPC)

    monkeypatch.setattr(Writer, "put_file", full)
    file = fs.open("a", "wb", block_size=1 << 10)
    with pytest.raises(VolumeFailed) as caught:
        for _ in range(100):
            file.write(b"x" * (1 << 10))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(VolumeFailed):
        file.close()
    assert file.closed and not fs.exists("a")


def test_modes_mean_what_they_mean_for_open(fs: LakeFileSystem) -> None:
    with fs.open("log", "ab") as file:
        file.write(b"one ")
    with fs.open("log", "a") as file:
        file.write("two")
    assert fs.cat("log") == b"one two"
    with pytest.raises(FileExistsError):
        fs.open("log", "xb")
    with pytest.raises(FileExistsError):
        fs.pipe_file("log", b"", mode="create")
    fs.mkdir("d")
    with pytest.raises(IsADirectoryError):
        fs.open("d", "wb")
    with pytest.raises(IsADirectoryError):
        fs.open("d", "rb")
    with pytest.raises(FileNotFoundError):
        fs.open("none", "rb")
    with pytest.raises(ValueError, match="mode"):
        fs.open("log", "r+b")


@pytest.mark.slow
def test_appending_that_cannot_read_the_file_changes_nothing(
    fs: LakeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe({"small": b"precious", "big": BIG[: 9 << 20]})
    read = Snapshot.read_row_range

    def failing(snapshot: Snapshot, row: Row, offset: int, length: int) -> bytes:
        if row.path == "small" or offset >= 8 << 20:
            raise VolumeFailed(row.path, errno=errno.EIO)
        return read(snapshot, row, offset, length)

    monkeypatch.setattr(Snapshot, "read_row_range", failing)
    for name in ("small", "big"):
        with pytest.raises(VolumeFailed):
            fs.open(name, "ab")
    gc.collect()
    assert commits(fs) == 1


def test_appending_sees_its_transaction_and_keeps_mode_and_attributes(fs: LakeFileSystem) -> None:
    with Lake.open(str(fs.lake)) as lake, lake.writer() as writer:
        writer.put("log", b"0", mode=0o750, attrs={"label": "cat"})
        writer.put("gone", b"gone")
    with fs.transaction:
        for line in (b"1", b"2"):
            with fs.open("log", "ab") as file:
                file.write(line)
        fs.rm("gone")
        with fs.open("gone", "ab") as file:
            file.write(b"new")
        fs.mkdir("d")
        with pytest.raises(IsADirectoryError):
            fs.open("d", "ab")
    assert fs.cat(["log", "gone"]) == {"log": b"012", "gone": b"new"}
    info = fs.info("log")
    assert (info["mode"], info["attrs"]) == (0o750, {"label": "cat"})
    with fs.open("log", "ab", block_size=1) as file:
        file.write(b"3")
    assert (fs.cat("log"), fs.info("log")["mode"]) == (b"0123", 0o750)


def test_a_filesystem_and_an_open_file_survive_pickling(fs: LakeFileSystem) -> None:
    fs.pipe_file("a", b"hello")
    twin = pickle.loads(pickle.dumps(fs))
    assert twin.cat("a") == b"hello" and twin.lake == fs.lake
    with fs.open("a") as file:
        file.seek(2)
        assert pickle.loads(pickle.dumps(file)).read() == b"llo"
    assert pickle.loads(pickle.dumps(LakeFileSystem(lake=fs.lake, at=1))).at == "1"
    assert LakeFileSystem.from_json(fs.to_json()).cat("a") == b"hello"
    LakeFileSystem.clear_instance_cache()


def test_a_pickled_file_comes_back_as_the_version_it_was(fs: LakeFileSystem) -> None:
    fs.pipe({"a": b"first a", "b": b"first b"})
    with fs.open("a", block_size=5) as a, fs.open("b") as b:
        a.read(6)
        pickled_a, pickled_b = pickle.dumps(a), pickle.dumps(b)
    fs.pipe_file("a", b"second")
    with pickle.loads(pickled_a) as twin:
        assert (twin.read(), twin.blocksize, twin.details["name"]) == (b"a", 5, "a")
    with Lake.open(str(fs.lake)) as lake:
        compact(lake)
        collect(lake, Retention(keep_seconds=0, grace_seconds=0))
    with pytest.raises(SnapshotExpired):
        pickle.loads(pickled_a)
    with pickle.loads(pickled_b) as twin:
        assert twin.read() == b"first b"


def test_a_big_file_is_handed_on_in_pieces_and_whole(
    fs: LakeFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "PIECE_BYTES", 1 << 20)
    monkeypatch.setattr(local, "HELD_BYTES", 1 << 20)
    data = bytes(range(251)) * 20_000
    fs.pipe_file("big", data)
    held = io.BytesIO()
    fs.get_file("big", outfile=held)
    fs.get_file("big", str(tmp_path / "local"))
    assert held.getvalue() == (tmp_path / "local").read_bytes() == data
    fs.touch("big", truncate=False)
    assert stored(fs, "big") == data
    with fs.open("big", "ab") as file:
        file.write(b"end")
    assert stored(fs, "big") == data + b"end"
