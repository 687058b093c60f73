"""Writes through fsspec: one call is one commit, durable on return, whole or not at all."""

from __future__ import annotations

import errno
import gc
import gzip
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.transaction import Transaction

from lakefeed import Conflict, Invalid, Lake, SnapshotExpired, VolumeFailed
from lakefeed.adapters.fsspec import LakeFileSystem
from lakefeed.format.rows import Row
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.writer import Writer
from tests.lake.tools import compact

BIG = bytes(range(251)) * (3 << 16)  # 47 MiB: streamed in several blocks


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[LakeFileSystem]:
    Lake.create(tmp_path / "lake").close()
    fs = LakeFileSystem(lake=f"{tmp_path}/lake", skip_instance_cache=True)
    yield fs
    fs.close()


def commits(fs: LakeFileSystem) -> int:
    with Lake.open(str(fs.lake)) as lake:
        return lake.snapshot().number


def stored(fs: LakeFileSystem, path: str) -> bytes:
    """What another process would find."""
    with Lake.open(str(fs.lake)) as lake:
        return lake.snapshot().get(path)


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


def test_a_transaction_keeps_the_bytes_that_it_was_given(fs: LakeFileSystem) -> None:
    buffer = bytearray(b"1")
    with fs.transaction:
        fs.pipe_file("a", buffer)
        buffer[:] = b"2"
        fs.pipe_file("b", buffer)
    assert fs.cat(["a", "b"]) == {"a": b"1", "b": b"2"}


def test_many_files_are_one_commit(fs: LakeFileSystem) -> None:
    fs.pipe({f"d/{number}": b"%d" % number for number in range(50)})
    assert commits(fs) == 1
    fs.copy("d", "e", recursive=True)
    assert commits(fs) == 2
    assert fs.cat("e/7") == b"7"
    fs.rm("d", recursive=True)
    assert commits(fs) == 3
    assert fs.ls("", detail=False) == ["e"]


def test_a_transaction_is_one_commit_of_everything(fs: LakeFileSystem) -> None:
    fs.pipe({"old": b"old", "gone": b"", "tree/x": b"x"})
    with fs.transaction:
        with fs.open("a", "wb") as file:
            file.write(b"a")
        fs.pipe_file("b", b"b")
        fs.mv("old", "new")
        fs.rm("gone")
        fs.mkdir("dir")
        fs.cp_file("tree/x", "tree/y")
        assert not fs.exists("a") and fs.exists("old")
    assert commits(fs) == 2
    assert fs.find("", withdirs=True) == ["a", "b", "dir", "new", "tree", "tree/x", "tree/y"]
    assert fs.cat("new") == b"old"


@pytest.mark.slow
def test_an_abandoned_transaction_changes_nothing(fs: LakeFileSystem) -> None:
    with pytest.raises(KeyError), fs.transaction:
        fs.pipe_file("a", b"a")
        with fs.open("big", "wb", block_size=1 << 20) as file:
            file.write(BIG)
        raise KeyError("the program")
    assert fs.find("") == []
    assert commits(fs) == 0
    fs.pipe_file("after", b"")
    assert fs.find("") == ["after"]


def test_a_failed_transaction_is_over(fs: LakeFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(self: Transaction, commit: bool = True) -> None:
        """What fsspec 2024.6 does."""
        while self.files:
            file = self.files.popleft()
            file.commit() if commit else file.discard()
        self.fs._intrans = False
        self.fs._transaction = None
        self.fs = None

    monkeypatch.setattr(Transaction, "complete", complete)
    fs.pipe_file("a", b"a file")
    with pytest.raises(Invalid), fs.transaction:
        open_files = [fs.open("a/below", "wb"), fs.open("b", "wb")]
    assert all(file.closed for file in open_files)
    fs.pipe_file("later", b"later")
    assert fs.find("") == ["a", "later"]


def test_a_transaction_can_be_started_and_ended_by_hand(fs: LakeFileSystem) -> None:
    fs.start_transaction()
    fs.pipe_file("a", b"a")
    fs.touch("b")
    assert commits(fs) == 0
    fs.end_transaction()
    assert commits(fs) == 1
    file = fs.open("c", "wb", autocommit=False)
    file.write(b"c")
    file.close()
    assert not fs.exists("c")
    file.commit()
    assert fs.cat("c") == b"c"


def test_moves_and_copies_move_no_bytes(fs: LakeFileSystem) -> None:
    fs.pipe_file("src/file", b"x" * 100_000)
    packs = Path(str(fs.lake)) / "packs"
    before = sum(path.stat().st_size for path in packs.glob("*/*"))
    fs.cp_file("src/file", "copy")
    fs.mv("src", "dst", recursive=True)
    assert sum(path.stat().st_size for path in packs.glob("*/*")) < before + 20_000
    assert fs.find("") == ["copy", "dst/file"]
    fs.mv("copy", "dst")
    assert fs.find("") == ["dst/copy", "dst/file"]
    fs.mv("dst/copy", "dst/file")
    assert fs.find("") == ["dst/file"]
    with pytest.raises(FileNotFoundError):
        fs.mv("none", "x")


def test_moving_onto_what_is_in_the_way_is_refused(fs: LakeFileSystem) -> None:
    fs.pipe({"d/f": b"", "e/d/x": b"", "file": b"", "g/f/y": b""})
    with pytest.raises(OSError, match="not empty"):
        fs.mv("d", "e")
    with pytest.raises(NotADirectoryError):
        fs.mv("d", "file")
    with pytest.raises(IsADirectoryError):
        fs.mv("d/f", "g")


def test_removing_follows_the_usual_rules(fs: LakeFileSystem) -> None:
    fs.pipe({"d/f": b"", "d/e/f": b"", "x1": b"", "x2": b""})
    fs.mkdir("empty")
    with pytest.raises(IsADirectoryError):
        fs.rm("d")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("d")
    with pytest.raises(NotADirectoryError):
        fs.rmdir("x1")
    with pytest.raises(FileNotFoundError):
        fs.rm("none")
    fs.rmdir("empty")
    fs.rm("x*")
    fs.rm(["d/f"])
    assert fs.find("") == ["d/e/f"]
    fs.rm("d", recursive=True, maxdepth=1)
    assert fs.find("") == ["d/e/f"]
    fs.rm("", recursive=True)
    assert fs.ls("") == []


def test_directories_are_made_as_asked(fs: LakeFileSystem) -> None:
    fs.pipe_file("file", b"")
    fs.makedirs("a/b/c")
    fs.makedirs("a/b/c", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.makedirs("a/b/c")
    with pytest.raises(FileExistsError):
        fs.mkdir("file")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("x/y", create_parents=False)
    with pytest.raises(NotADirectoryError):
        fs.mkdir("file/below")
    assert fs.find("", withdirs=True) == ["a", "a/b", "a/b/c", "file"]


def test_touch_makes_a_file_or_gives_it_a_new_time(fs: LakeFileSystem) -> None:
    with Lake.open(str(fs.lake)) as lake, lake.writer() as writer:
        writer.put("f", b"kept", mtime_ns=10**18, mode=0o600, attrs={"label": "cat"})
    fs.touch("f", truncate=False)
    info = fs.info("f")
    assert info["mtime"] > 10**9 and (info["mode"], info["attrs"]) == (0o600, {"label": "cat"})
    assert fs.cat("f") == b"kept"
    fs.touch("f")
    assert fs.cat("f") == b""


def test_a_snapshot_cannot_be_written(fs: LakeFileSystem) -> None:
    fs.pipe_file("a", b"a")
    old = LakeFileSystem(lake=fs.lake, at=1, skip_instance_cache=True)
    writes = [lambda: old.pipe_file("b", b""), lambda: old.rm("a"), lambda: old.mv("a", "b"),
              lambda: old.mkdir("d"), lambda: old.open("b", "wb"), lambda: old.cp_file("a", "c"),
              lambda: old.touch("a")]  # fmt: skip
    for write in writes:
        with pytest.raises(OSError, match="cannot be changed") as caught:
            write()
        assert caught.value.errno == errno.EROFS
    assert commits(fs) == 1
    old.close()


def test_files_are_copied_out_of_a_snapshot_and_between_lakes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Lake.create(tmp_path / name).close()
    fs = LakeFileSystem(skip_instance_cache=True)
    fs.pipe_file(f"{tmp_path}/one/d/f", b"first")
    fs.pipe_file(f"{tmp_path}/one/d/f", b"second")
    fs.cp_file(f"{tmp_path}/one@1/d/f", f"{tmp_path}/one/restored")
    fs.copy(f"{tmp_path}/one/d", f"{tmp_path}/two/d", recursive=True)
    fs.mv(f"{tmp_path}/one/restored", f"{tmp_path}/two/moved")
    assert fs.find(f"{tmp_path}/one") == [f"{tmp_path}/one/d/f"]
    assert fs.cat(f"{tmp_path}/two", recursive=True) == {
        f"{tmp_path}/two/d/f": b"second",
        f"{tmp_path}/two/moved": b"first",
    }
    fs.close()


@pytest.fixture
def lakes(tmp_path: Path) -> Iterator[tuple[LakeFileSystem, str, str]]:
    """A filesystem of two lakes; the first holds `d/f` and `d/g`."""
    one, two = f"{tmp_path}/one", f"{tmp_path}/two"
    Lake.create(one).close()
    Lake.create(two).close()
    fs = LakeFileSystem(skip_instance_cache=True)
    fs.pipe({f"{one}/d/f": b"f", f"{one}/d/g": b"g"})
    yield fs, one, two
    fs.close()


def commit_elsewhere(root: str, path: str) -> None:
    with Lake.open(root) as lake, lake.writer() as writer:
        writer.put(path, b"elsewhere")


def test_a_move_to_another_lake_removes_nothing_before_the_copy_is_durable(
    lakes: tuple[LakeFileSystem, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, one, two = lakes
    close, lost = Writer.close, []

    def closing(writer: Writer) -> None:
        close(writer)
        lost.extend(
            n for n in "fg" if not fs.exists(f"{one}/d/{n}") and not fs.exists(f"{two}/{n}")
        )

    monkeypatch.setattr(Writer, "close", closing)
    fs.mv(f"{one}/d/f", f"{two}/f")
    with fs.transaction:
        fs.pipe_file(f"{one}/first", b"the lake that is changed first")
        fs.mv(f"{one}/d/g", f"{two}/g")
    assert fs.find(one) == [f"{one}/first"]
    assert fs.find(two) == [f"{two}/f", f"{two}/g"]
    assert lost == []


def test_a_move_leaves_what_was_added_meanwhile(
    lakes: tuple[LakeFileSystem, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, one, two = lakes
    copy = LakeFileSystem.copy

    def copying(self: LakeFileSystem, *args: object, **options: object) -> None:
        copy(self, *args, **options)
        commit_elsewhere(one, "d/late")

    monkeypatch.setattr(LakeFileSystem, "copy", copying)
    fs.mv(f"{one}/d/*", f"{one}/e/")
    assert fs.find(one) == [f"{one}/d/late", f"{one}/e/f", f"{one}/e/g"]
    fs.mv(f"{one}/e", f"{two}/e", recursive=True)
    assert fs.find(one) == [f"{one}/d/late"]
    assert fs.find(two) == [f"{two}/e/f", f"{two}/e/g"]
    fs.mv(f"{one}/d/*", f"{one}/d/")
    assert fs.find(one) == [f"{one}/d/late"]


def test_a_move_refuses_to_remove_what_has_changed_meanwhile(
    lakes: tuple[LakeFileSystem, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, one, two = lakes
    copy = LakeFileSystem.copy

    def copying(self: LakeFileSystem, *args: object, **options: object) -> None:
        copy(self, *args, **options)
        commit_elsewhere(one, "d/g")

    monkeypatch.setattr(LakeFileSystem, "copy", copying)
    with pytest.raises(Conflict, match="d/g"):
        fs.mv(f"{one}/d", f"{two}/d", recursive=True)
    assert fs.cat(one, recursive=True) == {f"{one}/d/f": b"f", f"{one}/d/g": b"elsewhere"}
    assert fs.cat(two, recursive=True) == {f"{two}/d/f": b"f", f"{two}/d/g": b"g"}


def test_a_move_to_another_lake_takes_what_was_asked_for(
    lakes: tuple[LakeFileSystem, str, str],
) -> None:
    fs, one, two = lakes
    fs.mkdir(f"{one}/d/empty")
    with pytest.raises(IsADirectoryError):
        fs.mv(f"{one}/d", f"{two}/d")
    fs.pipe_file(f"{one}/d/deep/f", b"deep")
    fs.mv(f"{one}/d", f"{two}/shallow", recursive=True, maxdepth=1)
    assert fs.find(f"{two}") == [f"{two}/shallow/f", f"{two}/shallow/g"]
    assert fs.find(one) == [f"{one}/d/deep/f"]
    fs.mv(f"{one}/d", f"{two}/d", recursive=True)
    assert fs.ls(one) == []
    assert fs.isdir(f"{two}/d/empty") and fs.isfile(f"{two}/d/deep/f")
    with pytest.raises(OSError, match="cannot be changed"):
        fs.mv(f"{one}@1/d/f", f"{two}/f")


def test_two_spellings_of_a_lake_are_one_lake(
    lakes: tuple[LakeFileSystem, str, str], tmp_path: Path
) -> None:
    fs, one, _ = lakes
    (tmp_path / "alias").symlink_to(one)
    fs.mv(f"{one}/d/f", f"{tmp_path}/alias/d/f")
    fs.mv(f"{one}/d", f"{tmp_path}/alias/e")
    assert fs.find(f"{tmp_path}/alias") == [f"{tmp_path}/alias/e/{name}" for name in "fg"]


def test_trees_come_and_go_with_names_bytes_and_times(fs: LakeFileSystem, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "sub" / "empty").mkdir(parents=True)
    for number in range(30):
        (source / "sub" / f"{number}.bin").write_bytes(b"%d" % number * number)
    fs.put(f"{source}/", "in", recursive=True)
    assert commits(fs) == 1
    assert fs.isdir("in/sub/empty")
    assert fs.info("in/sub/7.bin")["mtime_ns"] == (source / "sub/7.bin").stat().st_mtime_ns
    fs.get("in", f"{tmp_path}/out", recursive=True)
    for path in source.rglob("*"):
        twin = tmp_path / "out" / path.relative_to(source)
        assert twin.is_dir() if path.is_dir() else twin.read_bytes() == path.read_bytes()
    fs.get_file("in/sub/9.bin", f"{tmp_path}/nine")
    assert (tmp_path / "nine").read_bytes() == b"9" * 9


def test_threads_that_write_one_file_each_all_succeed(fs: LakeFileSystem) -> None:
    gate = threading.Barrier(8)

    def write(number: int) -> None:
        gate.wait()
        fs.pipe_file(f"t/{number}", b"%d" % number)
        assert fs.cat(f"t/{number}") == b"%d" % number

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fs.cat("t", recursive=True) == {f"t/{n}": b"%d" % n for n in range(8)}
    assert commits(fs) <= 8


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


def _child(fs: LakeFileSystem, name: str) -> None:
    assert fs.cat("a") == b"parent"
    fs.pipe_file(name, b"child")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_reads_and_writes(fs: LakeFileSystem, method: str) -> None:
    fs.pipe_file("a", b"parent")
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_child, args=(fs, f"c{n}")) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert fs.cat("c0") == fs.cat("c1") == b"child"
