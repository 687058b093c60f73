"""Directories that are renamed, which is a commit; without a mount."""

from __future__ import annotations

import errno

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse.nodes import ROOT  # noqa: E402
from lakefeed.format.rows import Kind  # noqa: E402
from tests.fuse.scenes import Gate, Here, played  # noqa: E402


def test_changes_wait_until_a_directory_is_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    refused: list[int] = []

    async def make(here: Here) -> None:
        try:
            await here.operations.mknod(ROOT, b"e", 0o100644, 0, None)
        except pyfuse3.FUSEError as error:
            refused.append(error.errno)

    async def change(here: Here, number: int) -> None:
        await here.operations.mknod(number, b"new", 0o100644, 0, None)
        await here.operations.unlink(number, b"f", None)

    async def scene(here: Here) -> None:
        writer = here.pending.writer
        number = await here.find("d")
        monkeypatch.setattr(writer, "rename", gate.before(writer.rename))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.rename, "d", "e")
            await gate.reached()
            nursery.start_soon(make, here)
            nursery.start_soon(change, here, number)
            await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert refused == [errno.EEXIST]
        assert await here.find("e") == number
        await here.pending.commit()

    snapshot = played(scene).snapshot()
    assert [row.path for row in snapshot.ls("e")] == ["e/new"]
    assert not snapshot.exists("d")


def test_a_directory_that_only_its_files_implied_stays_when_the_last_one_is_moved_out() -> None:
    async def scene(here: Here) -> None:
        here.other("one/two/f", b"x")
        await here.tree.follow()
        await here.operations.rename(await here.find("one"), b"two", ROOT, b"e", 0, None)
        await here.pending.commit()

    snapshot = played(scene).snapshot()
    assert snapshot.get("e/f") == b"x"
    assert snapshot.stat("one").kind is Kind.DIR


def test_a_directory_that_another_writer_removed_is_missing_when_it_is_renamed() -> None:
    async def scene(here: Here) -> None:
        await here.list("d")
        with here.lake.writer() as writer:
            writer.delete_tree("d")
        with pytest.raises(pyfuse3.FUSEError) as missing:
            await here.rename("d", "e")
        assert missing.value.errno == errno.ENOENT
        await here.tree.follow()
        assert await here.find("d") == await here.find("e") == 0
        await here.write("e", b"made after it")
        await here.pending.commit()

    assert played(scene).snapshot().get("e") == b"made after it"
