"""What was changed and is not committed yet, and what other writers do meanwhile; without a mount.

The handlers are called as the kernel would call them, so that each step can be placed exactly.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.volume.memory import MemoryVolume

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse import publishing  # noqa: E402
from lakefeed.adapters.fuse.changes import Committing  # noqa: E402
from lakefeed.adapters.fuse.nodes import ROOT, Directory  # noqa: E402
from lakefeed.adapters.fuse.pace import Pace  # noqa: E402
from lakefeed.adapters.fuse.pending import Pending  # noqa: E402
from lakefeed.adapters.fuse.reading import Reads  # noqa: E402
from lakefeed.adapters.fuse.session import Mount, MountOptions  # noqa: E402
from lakefeed.adapters.fuse.spool import Budget  # noqa: E402
from lakefeed.adapters.fuse.tree import Tree  # noqa: E402
from lakefeed.adapters.fuse.writing import WriteOperations  # noqa: E402
from lakefeed.errors import NotFound, VolumeFailed  # noqa: E402

# Nothing is committed but when a test says so.
NEVER = 3600.0
FIELDS = [f"update_{name}" for name in ("uid", "gid", "size", "mode", "mtime")]


class Here:
    """A lake and what a mount of it would answer."""

    def __init__(self, lake: Lake, operations: WriteOperations) -> None:
        self.lake = lake
        self.operations = operations
        self.pending = operations.pending
        self.tree = operations.tree

    async def find(self, name: str) -> int:
        """Return the inode of a name; 0 if there is none."""
        number = ROOT
        for each in name.encode().split(b"/"):
            number = int((await self.operations.lookup(number, each, None)).st_ino)
        return number

    async def open(self, name: str, flags: int = os.O_RDWR) -> int:
        number = await self.find(name)
        await self.operations.open(number, flags, None)
        return number

    async def create(self, name: str, data: bytes = b"") -> int:
        """Make a file, which stays open."""
        info, _ = await self.operations.create(ROOT, name.encode(), 0o644, os.O_RDWR, None)
        await self.operations.write(info.fh, 0, data)
        return int(info.fh)

    async def write(self, name: str, data: bytes) -> None:
        """Make a file and close it."""
        await self.operations.release(await self.create(name, data))

    async def rename(self, old: str, new: str) -> None:
        await self.operations.rename(ROOT, old.encode(), ROOT, new.encode(), 0, None)

    def other(self, name: str, data: bytes) -> None:
        """Put a file as another writer."""
        with self.lake.writer() as writer:
            writer.put(name, data)

    async def read(self, name: str) -> bytes:
        """Return what a program that opens the name now is shown."""
        number = await self.find(name)
        size = (await self.operations.getattr(number, None)).st_size
        return bytes(await self.operations.read(number, 0, size))

    async def commits(self) -> None:
        """Return once there has been a commit."""
        before = self.pending.commits
        while self.pending.commits == before:
            await trio.sleep(0.01)


@asynccontextmanager
async def serving(lake: Lake, **options: Any) -> AsyncIterator[Here]:
    pace = Pace()
    tree = Tree(lake, lake.snapshot(), pace, follows=True)
    operations = WriteOperations(tree, Reads(pace, 1 << 20), lake.volume, (0, 0))
    with lake.writer(Committing.WRITER) as writer:
        committing = Committing(**{"age_seconds": NEVER, **options})
        operations.use(Pending(tree, lake, writer, committing, Budget()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations.pending.run)
            with trio.fail_after(60):
                yield Here(lake, operations)
            nursery.cancel_scope.cancel()


def played(scene: Callable[[Here], Awaitable[None]], **options: Any) -> Lake:
    """Play a scene in a lake with the files a, b and d/f; return the lake."""
    lake = Lake.create(MemoryVolume())
    with lake.writer() as writer:
        writer.put("a", b"bytes of a")
        writer.put("b", b"and of b")
        writer.put("d/f", b"file in d")

    async def run() -> None:
        async with serving(lake, **options) as here:
            await scene(here)

    trio.run(run)
    return lake


# -- when a commit is due --------------------------------------------------------------------------


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


def test_writers_wait_while_a_commit_would_free_enough() -> None:
    async def scene(here: Here) -> None:
        for number in range(30):
            await here.write(str(number), bytes(1000))
            assert here.pending.held_bytes <= 5000
        assert here.pending.commits

    played(scene, held_bytes_max=4000)


def test_what_was_removed_and_is_open_makes_nobody_wait() -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("gone", bytes(5000))
        await here.operations.unlink(ROOT, b"gone", None)
        await here.operations.write(handle, 5000, b"more")
        assert here.pending.commits == 0

    played(scene, bytes=1000, held_bytes_max=2000)


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
        await here.operations.readdir(handle, 0, 2)
        started = dict(shown)
        left = {f"{number}" for number in range(7)} - {name.decode() for name in started}
        removed, moved, replaced, *_ = sorted(left)
        await here.operations.unlink(ROOT, removed.encode(), None)
        await here.rename(moved, "new name")
        await here.operations.readdir(handle, 2, 3)
        here.other(replaced, NEWS)
        await here.tree.follow()
        await here.operations.readdir(handle, 3, 100)
        assert not {removed.encode(), moved.encode()} & set(shown)
        assert shown.keys() | {b"new name"} == set(here.tree.root.children)
        for name in shown.keys() - started.keys():
            assert shown[name] == await here.find(name.decode())
        # From the beginning again, all that is there now comes.
        shown.clear()
        await here.operations.readdir(handle, 0, 100)
        assert shown.keys() == set(here.tree.root.children)

    played(scene)


# -- another writer puts the same path -------------------------------------------------------------

NEWS = b"another writer's bytes, and more of them"


async def chmod(here: Here) -> str:
    with_mode = pyfuse3.EntryAttributes()
    with_mode.st_mode = 0o600
    fields = SimpleNamespace(**dict.fromkeys(FIELDS, False) | {"update_mode": True})
    await here.operations.setattr(await here.find("a"), with_mode, fields, None, None)
    return "a"


async def rename(here: Here) -> str:
    await here.rename("a", "c")
    return "c"


@pytest.mark.parametrize("change", [chmod, rename])
def test_bytes_of_another_writer_under_a_change_of_ours_are_shown_as_they_are(
    change: Callable[[Here], Awaitable[str]],
) -> None:
    async def scene(here: Here) -> None:
        path = await change(here)
        number = await here.find(path)
        here.other("a", NEWS)
        await here.pending.commit()
        assert here.lake.snapshot().get(path) == NEWS
        assert (ROOT, path.encode()) in here.tree.stale
        assert await here.find(path) != number
        assert await here.read(path) == NEWS

    played(scene)


def test_bytes_of_another_writer_in_a_renamed_directory_are_shown_as_they_are() -> None:
    async def scene(here: Here) -> None:
        await here.read("d/f")
        here.other("d/f", NEWS)
        here.other("d/g", NEWS)
        await here.rename("d", "e")
        assert await here.read("e/f") == NEWS
        assert await here.read("e/g") == NEWS

    played(scene)


@pytest.mark.parametrize("both", [False, True])
def test_what_is_written_through_a_handle_is_what_its_name_shows(both: bool) -> None:
    async def scene(here: Here) -> None:
        handle = await here.open("a")
        here.other("a", NEWS)
        await here.tree.follow()
        assert await here.read("a") == NEWS
        if both:
            await here.operations.write(await here.open("a"), 0, b"written here, too")
        await here.operations.write(handle, 10, b", longer")
        assert await here.find("a") == handle
        assert (ROOT, b"a") in here.tree.stale
        await here.operations.fsync(handle, False)
        assert await here.find("a") == handle
        assert await here.read("a") == b"bytes of a, longer"

    assert played(scene).snapshot().get("a") == b"bytes of a, longer"


def test_a_handle_whose_name_became_a_directory_writes_to_no_name() -> None:
    async def scene(here: Here) -> None:
        handle = await here.open("a")
        with here.lake.writer() as writer:
            writer.delete("a")
            writer.put("a/f", NEWS)
        await here.tree.follow()
        assert await here.read("a/f") == NEWS
        await here.operations.write(handle, 10, b", longer")
        await here.operations.fsync(handle, False)
        with pytest.raises(NotFound):
            here.lake.snapshot().get("a")

    assert played(scene).snapshot().stat("a/f").size == len(NEWS)


# -- following the lake ----------------------------------------------------------------------------


def test_a_directory_far_above_others_changes() -> None:
    async def scene(here: Here) -> None:
        above = here.tree.root
        for _ in range(1500):
            made = above.children[b"x"] = Directory(above.view, above, b"x", None, 0)
            above = made
        with here.lake.writer() as writer:
            writer.mkdir("x", 0o700)
        await here.tree.follow()
        shown = await here.operations.lookup(ROOT, b"x", None)
        assert stat.S_IMODE(shown.st_mode) == 0o700

    played(scene)


def test_following_goes_on_after_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(here: Here) -> None:
        failures, follow, done = [ZeroDivisionError()], here.tree.follow, trio.Event()

        async def fail_once() -> Any:
            if failures:
                raise failures.pop()
            done.set()
            return await follow()

        monkeypatch.setattr(here.tree, "follow", fail_once)
        mount = Mount(here.lake, "/nowhere", MountOptions(refresh_seconds=0.0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount._follow, here.tree)
            await done.wait()
            nursery.cancel_scope.cancel()

    played(scene)
    assert "ZeroDivisionError" in caplog.text
