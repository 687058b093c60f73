"""An open file of a mounted filesystem: what holds whether it is read or written.

One that nobody closed is closed when nobody refers to it any more, as Python's own files are."""

from __future__ import annotations

import os
import weakref

from lakefeed.closing import Closing
from lakefeed.errors import from_os_error
from lakefeed.volume.base import FileStat


def file_stat(info: os.stat_result) -> FileStat:
    """Return what a volume says of a file."""
    return FileStat(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_nlink)


class Descriptor(Closing):
    """A descriptor, the path it was opened by, and -1 once it is closed."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        # At the end of the process the system does it.
        self._dropped = weakref.finalize(self, os.close, fd)
        self._dropped.atexit = False

    def stat(self) -> FileStat:
        """Return the facts of the open file as the server has them."""
        try:
            return file_stat(os.fstat(self._fd))
        except OSError as error:
            raise from_os_error(error, self._path) from error

    def close(self) -> None:
        """Close the descriptor; EIO, ENOSPC and EDQUOT may surface only here."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._dropped.detach()
        try:
            os.close(fd)
        except OSError as error:
            raise from_os_error(error, f"close of {self._path}") from error
