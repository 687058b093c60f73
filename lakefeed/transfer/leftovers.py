"""Temporary files of exports that were killed: known by their names and their age, and removed.

Nobody says whose a temporary file is. But whoever is at work on one writes to it all the time: a
volume that is read fails after ten minutes (`--timeout`). By the file server's clock, since that of
this machine may be off: `now_ns` is the change time of a file that was just made beside them.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

LEFT_NS = 3600 * 10**9


def remove_leftovers(directory: int, names: re.Pattern[str], now_ns: int) -> None:
    """Remove what has such a name in an open directory and did not change for an hour."""
    for name in filter(names.fullmatch, os.listdir(directory)):
        with suppress(FileNotFoundError, PermissionError):
            changed_ns = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ctime_ns
            if changed_ns < now_ns - LEFT_NS:
                os.unlink(name, dir_fd=directory)
