"""What other writers do to directories of a mount while programs are in them; without a mount."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse.nodes import ROOT  # noqa: E402
from lakefeed.format import payload  # noqa: E402
from lakefeed.format.rows import Kind  # noqa: E402
from lakefeed.lake.batch import Delete, Put  # noqa: E402
from tests.fuse.scenes import NEWS, Here, played  # noqa: E402


def set_directory_mode(here: Here) -> None:
    made = Put(payload.encode(b""), Kind.DIR, None, 0o700, {"user.by": "another"})
    with here.lake.writer() as writer:
        writer.apply({"d": made})


def test_a_file_in_a_directory_that_got_another_mode_is_one_file_for_all_its_handles() -> None:
    async def scene(here: Here) -> None:
        old, inside = await here.open("d/f"), await here.find("d")
        await here.operations.setxattr(inside, b"user.by", b"us", None)
        await here.pending.commit()
        set_directory_mode(here)
        await here.tree.follow()
        shown = await here.operations.lookup(ROOT, b"d", None)
        assert (shown.st_ino, stat.S_IMODE(shown.st_mode)) == (inside, 0o700)
        assert await here.operations.getxattr(inside, b"user.by", None) == b"another"
        new = await here.open("d/f")
        await here.operations.write(old, 0, b"FILE")
        await here.operations.write(new, 8, b"D")
        await here.operations.fsync(old, False)
        await here.operations.fsync(new, False)
        assert await here.read("d/f") == b"FILE in D"

    assert played(scene).snapshot().get("d/f") == b"FILE in D"


def test_what_is_made_in_a_directory_that_got_another_mode_is_shown() -> None:
    async def scene(here: Here) -> None:
        inside = await here.find("d")
        set_directory_mode(here)
        await here.tree.follow()
        await here.list("d")
        await here.operations.mkdir(inside, b"new", 0o755, None)
        assert await here.find("d/new")
        await here.pending.commit()

    assert played(scene).snapshot().exists("d/new")


def test_a_directory_whose_row_another_writer_deletes_is_one_that_its_files_imply() -> None:
    async def scene(here: Here) -> None:
        set_directory_mode(here)
        await here.tree.follow()
        inside = await here.find("d")
        with here.lake.writer() as writer:
            writer.apply({"d": Delete()})
        await here.tree.follow()
        shown = await here.operations.lookup(ROOT, b"d", None)
        assert (shown.st_ino, stat.S_IMODE(shown.st_mode)) == (inside, 0o755)
        with pytest.raises(pyfuse3.FUSEError):
            await here.operations.getxattr(inside, b"user.by", None)
        # So it is stored before it could vanish with the last of them.
        await here.operations.unlink(inside, b"f", None)
        await here.pending.commit()

    assert played(scene).snapshot().exists("d")


def test_what_is_written_through_a_handle_brings_no_directory_back_that_was_removed_here() -> None:
    async def scene(here: Here) -> None:
        set_directory_mode(here)
        handle = await here.open("d/f")
        with here.lake.writer() as writer:
            writer.delete("d/f")
        await here.tree.follow()
        await here.operations.rmdir(ROOT, b"d", None)
        await here.operations.write(handle, 0, b"FILE")
        with pytest.raises(pyfuse3.FUSEError) as gone:
            await here.operations.fsync(handle, False)
        assert gone.value.errno == errno.ESTALE
        assert not await here.find("d")
        await here.pending.commit()

    assert not played(scene).snapshot().exists("d")


@pytest.mark.parametrize("listed", [False, True])
def test_a_directory_with_changes_stays_where_another_writer_put_a_file(listed: bool) -> None:
    async def scene(here: Here) -> None:
        await here.operations.create(await here.find("d"), b"new", 0o644, os.O_RDWR, None)
        with here.lake.writer() as writer:
            writer.delete_tree("d")
            writer.flush()
            writer.put("d", NEWS)
        await here.tree.follow()
        if listed:
            await here.list()
        assert await here.find("d/new")
        await here.pending.commit()
        assert await here.find("d/new")

    assert played(scene).snapshot().exists("d/new")


@pytest.mark.parametrize("shown", [False, True])
def test_what_is_written_through_a_handle_brings_its_directory_back(shown: bool) -> None:
    async def scene(here: Here) -> None:
        inside, handle = await here.find("d"), await here.open("d/f")
        with here.lake.writer() as writer:
            writer.delete_tree("d")
        await here.tree.follow()
        if shown:
            assert not await here.find("d")
            with pytest.raises(pyfuse3.FUSEError) as gone:
                await here.operations.mkdir(inside, b"new", 0o755, None)
            assert gone.value.errno == errno.ENOENT
        await here.operations.write(handle, 0, b"FILE")
        assert not shown or (ROOT, b"d") in here.tree.stale
        await here.operations.fsync(handle, False)
        assert await here.find("d/f") == here.inode(handle)

    assert played(scene).snapshot().get("d/f") == b"FILE in d"


@pytest.mark.parametrize("again", ["file", "directory"])
def test_a_handle_whose_directory_became_another_thing_writes_to_no_name(again: str) -> None:
    async def scene(here: Here) -> None:
        handle = await here.open("d/f")
        with here.lake.writer() as writer:
            writer.delete_tree("d")
        if again == "file":
            here.other("d", NEWS)
        await here.tree.follow()
        if again == "file":
            assert await here.read("d") == NEWS
        else:
            assert not await here.find("d")
            await here.operations.mkdir(ROOT, b"d", 0o755, None)
        await here.operations.write(handle, 0, b"FILE")
        with pytest.raises(pyfuse3.FUSEError) as lost:
            await here.operations.fsync(handle, False)
        assert lost.value.errno == errno.ESTALE
        await here.pending.commit()

    assert not played(scene).snapshot().exists("d/f")


def test_a_directory_made_here_in_place_of_one_that_another_writer_changes_is_there() -> None:
    async def scene(here: Here) -> None:
        await here.operations.unlink(await here.find("d"), b"f", None)
        await here.operations.rmdir(ROOT, b"d", None)
        await here.operations.mkdir(ROOT, b"d", 0o755, None)
        set_directory_mode(here)
        await here.tree.follow()
        assert await here.find("d")
        await here.pending.commit()

    assert played(scene).snapshot().exists("d")


def test_a_name_that_is_looked_up_while_its_directory_is_renamed_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        inside, call = await here.find("d"), here.tree.pace.call
        reached, opened, found = trio.Event(), trio.Event(), []

        async def slowly(*arguments: Any) -> Any:
            answer = await call(*arguments)
            reached.set()
            await opened.wait()
            return answer

        async def look() -> None:
            found.append((await here.operations.lookup(inside, b"f", None)).st_ino)

        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as patched:
                patched.setattr(here.tree.pace, "call", slowly)
                nursery.start_soon(look)
                await reached.wait()
            await here.rename("d", "e")
            opened.set()
        # None would be remembered by the kernel for as long as nobody changes the file.
        assert found == [await here.find("e/f")] != [0]

    played(scene)


def test_look_ups_that_a_move_of_the_head_overtook_are_repeated_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        inside, call = await here.find("d"), here.tree.pace.call
        begun, moved, together = [0, 0], trio.Event(), trio.Event()

        async def slowly(action: Any, snapshot: Any) -> Any:
            again = int(moved.is_set())
            begun[again] += 1
            if begun[1] == 3:
                together.set()
            # One after the other they would keep the head, and commits, for as many round trips.
            await (together if again else moved).wait()
            assert not again or not here.tree.moving.value
            return await call(action, snapshot)

        monkeypatch.setattr(here.tree.pace, "call", slowly)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for name in (b"1", b"2", b"3"):
                    nursery.start_soon(here.operations.lookup, inside, name, None)
                await trio.testing.wait_all_tasks_blocked()
                here.other("d/2", NEWS)
                await here.tree.follow()
                moved.set()
        assert here.tree.moving.value
        assert await here.find("d/2")
        assert begun == [3, 3]

    played(scene)
