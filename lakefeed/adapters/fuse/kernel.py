"""The kernel's side of a mount: is it there, is it dead, end it, widen its read-ahead.

A mount is found by its line in /proc/self/mountinfo, never by touching it: touching one whose
daemon hangs would hang as well. Whether a daemon is gone is asked with `statvfs`, which the kernel
never answers from its caches, on a thread that may stay behind.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lakefeed.adapters.fuse import handing
from lakefeed.errors import Conflict, Invalid, VolumeFailed, from_os_error
from lakefeed.volume.mountinfo import parse_mountinfo

FUSE_TYPE = "fuse.lakefeed"
# A living daemon answers in milliseconds; one that takes longer is not dead, so it is left alone.
ANSWER_SECONDS = 5.0
# The largest request that the kernel makes (256 pages): one request for each 1 MiB read ahead.
READ_AHEAD_KIB = 1024
# A mount ends after that, with or without what is in mapped files; systemd waits 90 s for both.
HAND_OVER_SECONDS = 60.0
# As many as Linux follows on the way to a file.
LINKS_MAX = 40
_MNT_DETACH = 2

_logger = logging.getLogger(__name__)


class Mounted(NamedTuple):
    """A line of mountinfo."""

    number: int
    minor: int
    path: str
    kind: str
    source: str


def mounts() -> list[Mounted]:
    """Return all mounts of this process's namespace, oldest first."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return [
        Mounted(each.number, int(each.device.partition(":")[2]), each.point, each.kind, each.source)
        for each in parse_mountinfo(text)
    ]


def mounted_at(path: str) -> Mounted | None:
    """Return what is mounted at a path, the topmost if several."""
    full = full_path(path)
    return next((mount for mount in reversed(mounts()) if mount.path == full), None)


def lets_in(mount: Mounted) -> tuple[int, int] | None:
    """Return the user and group that may use a FUSE mount without `allow_other`."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    for each in parse_mountinfo(text):
        if each.number == mount.number and {"user_id", "group_id"} <= each.options.keys():
            return int(each.options["user_id"]), int(each.options["group_id"])
    return None


def lakes_below(path: str) -> list[Mounted]:
    """Return the lakes mounted below a path, the newest first, so that each can be unmounted.

    None for "/": whoever says that does not mean all that the machine has.
    """
    above = full_path(path).rstrip("/") + "/"
    return [
        mount
        for mount in reversed(mounts())
        if mount.kind == FUSE_TYPE and mount.path.startswith(above) and above != "/"
    ]


def full_path(path: str) -> str:
    """Return a mount point's path as mountinfo has it.

    Only what is above the mount point may be touched. Reading a link asks nobody, also where a
    mount is instead of one; a chain of links that does not end is left for others to refuse.
    """
    full = os.path.abspath(path)
    for _ in range(LINKS_MAX):
        parent, name = os.path.split(full)
        full = os.path.join(os.path.realpath(parent), name)
        try:
            target = os.readlink(full)
        except OSError:
            break
        full = os.path.normpath(os.path.join(os.path.dirname(full), target))
    return full


def is_dead(mount: Mounted) -> bool:
    """Tell whether nobody serves a FUSE mount any more."""
    failure: list[OSError] = []

    def ask() -> None:
        try:
            os.statvfs(mount.path)
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=ask, name="lakefeed-ask", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return bool(failure) and failure[0].errno in (errno.ENOTCONN, errno.ECONNABORTED)


def prepare(path: str, needed: Mapping[str, str]) -> None:
    """Make sure that a lake can be mounted on a path; what a daemon that died left is removed.

    Conflict when something lives there already, Invalid when it is no directory, or a directory
    that the daemon needs (such as the lake), or one above: then it would wait for itself.
    """
    for _ in range(16):  # dead mounts may lie on top of each other, but not for ever
        mount = mounted_at(path)
        if mount is None or not mount.kind.startswith("fuse"):
            break
        if not is_dead(mount):
            raise Conflict(f"mount point {path}", expected="nothing mounted there",
                           found=f"{mount.source} ({mount.kind})",
                           hint=f'"lakefeed umount {path}" ends it')  # fmt: skip
        _logger.warning("removing the dead mount of %s at %s", mount.source, path)
        try:
            unmount(path, lazy=True)
        except VolumeFailed:
            if mounted_at(path) == mount:  # else its own watchdog was faster
                raise
    if not os.path.isdir(path):
        raise Invalid(f"mount point {path}", expected="a directory", found="none",
                      hint="make it first")  # fmt: skip
    for what, place in needed.items():
        if _hides(path, place):
            raise Invalid(f"mount point {path}", found=f"{what} {place}", hint="mount it elsewhere",
                          expected=f"a directory that does not hold the {what}")  # fmt: skip


def _hides(path: str, place: str) -> bool:
    """Tell whether a mount on a path lies on the way to a place, under whatever name.

    One on a bind mount also appears on the directory that was bound, where mounts are shared.
    """
    ways = Path(os.path.abspath(place)), Path(os.path.realpath(place))
    on_the_way = (each for way in ways for each in (way, *way.parents) if each.exists())
    return any(os.path.samefile(path, each) for each in on_the_way)


def unmount(path: str, *, lazy: bool = False) -> None:
    """End a mount; VolumeFailed(EBUSY) while somebody uses it, unless `lazy` lets them finish."""
    if os.geteuid() == 0:
        _umount2(path, _MNT_DETACH if lazy else 0)
        return
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "busy" in done.stderr.lower():
            raise _in_use(path)
        raise VolumeFailed(f"unmount {path}", found=done.stderr.strip())


def _umount2(path: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), flags):
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise _in_use(path)
        raise from_os_error(OSError(number, os.strerror(number)), f"unmount {path}")


def hand_over(path: str, names: list[str]) -> None:
    """Have the kernel write to the daemon what programs wrote into mapped files of a mount.

    `names` are those of the open files. VolumeFailed where that fails, or takes too long.
    """
    what = f"what programs have written into mapped files of {path}"
    script = [sys.executable, "-I", "-S", handing.__file__, path]
    told = "".join(f"{name}\0" for name in names).encode()
    process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    try:
        found, _ = process.communicate(told, HAND_OVER_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()  # and not waited for: it ends when the mount does
        raise VolumeFailed(what, found=f"not all of it within {HAND_OVER_SECONDS:g} s") from error
    if process.returncode:
        raise VolumeFailed(what, found=found.decode(errors="replace") or "some may be missing")


def _in_use(path: str) -> VolumeFailed:
    return VolumeFailed(f"unmount {path}", found="it is busy: files are open there",
                        hint="close them, or detach it with --lazy", errno=errno.EBUSY)  # fmt: skip


def widen_read_ahead(minor: int) -> None:
    """Let the kernel read ahead in large requests, where we may say so."""
    try:
        Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb").write_text(str(READ_AHEAD_KIB))
    except OSError as error:
        _logger.info("read-ahead stays as it is, requests stay at 128 KiB: %s", error)
