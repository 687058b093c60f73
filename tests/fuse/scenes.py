"""Scenes without a mount: the handlers are called as the kernel would call them.

So each step, of this mount and of other writers, can be placed exactly.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.errors import LakefeedError
from lakefeed.lake.batch import WHEN_TOLD
from lakefeed.volume.memory import MemoryVolume
from tests.support.patience import PATIENCE_SECONDS

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse.changes import Committing  # noqa: E402
from lakefeed.adapters.fuse.nodes import ROOT  # noqa: E402
from lakefeed.adapters.fuse.pace import Pace  # noqa: E402
from lakefeed.adapters.fuse.pending import Pending  # noqa: E402
from lakefeed.adapters.fuse.reading import Reads  # noqa: E402
from lakefeed.adapters.fuse.spool import Budget  # noqa: E402
from lakefeed.adapters.fuse.tree import Tree  # noqa: E402
from lakefeed.adapters.fuse.writing import WriteOperations  # noqa: E402

# Nothing is committed but when a test says so.
NEVER = 3600.0
# What another writer puts.
NEWS = b"another writer's bytes, and more of them"


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

    def inode(self, handle: int) -> int:
        """Return the inode that a handle is of."""
        node = self.operations.held(handle)
        return node.ino if node is not None else 0

    async def list(self, name: str = "") -> None:
        """Have a directory read, as listing it does."""
        number = await self.find(name) if name else ROOT
        await self.tree.load(self.operations.directory(number))

    async def open(self, name: str, flags: int = os.O_RDWR) -> int:
        info = await self.operations.open(await self.find(name), flags, None)
        return int(info.fh)

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

    async def set_mode(self, number: int) -> None:
        """Let an inode be for its owner alone."""
        attributes = pyfuse3.EntryAttributes()
        attributes.st_mode = 0o600
        others = dict.fromkeys(("update_uid", "update_gid", "update_size", "update_mtime"), False)
        fields = SimpleNamespace(**others, update_mode=True)
        await self.operations.setattr(number, attributes, fields, None, None)

    def other(self, name: str, data: bytes) -> None:
        """Put a file as another writer."""
        with self.lake.writer() as writer:
            writer.put(name, data)

    async def read(self, name: str) -> bytes:
        """Return what a program that opens the name now is shown."""
        number = await self.find(name)
        size = (await self.operations.getattr(number, None)).st_size
        return bytes(await self.operations.read(number, 0, size))

    async def commit_or_fail(self) -> None:
        """Return once a commit was made, or failed."""
        with suppress(LakefeedError):
            await self.pending.commit()

    async def commits(self) -> None:
        """Return once there has been a commit."""
        before = self.pending.commits
        while self.pending.commits == before:
            await trio.sleep(0.01)


class Gate:
    """Holds what other threads call until the test opens it."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call with the gate in front of it."""

        def held(*args: Any) -> Any:
            self._reached.set()
            assert self._opened.wait(PATIENCE_SECONDS), "the test never opened the gate"
            return call(*args)

        return held

    async def reached(self) -> None:
        """Return once a call waits at the gate."""
        assert await trio.to_thread.run_sync(self._reached.wait, PATIENCE_SECONDS)

    def open(self) -> None:
        """Let all calls go on."""
        self._opened.set()


@asynccontextmanager
async def serving(lake: Lake, **options: Any) -> AsyncIterator[Here]:
    pace = Pace()
    tree = Tree(lake, lake.snapshot(), pace, follows=True)
    operations = WriteOperations(tree, Reads(pace, 1 << 20), lake.volume, (0, 0))
    with lake.writer(WHEN_TOLD) as writer:
        committing = Committing(**{"age_seconds": NEVER, **options})
        operations.use(Pending(tree, lake, writer, committing, Budget()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations.pending.run)
            with trio.fail_after(60):
                yield Here(lake, operations)
            nursery.cancel_scope.cancel()


def played(
    scene: Callable[[Here], Awaitable[None]], volume: MemoryVolume | None = None, **options: Any
) -> Lake:
    """Play a scene in a lake with the files a, b and d/f; return the lake."""
    lake = Lake.create(volume or MemoryVolume())
    with lake.writer() as writer:
        writer.put("a", b"bytes of a")
        writer.put("b", b"and of b")
        writer.put("d/f", b"file in d")

    async def run() -> None:
        async with serving(lake, **options) as here:
            await scene(here)

    trio.run(run)
    return lake
