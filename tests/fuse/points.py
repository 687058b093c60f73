"""Mounts that are made with mount(2) and do not answer: what must never be touched can be shown."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lakefeed.adapters.fuse import kernel
from tests.fuse.tools import mounted_by_hand


class Points:
    """Mount points below one directory; nothing is mounted there in the end."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._served: list[int] = []
        self._made: list[Path] = []

    def mount(self, name: str, *, user: int = 0) -> tuple[kernel.Mounted, int]:
        """Mount for a user; return the mount, and what a daemon would serve it by."""
        point = self._base / name
        with suppress(FileExistsError):
            os.makedirs(point)
        self._made.append(point)
        self._served.append(mounted_by_hand(point, f"user_id={user},group_id={user}"))
        found = kernel.mounted_at(str(point))
        assert found is not None
        return found, self._served[-1]

    def mount_disk(self, name: str) -> str:
        """Mount what has nothing to do with a lake; return where."""
        point = self._base / name
        point.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
        self._made.append(point)
        return str(point)

    def die(self, fuse: int) -> None:
        """Be a daemon that dies."""
        self._served.remove(fuse)
        os.close(fuse)

    def close(self) -> None:
        for fuse in list(self._served):
            self.die(fuse)
        for point in reversed(self._made):
            subprocess.run(["umount", "-i", "-l", "-q", point], check=False)


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Points]:
    """Mounts that do not answer, below `tmp_path`."""
    made = Points(tmp_path)
    try:
        yield made
    finally:
        made.close()
