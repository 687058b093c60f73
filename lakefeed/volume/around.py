"""A volume around another one: every call passes one place, where it may wait, count or fail.

Subclasses say in `run` what becomes of a call. Those that look after the calls of open files, too,
override `create` and `open`, and `list` where names that come late are calls as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from lakefeed.volume.base import FileStat, Listed, ReadableFile, Space, Volume, WritableFile

T = TypeVar("T")


class AroundVolume:
    """`inner`, each of whose calls is made by `run`; see `Volume` for what they do."""

    def __init__(self, inner: Volume) -> None:
        self.inner = inner

    def run(self, verb: str, path: str, work: Callable[[], T]) -> T:
        """Make a call; `path` is what it looks at, makes or removes."""
        return work()

    @property
    def name(self) -> str:
        """The inner volume's name."""
        return self.inner.name

    def create(self, path: str) -> WritableFile:
        """Create a new file."""
        return self.run("create", path, lambda: self.inner.create(path))

    def open(self, path: str) -> ReadableFile:
        """Open a file for reading."""
        return self.run("open", path, lambda: self.inner.open(path))

    def stat(self, path: str) -> FileStat:
        """Return the facts of a file."""
        return self.run("stat", path, lambda: self.inner.stat(path))

    def link(self, source: str, target: str) -> None:
        """Give `source` the additional name `target`."""
        self.run("link", target, lambda: self.inner.link(source, target))

    def replace(self, source: str, target: str) -> None:
        """Rename over the target."""
        self.run("replace", target, lambda: self.inner.replace(source, target))

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self.run("unlink", path, lambda: self.inner.unlink(path))

    def list(self, directory: str) -> Iterator[Listed]:
        """Return the names in a directory."""
        return self.run("list", directory, lambda: self.inner.list(directory))

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents durably."""
        self.run("make_directory", path, lambda: self.inner.make_directory(path))

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        self.run("sync_directory", path, lambda: self.inner.sync_directory(path))

    def refresh(self, directory: str) -> None:
        """Forget cached misses below a directory."""
        self.run("refresh", directory, lambda: self.inner.refresh(directory))

    def space(self) -> Space:
        """Return the room left."""
        return self.run("space", "", self.inner.space)
