"""Older snapshots that the kernel has met and forgotten: what of them stays in memory."""

from __future__ import annotations

import gc
import weakref

import pytest

pytest.importorskip("pyfuse3")

from lakefeed.adapters.fuse.nodes import ROOT, Directory
from lakefeed.adapters.fuse.view import STRETCHES_MAX
from tests.fuse.scenes import Here, played


async def met(here: Here, path: str) -> list[int]:
    """Have the kernel meet each name of a path; return their inodes."""
    numbers = [ROOT]
    for name in path.encode().split(b"/"):
        numbers.append(int((await here.operations.lookup(numbers[-1], name, None)).st_ino))
    return numbers[1:]


def test_of_a_snapshot_that_the_kernel_forgot_nothing_stays() -> None:
    async def scene(here: Here) -> None:
        inodes, known = here.tree.inodes, len(here.tree.inodes.table)
        gone: list[weakref.ref[Directory]] = []
        for content in range(3):
            here.other("a", b"%d" % content)
            here.lake.tag("latest", move=True)
            for name in ("latest", str(here.lake.snapshot().number)):
                numbers = await met(here, f".snapshots/{name}/d/f")
                root = here.operations.directory(numbers[1])
                await here.tree.load(root)
                gone.append(weakref.ref(root))
                del root
                here.operations.forget([(number, 1) for number in reversed(numbers)])
        # Without a collection of garbage, of which a daemon makes few.
        assert [root() for root in gone] == [None] * 6
        assert len(inodes.table) == known

    gc.disable()
    try:
        played(scene)
    finally:
        gc.enable()


def test_a_snapshot_is_one_while_the_kernel_knows_it() -> None:
    async def scene(here: Here) -> None:
        here.lake.tag("kept")
        first = await met(here, ".snapshots/kept/d/f")
        again = await met(here, ".snapshots/kept/d/f")
        assert first == again
        here.operations.forget([(number, 1) for number in reversed(first)])
        assert await here.read(".snapshots/kept/d/f") == b"file in d"
        assert await met(here, ".snapshots/kept/d/f") == first

    played(scene)


def test_snapshots_share_the_room_for_names_that_were_read() -> None:
    async def scene(here: Here) -> None:
        roots = []
        for content in range(STRETCHES_MAX + 2):
            here.other("a", b"%d" % content)
            numbers = await met(here, f".snapshots/{here.lake.snapshot().number}")
            roots.append(here.operations.directory(numbers[1]))
            await here.tree.load(roots[-1])
        in_memory = [root.view.nearby("") is not None for root in roots]
        assert in_memory == [False] * 2 + [True] * STRETCHES_MAX

    played(scene)
