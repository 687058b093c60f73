"""What was changed through a mount and is not committed yet; without a mount."""

from __future__ import annotations

import errno
import os
import random
from types import SimpleNamespace
from typing import Any

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse import publishing  # noqa: E402
from lakefeed.adapters.fuse.nodes import ROOT, Draft, Node  # noqa: E402
from lakefeed.adapters.fuse.publishing import Publishing  # noqa: E402
from lakefeed.errors import NotFound, VolumeFailed  # noqa: E402
from lakefeed.format.rows import Row  # noqa: E402
from lakefeed.lake.snapshot import Snapshot  # noqa: E402
from tests.fuse.scenes import NEWS, Gate, Here, played  # noqa: E402

FIELDS = [f"update_{name}" for name in ("uid", "gid", "size", "mode", "mtime")]

# -- when a commit is due --------------------------------------------------------------------------


@pytest.mark.parametrize("much", [{"files": 2}, {"bytes": 1 << 20}])
def test_many_names_or_bytes_are_committed_before_they_are_old(much: dict[str, int]) -> None:
    async def scene(here: Here) -> None:
        await here.write("one", bytes(1 << 19))
        await trio.testing.wait_all_tasks_blocked()
        assert not here.pending.commits
        await here.write("two", bytes(1 << 19))
        await here.commits()

    assert played(scene, **much).snapshot().exists("two")


def test_an_open_file_is_written_beyond_all_bounds_without_a_commit() -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("log")
        for number in range(100):
            await here.operations.write(handle, number * 100, bytes(100))
            await trio.testing.wait_all_tasks_blocked()
        assert here.pending.commits == 0
        # Closed, a commit frees it, and so much is due.
        await here.operations.release(handle)
        await here.commits()
        assert here.pending.held_bytes == 0

    played(scene, bytes=1000, held_bytes_max=2000)


def test_a_file_that_stays_open_after_a_commit_is_written_on_without_another() -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("log", bytes(5000))
        await here.pending.commit()
        for number in range(10):
            await here.operations.write(handle, 5000 + number, b"x")
            await trio.testing.wait_all_tasks_blocked()
        assert here.pending.commits == 1
        await here.operations.release(handle)
        await here.commits()
        assert here.pending.held_bytes == 0

    played(scene, bytes=1000, held_bytes_max=2000)


def test_writers_wait_while_a_commit_would_free_enough() -> None:
    async def scene(here: Here) -> None:
        for number in range(30):
            await here.write(str(number), bytes(1000))
            assert here.pending.held_bytes <= 5000
        assert here.pending.commits

    played(scene, held_bytes_max=4000)


def test_writers_wait_before_the_spool_has_all_files_that_it_may_open() -> None:
    async def scene(here: Here) -> None:
        budget = here.pending.budget
        budget.memory_max, budget.files_max = 0, 8
        kept = [await here.create(f"open {number}", b"x") for number in range(3)]
        for number in range(50):
            await here.write(str(number), b"x")
        assert here.pending.commits and budget.files <= 8
        for handle in kept:
            await here.operations.release(handle)
        await here.pending.commit()
        assert budget.files == 0

    played(scene)


def test_what_was_removed_and_is_open_makes_nobody_wait() -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("gone", bytes(5000))
        await here.operations.unlink(ROOT, b"gone", None)
        await here.operations.write(handle, 5000, b"more")
        assert here.pending.commits == 0

    played(scene, bytes=1000, held_bytes_max=2000)


async def looks(here: Here, files: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Count looks at nodes while so many small files are made beside a big one."""
    found = 0
    changed = Node.changed

    def counted(node: Node) -> Draft:
        nonlocal found
        found += 1
        return changed(node)

    with monkeypatch.context() as patched:
        patched.setattr(Node, "changed", counted)
        for number in range(files):
            await here.write(f"{files}.{number}", b"x")
            await trio.testing.wait_all_tasks_blocked()
    return found


def test_small_files_beside_a_big_open_one_cost_what_they_cost_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        alone = await looks(here, 20, monkeypatch)
        await here.create("big", bytes(5000))
        assert await looks(here, 200, monkeypatch) <= 10 * alone
        assert here.pending.commits == 0

    played(scene, bytes=1000, held_bytes_max=2000)


def test_what_a_commit_frees_is_known_whatever_happens_to_the_files() -> None:
    def freed(here: Here) -> int:
        nodes = [node for node in here.tree.root.children.values() if node.dirty]
        spools = [node.changed().spool for node in nodes if not node.opens]
        return sum(spool.size for spool in spools if spool is not None)

    async def scene(here: Here) -> None:
        chance = random.Random(7)
        for step in range(300):
            name = str(chance.randrange(8))
            number = await here.find(name)
            kind = chance.choice(["write", "truncate", "unlink", "rename", "commit"])
            if kind == "write" and not number:
                await here.write(name, bytes(chance.randrange(100)))
            elif kind == "truncate" and number:
                attr = pyfuse3.EntryAttributes()
                attr.st_size = chance.randrange(100)
                fields = SimpleNamespace(**dict.fromkeys(FIELDS, False) | {"update_size": True})
                await here.operations.setattr(number, attr, fields, None, None)
            elif kind == "unlink" and number:
                await here.operations.unlink(ROOT, name.encode(), None)
            elif kind == "rename" and number:
                await here.rename(name, str(chance.randrange(8)))
            elif step % 5 == 0:
                await here.pending.commit()
            wanted = freed(here)
            frees = here.pending._room.frees
            assert frees(wanted) and not frees(wanted + 1), step

    played(scene)


# -- commits whose answer got lost -----------------------------------------------------------------


def test_a_commit_that_was_made_though_it_failed_is_repeated_with_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        await here.rename("a", "c")
        await here.write("a", b"another file")
        await here.write("secret", b"x")
        with monkeypatch.context() as patched, pytest.raises(VolumeFailed):
            patched.setattr(publishing, "locate_rows", _fail)
            await here.pending.commit()
        assert here.lake.snapshot().get("c") == b"bytes of a"
        await here.operations.unlink(ROOT, b"secret", None)
        await here.pending.commit()
        assert await here.read("c") == b"bytes of a"
        assert await here.find("secret") == 0

    snapshot = played(scene).snapshot()
    assert snapshot.get("c") == b"bytes of a"
    assert snapshot.get("a") == b"another file"
    with pytest.raises(NotFound):
        snapshot.get("secret")


@pytest.mark.parametrize("again", ["exchanged", "shifted"])
def test_a_renaming_that_was_committed_though_it_failed_is_undone_with_the_right_bytes(
    again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exchange(here: Here) -> None:
        for old, new in ("a", "t"), ("b", "a"), ("t", "b"):
            await here.rename(old, new)

    async def scene(here: Here) -> None:
        if again == "exchanged":
            await exchange(here)
        else:
            await here.rename("a", "t")
            await here.rename("b", "a")
        with monkeypatch.context() as patched, pytest.raises(VolumeFailed):
            patched.setattr(publishing, "locate_rows", _fail)
            await here.pending.commit()
        assert here.lake.snapshot().get("a") == b"and of b"
        if again == "exchanged":
            await exchange(here)
        else:
            await here.rename("a", "b")
            await here.rename("t", "a")
        await here.pending.commit()
        assert await here.read("a") == b"bytes of a"
        assert await here.read("b") == b"and of b"

    snapshot = played(scene).snapshot()
    assert snapshot.get("a") == b"bytes of a"
    assert snapshot.get("b") == b"and of b"


@pytest.mark.parametrize("moved", [False, True])
def test_after_a_failure_only_bytes_that_are_elsewhere_are_taken_and_big_ones_in_parts(
    moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[str] = []

    async def scene(here: Here) -> None:
        await here.write("big", bytes(range(256)) * 20_000)
        await here.pending.commit()
        await here.rename("big", "c")
        if moved:
            await here.write("big", b"another file")
        with monkeypatch.context() as patched, pytest.raises(VolumeFailed):
            patched.setattr(publishing, "locate_rows", _fail)
            await here.pending.commit()
        packs = set(here.lake.snapshot().state.packs)
        read_row = Snapshot.read_row

        def noted(self: Snapshot, row: Row) -> bytes:
            whole.append(row.path)
            return read_row(self, row)

        monkeypatch.setattr(Snapshot, "read_row", noted)
        await here.pending.commit()
        assert len(set(here.lake.snapshot().state.packs) - packs) == 1 + moved
        assert not whole

    snapshot = played(scene, big_bytes=100_000).snapshot()
    assert snapshot.get("c") == bytes(range(256)) * 20_000


def test_a_big_file_is_not_written_while_a_commit_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, before = Gate(), b"1" * (2 << 20)

    async def scene(here: Here) -> None:
        number = await here.create("big", before)
        monkeypatch.setattr(Publishing, "publish", gate.before(Publishing.publish))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.pending.commit)
            await gate.reached()
            nursery.start_soon(here.operations.write, number, 0, b"2")
            await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert here.lake.snapshot().get("big") == before
        assert await here.read("big") == b"2" + before[1:]

    played(scene)


def _fail(*_: object) -> None:
    raise VolumeFailed("read of a segment")


# -- two handles -----------------------------------------------------------------------------------


def test_a_file_emptied_while_its_bytes_are_being_copied_stays_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        handle, opened = await here.open("a"), trio.Event()
        read = here.operations.reads.read

        async def slowly(*arguments: Any) -> Any:
            await opened.wait()
            return await read(*arguments)

        monkeypatch.setattr(here.operations.reads, "read", slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.operations.write, handle, 3, b"!")
            await trio.testing.wait_all_tasks_blocked()
            await here.open("a", os.O_WRONLY | os.O_TRUNC)
            await here.operations.write(handle, 0, b"new")
            opened.set()
        assert await here.read("a") == b"new!"
        await here.pending.commit()

    assert played(scene).snapshot().get("a") == b"new!"


def test_a_listing_under_way_shows_no_name_that_went_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: dict[bytes, int] = {}

    def reply(room: int, name: bytes, attributes: Any, next_id: int) -> bool:
        if len(shown) < room:
            shown[name] = attributes.st_ino
        return name in shown

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)

    async def scene(here: Here) -> None:
        for number in range(7):
            await here.write(str(number), b"x")
        await here.pending.commit()
        handle = await here.operations.opendir(ROOT, None)
        await here.operations.readdir(handle, 0, 4)
        assert [shown.pop(name) for name in (b".", b"..")] == [ROOT, ROOT]
        started = dict(shown)
        left = {f"{number}" for number in range(7)} - {name.decode() for name in started}
        removed, moved, replaced, *_ = sorted(left)
        await here.operations.unlink(ROOT, removed.encode(), None)
        await here.rename(moved, "new name")
        await here.operations.readdir(handle, 4, 3)
        here.other(replaced, NEWS)
        await here.tree.follow()
        await here.operations.readdir(handle, 5, 100)
        assert not {removed.encode(), moved.encode()} & set(shown)
        assert shown.keys() | {b"new name"} == set(here.tree.root.children)
        for name in shown.keys() - started.keys():
            assert shown[name] == await here.find(name.decode())
        # From the beginning again, all that is there now comes.
        shown.clear()
        await here.operations.readdir(handle, 0, 100)
        assert shown.keys() - {b".", b".."} == set(here.tree.root.children)

    played(scene)


# -- renames that cannot be ------------------------------------------------------------------------


def test_a_rename_that_makes_a_path_below_too_long_is_refused_and_changes_nothing() -> None:
    async def scene(here: Here) -> None:
        for top in (b"there", b"here"):
            number = ROOT
            for name in (top, *[b"n" * 250] * 9):
                number = (await here.operations.mkdir(number, name, 0o755, None)).st_ino
        with pytest.raises(pyfuse3.FUSEError) as refused:
            await here.operations.rename(ROOT, b"there", number, b"x", 0, None)
        assert refused.value.errno == errno.ENAMETOOLONG
        await here.pending.commit()
        assert here.lake.snapshot().exists("there")

    played(scene)


def test_a_rename_that_fails_leaves_the_directory_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        await here.operations.mkdir(ROOT, b"target", 0o700, None)
        await here.pending.commit()
        number = await here.find("target")
        with monkeypatch.context() as patched, pytest.raises(pyfuse3.FUSEError):
            patched.setattr(here.pending.writer, "rename", _fail)
            await here.rename("d", "target")
        await here.pending.commit()
        assert await here.find("target") == number
        assert here.lake.snapshot().exists("target")
        # The next time it is replaced, in the commit that renames.
        await here.rename("d", "target")
        assert await here.read("target/f") == b"file in d"

    snapshot = played(scene).snapshot()
    assert snapshot.get("target/f") == b"file in d"
    assert snapshot.ls()[-1].mode == 0o755
