"""What other writers do while a mount has changes or open files of its own; without a mount."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse import tree  # noqa: E402
from lakefeed.adapters.fuse.nodes import ROOT, Directory  # noqa: E402
from lakefeed.adapters.fuse.session import Mount, MountOptions  # noqa: E402
from lakefeed.errors import NotFound, VolumeFailed  # noqa: E402
from tests.fuse.scenes import NEWS, Here, played  # noqa: E402

# -- another writer puts the same path -------------------------------------------------------------


async def chmod(here: Here) -> str:
    await here.set_mode(await here.find("a"))
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


@pytest.mark.parametrize("shown", [False, True])
def test_a_directory_is_renamed_with_what_another_writer_has_put_there(shown: bool) -> None:
    async def scene(here: Here) -> None:
        await here.write("own", b"")
        await here.pending.commit()
        here.other("d/g", NEWS)
        here.other("n/x", NEWS)
        if shown:
            await here.tree.follow()
            assert await here.read("d/g") == await here.read("n/x") == NEWS
            await here.rename("n", "m")
            assert await here.read("m/x") == NEWS
        await here.rename("d", "e")
        assert await here.read("e/f") == b"file in d"
        assert await here.read("e/g") == NEWS
        assert await here.find("d") == 0

    assert not played(scene).snapshot().exists("d")


def test_a_file_that_changes_elsewhere_while_it_is_renamed_is_moved_as_it_is_now() -> None:
    async def scene(here: Here) -> None:
        await here.read("a")
        lookup, late = here.tree.lookup, [NEWS]

        async def slow(parent: Directory, name: bytes) -> Any:
            found = await lookup(parent, name)
            if name == b"c" and late:
                here.other("a", late.pop())
                await here.tree.follow()
            return found

        here.tree.lookup = slow  # type: ignore[method-assign]
        await here.rename("a", "c")
        assert await here.read("c") == NEWS
        await here.pending.commit()

    snapshot = played(scene).snapshot()
    assert (snapshot.exists("a"), snapshot.get("c")) == (False, NEWS)


def test_what_another_writer_puts_during_a_rename_is_shown_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        await here.list()
        rename = here.pending.writer.rename

        def late(source: str, goal: str) -> Any:
            done = rename(source, goal)
            here.other("d/g", NEWS)
            return done

        monkeypatch.setattr(here.pending.writer, "rename", late)
        await here.rename("d", "e")
        assert (ROOT, b"d") in here.tree.stale
        assert await here.read("e/f") == b"file in d"
        assert await here.read("d/g") == NEWS

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
        assert await here.find("a") == here.inode(handle)
        assert (ROOT, b"a") in here.tree.stale
        await here.operations.fsync(handle, False)
        assert await here.find("a") == here.inode(handle)
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
        with pytest.raises(pyfuse3.FUSEError) as lost:
            await here.operations.fsync(handle, False)
        assert lost.value.errno == errno.ESTALE
        with pytest.raises(NotFound):
            here.lake.snapshot().get("a")

    assert played(scene).snapshot().stat("a/f").size == len(NEWS)


async def two_handles(here: Here) -> tuple[int, int]:
    """Open a, and open it again when it is another writer's."""
    old = await here.open("a")
    here.other("a", NEWS)
    await here.tree.follow()
    return old, await here.open("a")


@pytest.mark.parametrize("committed", [False, True])
def test_a_mode_set_through_an_old_handle_takes_no_bytes_away(committed: bool) -> None:
    async def scene(here: Here) -> None:
        if committed:
            own = await here.open("a")
            await here.operations.write(own, 0, b"BYTES")
            await here.operations.fsync(own, False)
        old, new = await two_handles(here)
        assert not committed or old == own
        await here.operations.write(new, 0, b"written")
        await here.set_mode(old)
        await here.operations.fsync(new, False)
        await here.operations.fsync(old, False)

    assert played(scene).snapshot().get("a") == b"written" + NEWS[7:]


def test_of_two_handles_the_last_write_stands_and_a_fsync_of_the_other_is_told() -> None:
    async def scene(here: Here) -> None:
        old, new = await two_handles(here)
        await here.operations.write(old, 0, b"1")
        await here.operations.write(new, 0, b"2")
        await here.operations.write(old, 0, b"3")
        with pytest.raises(pyfuse3.FUSEError) as lost:
            await here.operations.fsync(new, False)
        assert lost.value.errno == errno.ESTALE
        await here.operations.fsync(old, False)
        assert here.lake.snapshot().get("a") == b"3ytes of a"
        await here.operations.write(new, 0, b"4")
        await here.operations.fsync(new, False)
        assert here.lake.snapshot().get("a") == b"4" + NEWS[1:]

    played(scene)


@pytest.mark.parametrize("fails", [False, True])
def test_another_handle_writes_while_a_file_is_being_committed(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(here: Here) -> None:
        old, new = await two_handles(here)
        await here.operations.write(new, 0, b"1")
        elsewhere, opened, reached = here.tree.pace.elsewhere, trio.Event(), trio.Event()

        async def slowly(*arguments: Any) -> Any:
            reached.set()
            await opened.wait()
            if fails:
                raise VolumeFailed("commit")
            return await elsewhere(*arguments)

        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as patched:
                patched.setattr(here.tree.pace, "elsewhere", slowly)
                nursery.start_soon(here.commit_or_fail)
                await reached.wait()
            await here.operations.write(old, 0, b"2")
            opened.set()
        assert await here.find("a") == here.inode(old)
        await here.operations.fsync(old, False)
        assert here.lake.snapshot().get("a") == b"2ytes of a"
        # What the commit had in flight takes its name again by a later write.
        await here.operations.write(new, 0, b"3")
        await here.operations.fsync(new, False)
        assert here.pending.count == 0

    assert played(scene).snapshot().get("a") == b"3" + NEWS[1:]


# -- following the lake ----------------------------------------------------------------------------


@pytest.mark.parametrize("forgotten", [False, True])
def test_after_more_changes_than_are_named_one_by_one_all_is_as_in_the_lake(
    forgotten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(here: Here) -> None:
        await here.operations.mkdir(ROOT, b"empty", 0o755, None)
        await here.pending.commit()
        await here.list("d")
        known = [await here.find(name) for name in ("d/f", "d", "empty")]
        if forgotten:
            # By the kernel, that is; what it asks for next is kept.
            table = here.tree.inodes.table
            here.operations.forget([(number, table[number].lookups) for number in known])
        monkeypatch.setattr(tree, "CHANGES_MAX", 1)
        with here.lake.writer() as writer:
            writer.delete("empty")
            writer.put("d/f", NEWS)
        await here.tree.follow()
        assert await here.read("d/f") == NEWS
        assert not await here.find("empty")

    played(scene)


async def many_changes(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """See more changes of another writer than are named one by one."""
    monkeypatch.setattr(tree, "CHANGES_MAX", 1)
    for number in range(2):
        here.other(f"many/{number}", NEWS)
    await here.tree.follow()


def test_after_many_changes_elsewhere_an_open_file_is_one_file_for_all_its_handles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        old = await here.open("d/f")
        await many_changes(here, monkeypatch)
        new = await here.open("d/f")
        await here.operations.write(new, 0, b"FILE")
        await here.operations.release(new)
        await here.set_mode(old)
        await here.operations.write(old, 8, b"D")
        await here.operations.fsync(old, False)
        assert await here.read("d/f") == b"FILE in D"

    snapshot = played(scene).snapshot()
    assert snapshot.get("d/f") == b"FILE in D"
    assert snapshot.stat("d/f").mode == 0o600


@pytest.mark.parametrize("replaced", [False, True])
def test_after_many_changes_a_mode_set_through_a_handle_brings_no_file_back(
    replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(here: Here) -> None:
        handle = await here.open("a")
        with here.lake.writer() as writer:
            writer.delete("a")
        if replaced:
            here.other("a", NEWS)
        await many_changes(here, monkeypatch)
        await here.set_mode(handle)
        await here.operations.setxattr(handle, b"user.by", b"us", None)
        await here.pending.commit()
        shown = await here.find("a")
        assert shown != handle and bool(shown) == replaced

    snapshot = played(scene).snapshot()
    assert snapshot.exists("a") == replaced
    assert not replaced or snapshot.stat("a").attrs is None


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


def test_a_listing_ends_though_commits_come_faster_than_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        elsewhere, load, commits = here.tree.pace.elsewhere, tree.load, 0

        def listed(*arguments: Any) -> Any:
            nonlocal commits
            commits += 1
            assert commits < 5
            here.other(f"d/{commits}", NEWS)
            return load(*arguments)

        async def slowly(*arguments: Any) -> Any:
            before, answer = commits, await elsewhere(*arguments)
            if commits > before and here.tree.moving.value:
                await here.tree.follow()
            return answer

        monkeypatch.setattr(tree, "load", listed)
        monkeypatch.setattr(here.tree.pace, "elsewhere", slowly)
        await here.list("d")
        assert await here.find("d/1")
        await here.tree.follow()
        assert await here.find(f"d/{commits}")

    played(scene)
