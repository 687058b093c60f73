"""Big files that programs go on writing, and the commits that leave them out for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed import Lake  # noqa: E402
from lakefeed.adapters.fuse.nodes import ROOT  # noqa: E402
from tests.fuse.scenes import NEWS, Here, played  # noqa: E402
from tests.fuse.tools import fsck, mounted, needs_fuse, wait_until  # noqa: E402

MIB = 1 << 20
# Where commits take what is written slowly, those that nobody waits for leave it out for minutes.
BIG = bytes(2 * MIB)
SOON = 0.01


def names(here: Here) -> set[str]:
    return {row.path for row in here.lake.snapshot().ls()}


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefeed.adapters.fuse.changes.OPEN_BYTES_PER_SECOND", 4096)


@pytest.mark.usefixtures("slowly")
def test_a_big_file_is_left_out_while_it_is_written_and_taken_once_it_is_closed() -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("big", BIG)
        reading = await here.open("big", 0)
        await here.write("small", b"x")
        await here.commits()
        assert "small" in names(here) and "big" not in names(here)
        assert here.pending.count == 1
        # Who only reads it keeps it from nothing.
        await here.operations.release(handle)
        await here.commits()
        assert len(here.lake.snapshot().get("big")) == len(BIG)
        await here.operations.release(reading)

    played(scene, age_seconds=SOON)


def test_a_file_that_is_written_for_long_is_taken_in_the_end() -> None:
    async def scene(here: Here) -> None:
        await here.create("log", bytes(MIB // 8))
        await here.commits()
        assert "log" in names(here)

    played(scene, age_seconds=SOON)


@pytest.mark.usefixtures("slowly")
def test_a_commit_of_one_file_takes_no_other_that_is_being_written() -> None:
    async def scene(here: Here) -> None:
        big = await here.create("big", BIG)
        own = await here.create("own", BIG[1:])
        await here.operations.fsync(own, False)
        assert "own" in names(here) and "big" not in names(here)
        await here.operations.fsync(big, False)
        assert "big" in names(here)
        await here.operations.write(big, 0, b"again")
        await here.operations.fsyncdir(0, False)
        assert here.lake.snapshot().get("big")[:5] == b"again"

    played(scene)


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("name", ["a", "free"])
def test_no_commit_takes_a_file_away_that_was_renamed_or_replaced(known: bool, name: str) -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("new", BIG)
        if known:
            await here.operations.fsync(handle, False)
            await here.operations.write(handle, 0, b"more")
        await here.rename("new", name)
        await here.write("small", b"x")
        await here.commits()
        assert "new" not in names(here)
        if known or name == "a":
            assert len(here.lake.snapshot().get(name)) == len(BIG)

    played(scene, age_seconds=SOON)


@pytest.mark.usefixtures("slowly")
def test_no_commit_takes_a_file_away_that_was_renamed_there_and_back() -> None:
    async def scene(here: Here) -> None:
        handle = await here.create("new", BIG)
        await here.operations.fsync(handle, False)
        await here.operations.write(handle, 0, b"more")
        await here.rename("new", "other")
        await here.rename("other", "new")
        await here.write("small", b"x")
        await here.commits()
        assert here.lake.snapshot().get("new")[:4] == b"more"
        assert "other" not in names(here)

    played(scene, age_seconds=SOON)


@pytest.mark.usefixtures("slowly")
def test_what_was_left_out_is_moved_removed_and_overtaken_as_anything_else() -> None:
    async def scene(here: Here) -> None:
        moved = await here.create("moved", BIG)
        removed = await here.create("removed", BIG)
        overtaken = await here.create("overtaken", BIG)
        await here.write("small", b"x")
        await here.commits()
        await here.rename("moved", "there")
        await here.operations.unlink(ROOT, b"removed", None)
        here.other("overtaken", NEWS)
        await here.tree.follow()
        for handle in (moved, removed, overtaken):
            await here.operations.release(handle)
        await here.pending.commit()
        assert not here.pending.count
        assert here.pending.held_bytes == 0
        assert {"small", "there", "overtaken"} <= names(here)
        assert not {"moved", "removed"} & names(here)

    snapshot = played(scene, age_seconds=SOON).snapshot()
    assert snapshot.get("there") == snapshot.get("overtaken") == BIG


@needs_fuse
@pytest.mark.root
@pytest.mark.slow
def test_a_big_file_is_not_stored_anew_with_each_commit_while_it_is_written(
    lake: Path, tmp_path: Path
) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "10ms") as here:
        with open(here.path / "film", "wb", buffering=0) as film:
            for number in range(16):
                film.write(bytes([number]) * 4 * MIB)
                (here.path / "progress").write_text(f"{number}")
                with Lake.open(lake) as other:
                    wait_until(lambda: progress(other) == f"{number}".encode())  # noqa: B023
        here.sync()
    fsck(lake)
    stored = sum(each.stat().st_size for each in lake.rglob("*") if each.is_file())
    assert 64 * MIB < stored < 192 * MIB


def progress(lake: Lake) -> bytes:
    snapshot = lake.snapshot()
    return snapshot.get("progress") if snapshot.exists("progress") else b""
