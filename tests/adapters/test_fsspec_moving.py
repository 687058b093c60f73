"""Moves through fsspec: inside a lake no bytes move, and between lakes nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lakefeed import Conflict, Invalid, Lake
from lakefeed.adapters.fsspec import LakeFileSystem, committing
from lakefeed.lake.batch import Operation, PutHandle
from lakefeed.lake.writer import Writer, WriterOptions


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


@pytest.mark.parametrize("spelled", ["{}", "lakefeed:///{}"])
def test_names_can_be_handed_on_by_one_move(fs: LakeFileSystem, spelled: str) -> None:
    fs.pipe({"log.1": b"1", "log.0": b"0"})
    whole = LakeFileSystem(skip_instance_cache=True)
    names = [f"{str(fs.lake).lstrip('/')}/log.{number}" for number in range(4)]
    one, two, three, four = ("/" + n if spelled == "{}" else spelled.format(n) for n in names)
    whole.mv([two, one], [three, two])
    assert fs.cat("", recursive=True) == {"log.1": b"0", "log.2": b"1"}
    whole.mv([one.replace("log.0", "log.1"), three], [four, four.replace("log.3", "log.1")])
    assert fs.cat("", recursive=True) == {"log.1": b"1", "log.3": b"0"}
    whole.close()


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


def commit_behind_copies(monkeypatch: pytest.MonkeyPatch, root: str, path: str) -> None:
    """Let another writer commit whenever the filesystem has copied."""
    copy = LakeFileSystem.copy

    def copying(self: LakeFileSystem, *args: object, **options: object) -> None:
        copy(self, *args, **options)
        commit_elsewhere(root, path)

    monkeypatch.setattr(LakeFileSystem, "copy", copying)


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
    commit_behind_copies(monkeypatch, one, "d/late")
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
    commit_behind_copies(monkeypatch, one, "d/g")
    with pytest.raises(Conflict, match="d/g"):
        fs.mv(f"{one}/d", f"{two}/d", recursive=True)
    assert fs.cat(one, recursive=True) == {f"{one}/d/f": b"f", f"{one}/d/g": b"elsewhere"}
    assert fs.cat(two, recursive=True) == {f"{two}/d/f": b"f", f"{two}/d/g": b"g"}


def test_a_move_does_not_remove_what_changes_at_the_last_moment(
    lakes: tuple[LakeFileSystem, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, one, two = lakes
    apply = Writer.apply

    def applying(self: Writer, changes: dict[str, Operation]) -> PutHandle:
        commit_elsewhere(one, "d/g")  # the file was looked at, and its removal is not committed yet
        return apply(self, changes)

    monkeypatch.setattr(Writer, "apply", applying)
    with pytest.raises(Conflict, match="d/g"):
        fs.mv(f"{one}/d", f"{two}/d", recursive=True)
    assert fs.cat(f"{one}/d/g") == b"elsewhere"
    assert fs.cat(f"{two}/d/g") == b"g"


def test_a_directory_is_not_moved_into_itself(fs: LakeFileSystem) -> None:
    fs.pipe({"d/1": b"outer", "d/s/1": b"inner"})
    with pytest.raises(Invalid, match="outside itself"):
        fs.mv("d/", "d/s", recursive=True)
    assert fs.cat("d", recursive=True) == {"d/1": b"outer", "d/s/1": b"inner"}


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


def test_nothing_buries_a_directory_of_another_lake(
    lakes: tuple[LakeFileSystem, str, str],
) -> None:
    fs, one, two = lakes
    fs.pipe_file(f"{two}/full/x", b"x")
    with pytest.raises(IsADirectoryError):
        fs.mv([f"{one}/d/f"], [f"{two}/full"])
    with pytest.raises(IsADirectoryError):
        fs.cp_file(f"{one}/d/f", f"{two}/full")
    assert fs.cat(two, recursive=True) == {f"{two}/full/x": b"x"}
    assert fs.isdir(f"{two}/full")
    assert fs.cat(one, recursive=True) == {f"{one}/d/f": b"f", f"{one}/d/g": b"g"}


def test_what_comes_from_elsewhere_waits_in_memory_no_longer_than_for_a_part(
    lakes: tuple[LakeFileSystem, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, one, two = lakes
    monkeypatch.setattr(committing, "IN_PARTS", WriterOptions(flush_bytes=4000))
    files = {f"{number:02}": bytes([number]) * 1000 for number in range(16)}
    fs.pipe({f"{one}/many/{name}": data for name, data in files.items()})
    fs.pipe_file(f"{two}/buried/15/x", b"x")
    with pytest.raises(IsADirectoryError):
        fs.copy(f"{one}/many/*", f"{two}/buried/")
    assert fs.find(two) == [f"{two}/buried/15/x"]
    for action in (fs.copy, fs.mv):
        target = f"{two}/{action.__name__}"
        with Lake.open(two) as lake:
            before = lake.snapshot().number
            action(f"{one}/many", target, recursive=True)
            assert lake.snapshot().number >= before + 3
        assert fs.cat(target, recursive=True) == {f"{target}/{n}": d for n, d in files.items()}
    assert fs.find(one) == [f"{one}/d/f", f"{one}/d/g"]


def test_names_can_be_handed_on_between_lakes(lakes: tuple[LakeFileSystem, str, str]) -> None:
    fs, one, two = lakes
    fs.pipe_file(f"{two}/z", b"z")
    fs.mv([f"{one}/d/f", f"{two}/z"], [f"{one}/d/h", f"{one}/d/f"])
    assert fs.cat(one, recursive=True) == {
        f"{one}/d/f": b"z", f"{one}/d/g": b"g", f"{one}/d/h": b"f"
    }  # fmt: skip
    assert fs.find(two) == []
    fs.mv([f"{one}/d/g", f"{one}/d/f"], [f"{two}/g", f"{one}/d/g"])
    assert fs.cat(one, recursive=True) == {f"{one}/d/g": b"z", f"{one}/d/h": b"f"}
    assert fs.cat(f"{two}/g") == b"g"
    fs.mv([f"{one}/d/g", f"{two}/g"], [f"{two}/g", f"{one}/d/g"])
    assert (fs.cat(f"{one}/d/g"), fs.cat(f"{two}/g")) == (b"g", b"z")


def test_two_spellings_of_a_lake_are_one_lake(
    lakes: tuple[LakeFileSystem, str, str], tmp_path: Path
) -> None:
    fs, one, _ = lakes
    (tmp_path / "alias").symlink_to(one)
    fs.mv(f"{one}/d/f", f"{tmp_path}/alias/d/f")
    fs.mv(f"{one}/d", f"{tmp_path}/alias/e")
    assert fs.find(f"{tmp_path}/alias") == [f"{tmp_path}/alias/e/{name}" for name in "fg"]
