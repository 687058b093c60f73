"""The watchdog: a small process of its own that outlives a daemon in trouble.

It reads one byte a second from the daemon. No byte for the given time: the daemon's loop is stuck,
so the connection is aborted (whoever waits in the kernel gets an error instead of waiting for
ever) and the daemon killed. End of file without a good-bye: the daemon died. In both cases the
dead mount is detached, so that the path works again; open files in it get ENOTCONN.

Runs as a plain script with the standard library only, so that it stays small (9 MB) and shares
nothing with what it watches: python guard.py PATH MOUNT-NUMBER MINOR PID SECONDS.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys
from pathlib import Path

BEAT = b"."
GOODBYE = b"q"
_MNT_FORCE, _MNT_DETACH = 1, 2


def main(arguments: list[str]) -> int:
    """Watch until the daemon says good-bye, dies, or hangs."""
    path, number, minor, pid, seconds = arguments
    # A terminal's Ctrl-C and a service manager's stop are for the daemon, which says good-bye.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    goodbye = False
    while True:
        ready, _, _ = select.select([0], [], [], float(seconds))
        if not ready:
            complain(f"the daemon has not answered for {seconds} s: ending the mount at {path}")
            if is_ours(path, int(number)):
                abort(path, int(minor))
            os.kill(int(pid), signal.SIGKILL)
            break
        data = os.read(0, 4096)
        if not data:
            break
        goodbye = goodbye or GOODBYE in data
    if not goodbye and is_ours(path, int(number)):
        detach(path, _MNT_DETACH)
    return 0


def is_ours(path: str, number: int) -> bool:
    """Tell whether the mount that we watch is still the one at the path."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if int(fields[0]) == number:
            return fields[4] == escaped(path)
    return False


def escaped(path: str) -> str:
    """Return a path as mountinfo writes it."""
    for character in "\\ \t\n":
        path = path.replace(character, f"\\{ord(character):03o}")
    return path


def abort(path: str, minor: int) -> None:
    """Break the connection."""
    try:
        Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
    except OSError:
        detach(path, _MNT_FORCE | _MNT_DETACH)


def detach(path: str, flags: int) -> None:
    """Take the mount out of the tree of files."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.umount2(os.fsencode(path), flags):
        return
    failure = ctypes.get_errno()
    if failure == errno.EPERM:
        # Not root: what fusermount3 mounted for this user it also unmounts.
        if os.spawnlp(os.P_WAIT, "fusermount3", "fusermount3", "-u", "-z", "--", path):
            complain(f"fusermount3 cannot unmount {path}")
        return
    complain(f"cannot unmount {path}: {os.strerror(failure)}")


def complain(text: str) -> None:
    """Say on stderr, which is the daemon's log, what happened."""
    os.write(2, f"lakefeed: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
