"""Has a mount commit what is pending, and hears from it which process serves it.

A mount without `allow_other` lets in only who made it, not even root; root asks it as that user, in
a process of its own. This module is the script of that, with the standard library only:
python asking.py USER GROUP DESCRIPTOR. Says on stdout the number of the daemon, or of an error.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys

# What a read-only mount says to fsync of a directory.
_NOTHING_TO_SYNC = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def commit(place: int) -> int | None:
    """Return who serves a mount, None if it does not tell, once all of it is committed.

    `place` is open and leads there. PermissionError where the mount does not let us in.
    """
    try:
        handle = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return None  # nobody serves it any more
        raise
    try:
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _NOTHING_TO_SYNC:
                raise
        try:
            return int(os.getxattr(handle, "user.lakefeed.pid"))
        except (OSError, ValueError):
            return None
    finally:
        os.close(handle)


def commit_as(user: int, group: int, place: int) -> int | None:
    """Do what `commit` does, as a user, which takes root."""
    words = [sys.executable, "-I", "-S", __file__, *map(str, (user, group, place))]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        pass_fds=[place], cwd="/", check=False,
    )  # fmt: skip
    said = done.stdout.strip()
    number = int(said) if said.isdigit() else None
    if done.returncode:
        number = errno.EIO if number is None else number
        raise OSError(number, os.strerror(number))
    return number


def main(user: int, group: int, place: int) -> int:
    """Become a user, commit, and say who serves the mount."""
    try:
        # Not before, or whoever is asked for might not be allowed to run our interpreter, and would
        # be allowed to look into this process.
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
        number = commit(place)
    except OSError as error:
        os.write(1, str(error.errno).encode())
        return 1
    os.write(1, b"" if number is None else str(number).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
