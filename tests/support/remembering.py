"""A volume as one NFS client of a server shows it: what it looked up once, it does not ask again.

Names that were found keep their file and names that were missing stay missing, and so does a
listing, until the directory is refreshed. What this client changes itself it knows.
"""

from __future__ import annotations

from collections.abc import Iterator

from lakefeed.errors import NotFound
from lakefeed.volume.base import Listed
from lakefeed.volume.memory import MemoryVolume, MemoryWritableFile, _Node


class RememberingVolume(MemoryVolume):
    """One of the clients of `server`, which all change the same tree."""

    def __init__(self, server: MemoryVolume) -> None:
        super().__init__(server.name)
        self._lock, self._directories = server._lock, server._directories
        self._names, self._durable_names = server._names, server._durable_names
        self._seen: dict[str, _Node | None] = {}
        self._listed: dict[str, list[Listed]] = {}

    def _node(self, path: str) -> _Node:
        node = self._seen.setdefault(path, self._names.get(path))
        if node is None:
            raise NotFound(f"{self.name}/{path}")
        return node

    def _changed(self, *paths: str) -> None:
        for path in paths:
            self._seen.pop(path, None)
            self._listed.pop(path.rpartition("/")[0], None)

    def create(self, path: str) -> MemoryWritableFile:
        """Create a file, and know it."""
        file = super().create(path)
        self._changed(path)
        return file

    def link(self, source: str, target: str) -> None:
        """Link a file, and know it; who is told that the name is taken remembers what it saw."""
        super().link(source, target)
        self._changed(target)

    def replace(self, source: str, target: str) -> None:
        """Rename a file, and know it."""
        super().replace(source, target)
        self._changed(source, target)

    def unlink(self, path: str) -> None:
        """Remove a name, and know it."""
        self._changed(path)
        super().unlink(path)
        self._changed(path)

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names that were there at the first look."""
        if directory not in self._listed:
            self._listed[directory] = [*super().list(directory)]
        yield from self._listed[directory]

    def refresh(self, directory: str) -> None:
        """Forget what was looked up in a directory."""
        super().refresh(directory)
        self._listed.pop(directory, None)
        for path in [p for p in self._seen if p.rpartition("/")[0] == directory]:
            del self._seen[path]
