"""Read-only images of the plain files, mounted: SquashFS and EROFS, read by 64 threads."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.contest import Delivered, Task
from benchmarks.peers.files_threads import FilesThreads


class SquashFs(FilesThreads):
    """A loop-mounted SquashFS without compression."""

    name = "SquashFS, 64 threads"
    needs = ("program:mksquashfs", "root")
    kind = "squashfs"

    def prepare(self, task: Task) -> None:
        """Pack the tree into an image."""
        image = str(task.where / "image")
        quiet = {"check": True, "stdout": subprocess.DEVNULL}
        subprocess.run(self.command(str(task.files), image), **quiet)  # type: ignore[call-overload]

    def command(self, source: str, image: str) -> list[str]:
        """Return what makes the image."""
        return [
            "mksquashfs",
            source,
            image,
            "-noI",
            "-noD",
            "-noF",
            "-noX",
            "-quiet",
            "-no-progress",
        ]

    def run(self, task: Task) -> Delivered:
        """Mount the image, read it as files, unmount it."""
        # Beside /tmp's own mounts, not inside the volume under test.
        point = Path(f"/tmp/lakefeed-peer-{os.getpid()}")
        point.mkdir()
        try:
            subprocess.run(
                ["mount", "-t", self.kind, "-o", "ro,loop", task.where / "image", point], check=True
            )
            try:
                return super().run(replace(task, files=point))
            finally:
                subprocess.run(["umount", point], check=True)
        finally:
            point.rmdir()


class Erofs(SquashFs):
    """A loop-mounted EROFS."""

    name = "EROFS, 64 threads"
    needs = ("program:mkfs.erofs", "root")
    kind = "erofs"

    def command(self, source: str, image: str) -> list[str]:
        """Return what makes the image."""
        return ["mkfs.erofs", image, source]


def program(name: str) -> bool:
    """Tell whether a program is there."""
    return shutil.which(name) is not None
