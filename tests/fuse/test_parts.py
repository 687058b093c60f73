"""The parts of the mount that need no mount to be shown: wall, inodes, cache."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed import Lake
from lakefeed.volume.memory import MemoryVolume

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse import blocks, nodes, reading, view  # noqa: E402
from lakefeed.adapters.fuse.ahead import (  # noqa: E402
    CREDIT_BYTES,
    EARNED_BYTES,
    STEP_BYTES,
    Surroundings,
)
from lakefeed.adapters.fuse.answers import Answers, to_bytes, to_text, walled  # noqa: E402
from lakefeed.adapters.fuse.blocks import BLOCK_BYTES  # noqa: E402
from lakefeed.adapters.fuse.nodes import Directory, Inodes, Node  # noqa: E402
from lakefeed.adapters.fuse.pace import Pace, _Lock  # noqa: E402
from lakefeed.adapters.fuse.reading import Reads  # noqa: E402
from lakefeed.adapters.fuse.view import View, find, load  # noqa: E402
from lakefeed.errors import (  # noqa: E402
    Conflict,
    Corrupt,
    LakefeedError,
    NotFound,
    SnapshotExpired,
    VolumeFailed,
)

# -- the wall --------------------------------------------------------------------------------------


class Handlers(Answers):
    """Handlers that fail in every way."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(0, 0)
        self._failure = failure

    @walled
    async def read(self, fh: int) -> bytes:
        raise self._failure


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (ZeroDivisionError(), errno.EIO),
        (KeyError("x"), errno.EIO),
        (RecursionError(), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (SnapshotExpired("pack"), errno.ESTALE),
        (Conflict("name"), errno.EEXIST),
        (NotFound("snapshot"), errno.EIO),
        (OSError("without a number"), errno.EIO),
        (pyfuse3.FUSEError(errno.ENOTDIR), errno.ENOTDIR),
    ],
)
def test_whatever_a_handler_raises_the_kernel_gets_an_errno(
    failure: Exception, number: int
) -> None:
    handlers = Handlers(failure)
    with pytest.raises(pyfuse3.FUSEError) as refused:
        trio.run(handlers.read, 1)
    assert refused.value.errno == number
    assert handlers.stats.ops["read"].failed == 1


# -- attributes ------------------------------------------------------------------------------------


@given(st.binary())
def test_any_attribute_value_survives_as_text(value: bytes) -> None:
    assert to_bytes(to_text(value)) == value


# -- inodes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snapshot() -> Any:
    lake = Lake.create(MemoryVolume())
    with lake.writer() as writer:
        for number in range(3000):
            writer.put(f"d{number % 30}/{number:04d}", b"%d" % number)
        writer.put("big", random.Random(1).randbytes(9_000_000))
    return lake.snapshot()


def test_what_the_kernel_forgets_is_forgotten(
    snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "IDLE_MAX", 500)
    inodes = Inodes()
    root = Directory(View(snapshot), None, b"", None, 0)
    inodes.add_root(root, 1)
    for number in range(30):
        directory = root.children[b"d%d" % number] = Directory(
            root.view, root, b"d%d" % number, None, 0
        )
        inodes.meet(directory)
        for child in load(snapshot, f"d{number}").children:
            name = child.name.encode()
            directory.children[name] = Node(directory, name, child.columns, child.at)
        directory.complete = True
        for node in directory.children.values():
            inodes.meet(node)
    assert len(inodes) == 1 + 30 + 3000
    inodes.forget([(ino, 1) for ino in list(inodes.table) if ino != 1])
    assert len(inodes) == 1
    held = sum(len(d.children) for d in root.children.values() if isinstance(d, Directory))
    assert held <= 500


def test_a_name_is_found_or_not(snapshot: Any) -> None:
    assert find(snapshot, "d1/0001") is not None
    assert find(snapshot, "d1") is not None
    assert find(snapshot, "d1/none") is None
    assert {child.name for child in load(snapshot, "d3").children} == {
        f"{number:04d}" for number in range(3, 3000, 30)
    }


def test_a_directory_of_a_big_subtree_shows_what_that_of_a_small_one_does() -> None:
    with Lake.create(MemoryVolume()) as lake:
        with lake.writer() as writer:
            writer.mkdir("d/made", 0o700)
            for name in ("d/made/x", "d/implied/x", "d/file", "d/å", "e"):
                writer.put(name, name.encode())
        found = []
        for most in (view.STRETCH_ROWS, 1):
            with mock.patch.object(view, "STRETCH_ROWS", most):
                children = load(lake.snapshot(), "d").children
            rows = {c.name: c.columns and c.columns.row(c.at) for c in children}
            found.append(rows)
        assert found[0] == found[1]
        assert sorted(found[1]) == ["file", "implied", "made", "å"]


# -- cache -----------------------------------------------------------------------------------------


class Slow(Pace):
    """A volume that is always slow, and counts what it is asked for."""

    slow = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.gate: threading.Event | None = None

    async def call(self, action: Callable[..., Any], *arguments: Any, size_bytes: int = 0) -> Any:
        self.calls.append(arguments)
        if self.gate is not None:
            await self.elsewhere(self.gate.wait)
        return await self.elsewhere(action, *arguments)


def test_who_asks_for_the_same_block_waits_for_one_read(snapshot: Any) -> None:
    row = snapshot.stat("big")
    content = snapshot.get("big")

    async def run() -> None:
        pace = Slow()
        pace.gate = threading.Event()
        reads = Reads(pace, 64 << 20)
        results: list[bytes] = []

        async def one() -> None:
            results.append(bytes(await reads.read(snapshot, row, BLOCK_BYTES, 200_000)))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            pace.gate.set()
        assert results == [content[BLOCK_BYTES : BLOCK_BYTES + 200_000]] * 5
        assert len(pace.calls) == 1

    trio.run(run)


def test_a_sequential_reader_finds_the_next_blocks_there(snapshot: Any) -> None:
    row = snapshot.stat("big")
    content = snapshot.get("big")

    async def run() -> None:
        pace = Slow()
        reads = Reads(pace, 64 << 20)
        async with trio.open_nursery() as nursery:
            reads.start = nursery.start_soon
            for offset in range(0, row.size, 200_000):
                found = await reads.read(snapshot, row, offset, 200_000)
                assert found == content[offset : offset + 200_000]
                await trio.testing.wait_all_tasks_blocked()
        assert reads.stats.ahead_blocks >= 6
        assert len(pace.calls) <= -(-row.size // BLOCK_BYTES)

    trio.run(run)


@pytest.mark.parametrize("failure", [Corrupt("b"), NotFound("b"), VolumeFailed("b")])
def test_a_block_ahead_that_cannot_be_read_is_told_to_who_reads_it_alone(
    failure: LakefeedError, snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = snapshot.stat("big")
    content = snapshot.get("big")

    def fill(block: memoryview, *of: Any) -> memoryview:
        if of[-1]:
            raise failure
        return blocks.fill(block, *of)

    async def run() -> None:
        reads = Reads(Slow(), 64 << 20)
        async with trio.open_nursery() as nursery:
            reads.start = nursery.start_soon
            for offset in (0, 200_000):
                found = await reads.read(snapshot, row, offset, 200_000)
                assert found == content[offset : offset + 200_000]
            await trio.testing.wait_all_tasks_blocked()
            assert reads.stats.ahead_blocks
            with pytest.raises(type(failure)):
                await reads.read(snapshot, row, BLOCK_BYTES, 200_000)

    monkeypatch.setattr(reading, "fill", fill)
    trio.run(run)


def test_the_cache_keeps_its_budget(snapshot: Any) -> None:
    row = snapshot.stat("big")

    async def run() -> None:
        reads = Reads(Slow(), 2 * BLOCK_BYTES)
        for offset in range(0, row.size, BLOCK_BYTES):
            await reads.read(snapshot, row, offset, BLOCK_BYTES)
            assert reads.stats.held_bytes <= 2 * BLOCK_BYTES

    trio.run(run)


def test_an_evicted_block_is_not_written_over_while_somebody_needs_it(snapshot: Any) -> None:
    row = snapshot.stat("big")
    content = snapshot.get("big")

    async def run() -> None:
        reads = Reads(Slow(), 2 * BLOCK_BYTES)
        randomly = random.Random(4)

        async def one() -> None:
            for _ in range(10):
                offset = randomly.randrange(row.size)
                found = await reads.read(snapshot, row, offset, 3 * BLOCK_BYTES)
                assert found == content[offset : offset + 3 * BLOCK_BYTES]

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)

    trio.run(run)


# -- what is fetched ahead -------------------------------------------------------------------------


def test_surroundings_are_fetched_once_and_not_beyond_the_payloads() -> None:
    now = 0.0
    around = Surroundings(lambda: now)
    end = 2 * STEP_BYTES + 100
    assert around.claim("p", STEP_BYTES + 5, 10, end) == (STEP_BYTES, 2 * STEP_BYTES)
    assert around.claim("p", STEP_BYTES + 900, 10, end) == (0, 0)
    now += 60  # whoever waits there now does so because the pages went
    assert around.claim("p", STEP_BYTES + 900, 10, end) == (STEP_BYTES, 2 * STEP_BYTES)
    assert around.claim("p", 2 * STEP_BYTES - 5, 10, end) == (2 * STEP_BYTES, end)
    assert around.claim("q", 7 * STEP_BYTES, STEP_BYTES, 99 * STEP_BYTES) == (
        4 * STEP_BYTES,
        8 * STEP_BYTES,
    )


def test_a_lake_bigger_than_memory_is_not_fetched_in_vain() -> None:
    """Reads that never find what was fetched around others cost `CREDIT_BYTES`, then themselves."""
    around, fetched, asked = Surroundings(), 0, 0
    for number in range(20_000):
        start, end = around.claim("p", number * 2 * STEP_BYTES, 4096, 1 << 60)
        fetched += end - start
        asked += 4096
    assert fetched <= CREDIT_BYTES + asked
    for _ in range(STEP_BYTES // EARNED_BYTES):
        around.found()
    start, end = around.claim("p", 1 << 50, 4096, 1 << 60)
    assert end - start == STEP_BYTES


def test_a_read_that_waits_has_its_neighbours_fetched_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(reading, "advise", lambda file, start, end: told.append((start, end)))
    with Lake.create(tmp_path / "lake") as lake:
        with lake.writer() as writer:
            for number in range(600):
                writer.put(f"{number:04d}", bytes([number % 251]) * 4096)
        snapshot = lake.snapshot()
        rows = [snapshot.stat(f"{number:04d}") for number in range(0, 600, 20)]
        random.Random(1).shuffle(rows)

        async def read(pace: Pace) -> None:
            reads = Reads(pace, 64 << 20)
            for row in rows:
                found = await reads.read(snapshot, row, 0, 4096)
                assert found == bytes([int(row.path) % 251]) * 4096

        for pace in (Pace(), Slow()):
            told.clear()
            # Whatever the disk does here: every read waits, then none does.
            for waits in (-1.0, 10.0):
                monkeypatch.setattr(reading, "WAITED_SECONDS", waits)
                monkeypatch.setattr(reading, "SLOW_SECONDS", waits)
                trio.run(read, pace)
            asked = [steps for steps in told if steps[0] < steps[1]]
            assert len(asked) == -(-max(row.offset + row.length for row in rows) // STEP_BYTES)


def test_small_files_in_pack_order_come_in_runs(snapshot: Any) -> None:
    rows = [snapshot.stat(f"d7/{number:04d}") for number in range(7, 3000, 30)]

    async def run() -> None:
        pace = Slow()
        reads = Reads(pace, 64 << 20)
        for row in rows:
            assert await reads.read(snapshot, row, 0, 4096) == snapshot.read_row(row)
        assert len(pace.calls) < 10

    trio.run(run)


def test_random_small_reads_of_a_big_file_read_no_more_than_asked(snapshot: Any) -> None:
    row = snapshot.stat("big")

    async def run() -> None:
        reads = Reads(Slow(), 64 << 20)
        randomly = random.Random(2)
        for _ in range(20):
            await reads.read(snapshot, row, randomly.randrange(BLOCK_BYTES, row.size), 4096)
        assert reads.stats.fetched_bytes <= 20 * 4096

    trio.run(run)


def test_large_reads_that_share_the_volume_do_not_make_it_slow() -> None:
    """A volume found slow becomes fast again even while it is asked for much at a time."""
    pace, seen = Pace(), []
    pace.took(0.02)
    seen.append(pace.slow)
    for _ in range(20):
        # Each of 16 blocks takes what a disk of a gigabyte a second needs for all of them.
        pace.took(0.016, BLOCK_BYTES, together=16)
    seen.append(pace.slow)
    for _ in range(20):
        pace.took(0.016, BLOCK_BYTES)
    seen.append(pace.slow)
    assert seen == [True, False, True]


def test_the_last_holder_keeps_the_lock_and_nobody_is_left_out() -> None:
    async def run() -> None:
        lock, order = _Lock(), []

        async def waiter() -> None:
            async with lock:
                order.append("waiter")

        async with trio.open_nursery() as nursery:
            async with lock:
                nursery.start_soon(waiter)
                await trio.testing.wait_all_tasks_blocked()
            async with lock:
                order.append("holder")
        assert order == ["holder", "waiter"]

    trio.run(run)
