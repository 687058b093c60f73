"""Writes through fsspec: one call is one commit, durable on return, whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback
from fsspec.transaction import Transaction

from lakefeed import Corrupt, Invalid, Lake
from lakefeed.adapters.fsspec import LakeFileSystem, local
from lakefeed.lake import view
from tests.adapters.lakes import BIG, commits


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


def test_no_file_buries_a_directory(fs: LakeFileSystem, tmp_path: Path) -> None:
    fs.pipe({"d/f": b"f", "e/f": b"f"})
    (tmp_path / "local").write_bytes(b"local")
    local = f"{tmp_path}/local"

    def transact(change: Callable[[], object]) -> None:
        with fs.transaction:
            change()

    def write() -> None:
        with fs.open("d", "wb") as file:
            file.write(b"over it")

    for change in (
        lambda: fs.pipe({"x": b"", "d": b"over it"}),
        lambda: fs.put([local, local], ["x", "d"]),
        lambda: transact(lambda: fs.pipe_file("d", b"over it")),
        lambda: transact(lambda: fs.put_file(local, "d")),
        lambda: transact(write),
    ):
        with pytest.raises(IsADirectoryError):
            change()
    assert commits(fs) == 1
    with fs.transaction:
        fs.rm("e", recursive=True)
        fs.pipe_file("e", b"a file now")
    fs.put([local], ["x"])
    assert fs.cat("", recursive=True) == {"d/f": b"f", "e": b"a file now", "x": b"local"}


def test_no_file_buries_a_directory_that_comes_meanwhile(fs: LakeFileSystem) -> None:
    with pytest.raises(IsADirectoryError), fs.transaction:
        fs.pipe_file("x/y", b"looked around")
        with Lake.open(str(fs.lake)) as lake, lake.writer() as writer:
            writer.put("d/f", b"f")
        fs.pipe_file("d", b"over it")
    assert fs.cat("", recursive=True) == {"d/f": b"f"}


def test_a_name_that_was_refused_is_refused_again(fs: LakeFileSystem, tmp_path: Path) -> None:
    fs.pipe_file("d/f", b"f")
    (tmp_path / "local").write_bytes(b"local")
    local = f"{tmp_path}/local"
    with pytest.raises(IsADirectoryError), fs.transaction:
        fs.pipe_file("d", b"over it")
        with suppress(IsADirectoryError):
            fs.put(local, "other")
    with fs.transaction:
        with pytest.raises(IsADirectoryError):
            fs.put([local], ["d"])
        fs.pipe_file("x", b"goes on")
    assert fs.cat("", recursive=True) == {"d/f": b"f", "x": b"goes on"}


def test_put_tells_of_each_file(fs: LakeFileSystem, tmp_path: Path) -> None:
    class Told(Callback):  # type: ignore[misc, unused-ignore]
        """Remembers what is said of files."""

        def branched(self, path_1: str, path_2: str, **options: Any) -> Callback:
            children[path_2] = Callback()
            return children[path_2]

    children: dict[str, Callback] = {}
    (tmp_path / "tree").mkdir()
    for size in range(3):
        (tmp_path / "tree" / f"{size}").write_bytes(bytes(size))
    whole = Told()
    fs.put(f"{tmp_path}/tree", "tree", recursive=True, callback=whole)
    assert (whole.size, whole.value) == (3, 3)
    told = {name: (child.size, child.value) for name, child in children.items()}
    assert told == {f"tree/{size}": (size, size) for size in range(3)}


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


def test_a_big_file_keeps_mode_and_attributes_when_it_is_touched(
    fs: LakeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "HELD_BYTES", 1000)
    with Lake.open(str(fs.lake)) as lake, lake.writer() as writer:
        writer.put("f", b"kept" * 1000, mtime_ns=10**18, mode=0o600, attrs={"label": "cat"})
    fs.touch("f", truncate=False)
    info = fs.info("f")
    assert info["mtime"] > 10**9 and (info["mode"], info["attrs"]) == (0o600, {"label": "cat"})
    assert fs.cat("f") == b"kept" * 1000


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
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LakeFileSystem]:
    """A filesystem whose lake `one` holds a damaged file that is too big to be held as a whole."""
    monkeypatch.setattr(local, "HELD_BYTES", 1 << 20)
    monkeypatch.setattr(view, "PIECE_BYTES", 1 << 20)
    for name in ("one", "two"):
        Lake.create(tmp_path / name).close()
    fs = LakeFileSystem(skip_instance_cache=True)
    fs.pipe_file(f"{tmp_path}/one/big", BIG[: 5 << 20])
    (pack,) = (tmp_path / "one").glob("packs/*/*.pack")
    data = bytearray(pack.read_bytes())
    data[3 << 20] ^= 1
    pack.write_bytes(data)
    yield fs
    fs.close()


@pytest.mark.parametrize("verb", ["mv", "copy", "cp_file", "get", "get_file", "touch", "append"])
def test_damage_is_never_stored_as_if_it_were_sound(
    damaged: LakeFileSystem, tmp_path: Path, verb: str
) -> None:
    source, target = f"{tmp_path}/one/big", f"{tmp_path}/two/big"
    change: dict[str, Callable[[], object]] = {
        "touch": lambda: damaged.touch(source, truncate=False),
        "append": lambda: damaged.open(source, "ab"),
        "get": lambda: damaged.get(source, f"{tmp_path}/local"),
        "get_file": lambda: damaged.get_file(source, f"{tmp_path}/local"),
    }
    with pytest.raises(Corrupt, match="big"):
        change.get(verb, lambda: getattr(damaged, verb)(source, target))()
    assert damaged.info(source)["seq"] == 1
    assert not damaged.exists(target)
    assert not (tmp_path / "local").exists()


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


def test_files_before_and_behind_a_big_one_come_to_their_own_places(
    fs: LakeFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "HELD_BYTES", 10)
    files = {"a": b"1", "big": b"2" * 11, "c": b"3", "d": b"4" * 10}
    fs.pipe(files)
    fs.get([*files], [f"{tmp_path}/{name}" for name in files])
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    with open(tmp_path / "open", "wb") as file:
        fs.get_file("big", file)
    assert (tmp_path / "open").read_bytes() == files["big"]


def test_a_get_of_what_is_not_there_says_so(fs: LakeFileSystem, tmp_path: Path) -> None:
    fs.pipe_file("a", b"1")
    with pytest.raises(FileNotFoundError, match="gone"):
        fs.get(["a", "gone"], [f"{tmp_path}/a", f"{tmp_path}/gone"])


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
