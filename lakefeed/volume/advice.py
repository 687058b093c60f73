"""The kernel's page cache: what is in it, and how much one piece of advice has it fetch.

Advice (posix_fadvise WILLNEED) that is longer than the kernel's largest request is cut, silently:
to 1 MiB or more on disks and on NFS, but on FUSE to the mount's read-ahead, which is 128 KiB unless
somebody raised it. And a FUSE mount has a dozen such requests under way at most, unless its daemon
or somebody else raised that: then threads that read get more out of it than advice does.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from lakefeed.volume.mountinfo import parse_mountinfo

ADVICE_BYTES = 1 << 20
# As many requests at a time as threads would make.
_ENOUGH_REQUESTS = 64
_MOUNTS = Path("/proc/self/mountinfo")
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_DEVICES = Path("/sys/class/bdi")
# cachestat(2), since Linux 6.5: of what range, and how many pages of it are cached, dirty, ...
_CACHESTAT = 451
_Range = ctypes.c_uint64 * 2
_Pages = ctypes.c_uint64 * 5
_syscall = ctypes.CDLL(None, use_errno=True).syscall


@functools.lru_cache(maxsize=64)
def advice_bytes(device: int) -> int:
    """Return how many bytes to ask for at a time on a device (`st_dev`); 0: better not at all."""
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = parse_mountinfo(_MOUNTS.read_text(encoding="utf-8", errors="replace"))
        if not any(mount.device == name and mount.is_fuse for mount in mounts):
            return ADVICE_BYTES
        requests = int((_CONNECTIONS / str(os.minor(device)) / "max_background").read_text())
        read_ahead = int((_DEVICES / name / "read_ahead_kb").read_text()) << 10
    except (OSError, ValueError):
        return 0
    return min(read_ahead, ADVICE_BYTES) if requests >= _ENOUGH_REQUESTS else 0


def cached_share(fd: int, ranges: Sequence[tuple[int, int]]) -> float | None:
    """Return which share of these bytes' pages the page cache holds, or has under way.

    None where the kernel is too old, or tells only the owner of the file.
    """
    cached = wanted = 0
    pages, number, flags = _Pages(), ctypes.c_long(_CACHESTAT), ctypes.c_long(0)
    for offset, length in ranges:
        place = ctypes.byref(_Range(offset, length))
        if _syscall(number, ctypes.c_long(fd), place, ctypes.byref(pages), flags):
            return None
        cached += pages[0]
        wanted += (offset + length - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1
    return cached / wanted if wanted else None
