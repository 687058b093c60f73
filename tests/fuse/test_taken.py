"""What a mount's commit makes of others' changes, and what fsync waits for; without a mount."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("pyfuse3")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse.nodes import ROOT
from lakefeed.errors import Corrupt, NotFound
from lakefeed.format.rows import Row
from lakefeed.lake.compactor import compact
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from tests.fuse.scenes import NEWS, Here, played
from tests.fuse.test_others import chmod, rename


def test_a_big_file_that_is_damaged_when_its_bytes_are_taken_is_not_stored_as_sound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoiled(_: Snapshot, row: Row, offset: int, length: int) -> bytes:
        return b"?" * min(length, row.size - offset)

    async def scene(here: Here) -> None:
        await rename(here)
        with here.lake.writer() as writer:
            writer.delete("a")
        compact(here.lake)
        with monkeypatch.context() as patched, pytest.raises(Corrupt, match="checksum"):
            patched.setattr(Snapshot, "read_row_range", spoiled)
            await here.pending.commit()
        assert not here.lake.snapshot().exists("c")
        await here.pending.commit()
        assert here.lake.snapshot().get("c") == b"bytes of a"

    played(scene, big_bytes=1)


def test_a_commit_of_ours_shows_what_others_committed_before_it() -> None:
    async def scene(here: Here) -> None:
        for name in ("a", "b"):
            await here.find(name)
        await here.write("mine", b"1")
        here.other("a", NEWS)
        with here.lake.writer() as writer:
            writer.delete("b")
        await here.pending.commit()
        assert {(ROOT, b"a"), (ROOT, b"b")} <= set(here.tree.stale)
        assert await here.read("a") == NEWS
        assert await here.find("b") == 0

    played(scene)


@pytest.mark.parametrize("change", [chmod, rename])
@pytest.mark.parametrize("gone", [False, True])
def test_bytes_that_another_writer_deleted_under_a_change_of_ours_stay_while_there_are_any(
    change: Callable[[Here], Awaitable[str]], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: Snapshot, row: Row) -> bytes:
        raise NotFound(f"pack {row.pack}")

    async def scene(here: Here) -> None:
        path = await change(here)
        await here.write("beside", b"new")
        with Lake.open(here.lake.volume) as other:
            with other.writer() as writer:
                writer.delete("a")
            compact(other)
        with monkeypatch.context() as patched:
            if gone:
                patched.setattr(Snapshot, "read_row", missing)
            await here.pending.commit()
        assert here.lake.snapshot().get("beside") == b"new"
        if gone:
            assert await here.find(path) == 0
        else:
            assert await here.read(path) == here.lake.snapshot().get(path) == b"bytes of a"

    played(scene)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_fsync_of_a_file_without_a_name_has_nothing_to_wait_for(how: str) -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("new", b"written")
        if how == "removed":
            await here.operations.unlink(ROOT, b"new", None)
        else:
            await here.rename("a", "new")
        await here.operations.write(handle, 0, b"WRITTEN")
        await here.operations.fsync(handle, False)
        assert here.pending.commits == 0
        await here.pending.commit()

    lake = played(scene)
    assert lake.snapshot().exists("new") == (how == "replaced")


def test_fsync_does_not_wait_for_what_is_written_after_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("log", b"0")
        elsewhere = here.tree.pace.elsewhere

        async def busy(*arguments: Any) -> Any:
            # Whoever writes it goes on: at the end of each commit there is more.
            await here.operations.write(handle, here.pending.commits + 1, b"+")
            return await elsewhere(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(here.tree.pace, "elsewhere", busy)
            await here.operations.fsync(handle, False)
        assert here.pending.commits == 1
        assert here.lake.snapshot().get("log") == b"0"
        await here.operations.fsync(handle, False)

    assert played(scene).snapshot().get("log") == b"0+"
