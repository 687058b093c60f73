"""A process that writes files into a directory, fsyncs each, and says so only afterwards."""

from __future__ import annotations

import os
import random
import sys


def content(seed: int) -> bytes:
    """What file number `seed` holds."""
    randomly = random.Random(seed)
    return randomly.randbytes(randomly.choice([0, 10, 4096, 100_000, 2_000_000]))


def main(directory: str, first: int) -> None:
    """Write until the mount goes away, and fail; each acknowledged number is one line on stdout.

    A dead mount is removed, between any two calls: then the directory is one below it.
    """
    number = first
    mount = os.stat(directory).st_dev if os.path.ismount(directory) else None
    while True:
        path = f"{directory}/{number % 7}/{number}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(handle, content(number))
        os.fsync(handle)
        if os.fstat(handle).st_dev != mount:
            sys.exit(f"{path} is not on the mount")
        os.close(handle)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
