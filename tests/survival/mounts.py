"""Small filesystems of their own to break: an ext4 image on a loop device, a tmpfs, a quota.

Each is a context manager that unmounts whatever state the filesystem is in. `cut_power` is
EXT4_IOC_SHUTDOWN without flushing the journal (linux/fs/ext4/ext4.h: `_IOR('X', 125, __u32)`, flag
EXT4_GOING_FLAGS_NOLOGFLUSH): from that moment nothing more reaches the disk, as when the plug is
pulled. `freeze` makes every change of the filesystem wait until `thaw` (FIFREEZE, FITHAW).
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_SECONDS

EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878


def run(*command: str | os.PathLike[str]) -> None:
    """Run a command; its error output is the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, f"{command}: {done.stderr.strip()}"


def skip_for(reason: str | None) -> None:
    """Skip the test that calls this, and print why, if there is a reason."""
    if reason:
        print(reason)
        pytest.skip(reason)


@cache
def why_no_loop(directory: Path) -> str | None:
    """Return why ext4 images cannot be mounted here, None if they can."""
    if os.geteuid() != 0:
        return "needs root (loop devices, mounts)"
    try:
        with Image(directory / "probe").mounted():
            return None
    except (AssertionError, OSError) as error:
        return f"needs loop-mounted ext4: {error}"


class Image:
    """An ext4 filesystem in a file."""

    def __init__(self, directory: Path, size: str = "64M") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "image"
        self.path = directory / "mount"
        self.path.mkdir()
        run("truncate", "-s", size, self._file)
        run("mkfs.ext4", "-q", "-F", self._file)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount the image (replaying its journal); unmount it and free its loop device after."""
        run("mount", "-o", "loop", self._file, self.path)
        try:
            yield self.path
        finally:
            unmount(self.path)


@contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs."""
    path.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", path)
    try:
        yield path
    finally:
        unmount(path)


class Quota:
    """A btrfs subvolume that may be limited in size: beyond that the kernel says EDQUOT."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def limit(self, more_bytes: int | None) -> None:
        """Allow so much more than is there now; None: any amount."""
        run("sync", "-f", self.path)
        allowed = "none" if more_bytes is None else str(int(self._row()[1]) + more_bytes)
        # By number and through the directory above, which is not limited: this is a change, too.
        run("btrfs", "qgroup", "limit", allowed, self._row()[0], self.path.parent)

    def _row(self) -> list[str]:
        """Return the number of the quota group and how many bytes it has."""
        command = ["btrfs", "qgroup", "show", "-f", "--raw", self.path]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
        )
        return done.stdout.splitlines()[-1].split()


@contextmanager
def quota(directory: Path) -> Iterator[Quota]:
    """Mount a filesystem with a quota that is not limited yet."""
    file, path = directory / "image", directory / "mount"
    path.mkdir(parents=True)
    run("truncate", "-s", "128M", file)
    run("mkfs.btrfs", "-q", "--mixed", file)
    run("mount", "-t", "btrfs", "-o", "loop", file, path)
    try:
        run("btrfs", "quota", "enable", path)
        run("btrfs", "subvolume", "create", path / "limited")
        yield Quota(path / "limited")
    finally:
        unmount(path)


@cache
def why_no_quota(directory: Path) -> str | None:
    """Return why there are no quotas to be had here, None if there are."""
    if os.geteuid() != 0:
        return "needs root (loop devices, mounts)"
    try:
        with quota(directory / "quota-probe"):
            return None
    except (AssertionError, OSError) as error:
        return f"needs btrfs with quotas, in the kernel and from btrfs-progs: {error}"


def unmount(path: Path) -> None:
    """Unmount, lazily if somebody still holds a file there."""
    done = subprocess.run(["umount", path], capture_output=True, timeout=PATIENCE_SECONDS)
    if done.returncode:
        run("umount", "-l", path)


def cut_power(path: Path) -> None:
    """Stop an ext4 filesystem at once, its journal unflushed."""
    _ioctl(path, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))


def freeze(path: Path) -> None:
    """Make whoever changes the filesystem wait."""
    _ioctl(path, FIFREEZE, struct.pack("i", 0))


def thaw(path: Path) -> None:
    """End a freeze; one that is not there is fine."""
    try:
        _ioctl(path, FITHAW, struct.pack("i", 0))
    except OSError:
        return


def _ioctl(path: Path, request: int, argument: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, request, argument)
    finally:
        os.close(fd)
