"""Has the kernel hand over what programs have written into mapped files of a mount.

syncfs has it begin with all of them, and on most kernels waits for none; fsync waits, for one file.
Whoever waits for its own daemon in the kernel cannot be killed, and would keep the connection open
that is to break then. So this is a process of its own, which the daemon leaves behind in the end.

Runs as a plain script with the standard library only: python handing.py PATH, the names of open
files on stdin, each ended by a NUL. Says on stdout what went wrong first.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress


def main(path: str) -> int:
    """Return once the daemon has everything; not 0 where it may miss something."""
    names = sys.stdin.buffer.read().split(b"\0")[:-1]
    failures: list[OSError] = []
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        ctypes.CDLL(None).syncfs(handle)  # what it does not write, fsync will
        for name in names:
            try:
                sync(handle, name)
            except FileNotFoundError:
                continue  # removed or renamed since
            except OSError as error:
                failures.append(error)
    except OSError as error:
        failures.append(error)
    if failures:
        with suppress(BrokenPipeError):  # the daemon did not wait
            os.write(1, str(failures[0]).encode())
    return bool(failures)


def sync(directory: int, name: bytes) -> None:
    """Return once the daemon has what was written into a file."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        os.fsync(file)
    finally:
        os.close(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
