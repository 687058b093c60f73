"""Making the names in a directory durable here and known elsewhere.

Two things that a mounted filesystem does not do by itself: ext4 and xfs keep a new name only after
a sync of its directory, and NFS clients notice a new name only when the time stamp of its directory
has moved since they looked. Keeps V2 and V5 of `volume.base` for `volume.posix`.
"""

from __future__ import annotations

import errno
import os
import time

# Stamps coarser than this (1 s on ext3) are not waited for.
TICK_SECONDS_MAX = 0.05


def sync_directory(full: str, *, shared: bool = False) -> None:
    """Flush a directory's names; with `shared`, let other clients of the volume see them too."""
    fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.fsync(fd)
        except OSError as error:
            # Some network filesystems refuse it for directories: names are synchronous there.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        if shared:
            _leave_tick(fd)
    finally:
        os.close(fd)


def _leave_tick(fd: int) -> None:
    """Touch a directory until its time stamp is a later one than its newest name was made at.

    An NFSv3 client, and a v4 client of some servers, knows a changed directory by its time stamp.
    Servers stamp in ticks of 1 to 10 ms. A client that looked for a name in the very tick in which
    it was made after that would see the directory unchanged and not find the name, for as long as
    nothing else changes there (seen on Linux 6.1; servers from 6.13 on stamp finely when asked).
    """
    before = os.fstat(fd)
    if os.major(before.st_dev):
        return  # a local disk: its one kernel knows its names
    give_up = time.monotonic() + TICK_SECONDS_MAX
    try:
        while os.fstat(fd).st_ctime_ns == before.st_ctime_ns and time.monotonic() < give_up:
            os.utime(fd)
    except OSError as error:
        # Then other clients may see the names later, as they do on any directory they remember.
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP):
            raise
