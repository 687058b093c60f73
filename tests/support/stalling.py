"""A mounted filesystem that stops answering when told to: a FUSE daemon that can be stopped.

To the kernel, a stopped daemon is what a dead NFS server is on a hard mount: callers wait, for as
long as it takes. `stalling(directory)` mounts one file, `data`, and yields its daemon; `stop()`
and `resume()` are SIGSTOP and SIGCONT. The daemon speaks the kernel's protocol (fuse.h, 7.31)
itself, so nothing needs to be installed; run as a script, this module is the daemon.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DATA = bytes(range(256)) * 16
ROOT_ID, DATA_ID = 1, 2
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 26, 27, 28, 29, 36, 42
UNANSWERED = {FORGET, INTERRUPT, BATCH_FORGET}


class Stalling:
    """The daemon of a mounted filesystem."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def stop(self) -> None:
        """Return once the daemon answers nothing any more."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let the daemon answer again."""
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def stalling(directory: Path) -> Iterator[Stalling]:
    """Mount below `directory`, or skip with the reason where that is not possible."""
    command = [sys.executable, __file__, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        if process.stdout.readline() != b"ready\n":
            reason = process.stderr.read().decode().strip().splitlines()
            pytest.skip(f"cannot mount a FUSE filesystem: {reason[-1] if reason else 'no reason'}")
        yield Stalling(process)
    finally:
        # The kernel answers every waiting caller once the daemon is gone.
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        subprocess.run(["umount", "-l", str(directory)], capture_output=True, check=False)


def attributes(node: int) -> bytes:
    """Return struct fuse_attr."""
    size, mode = (len(DATA), 0o100644) if node == DATA_ID else (0, 0o40755)
    times = (0, 0, 0, 0, 0, 0)
    return struct.pack("<6Q10I", node, size, 1, *times[:3], *times[3:], mode, 1, 0, 0, 0, 512, 0)


def answer(opcode: int, node: int, body: bytes) -> bytes | int:
    """Return the reply's body, or the error number. What is not known is ENOSYS."""
    if opcode == INIT:
        return struct.pack("<4I2HII2HI7I", 7, 31, 0, 0, 12, 9, 4096, 1, 1, 0, 0, *[0] * 7)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != b"data":
            return -errno.ENOENT
        return struct.pack("<4Q2I", DATA_ID, 0, 0, 0, 0, 0) + attributes(DATA_ID)
    if opcode == GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<QIi", 0, 1, 0)  # direct I/O: the page cache answers nothing
    if opcode == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return DATA[offset : offset + size]
    if opcode == STATFS:
        return struct.pack("<5Q4I6I", 100, 50, 50, 10, 5, 4096, 255, 4096, 0, *[0] * 6)
    return b"" if opcode in (READDIR, RELEASE, RELEASEDIR) else -errno.ENOSYS


def serve(device: int) -> None:
    """Answer requests until the filesystem is unmounted."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in UNANSWERED:
            continue
        reply = answer(opcode, node, request[_IN.size :])
        body, number = (b"", reply) if isinstance(reply, int) else (reply, 0)
        os.write(device, _OUT.pack(_OUT.size + len(body), number, unique) + body)


def main(directory: str) -> None:
    """Mount and serve."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"lakefeed-test", directory.encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")
    print("ready", flush=True)
    serve(device)


if __name__ == "__main__":
    main(sys.argv[1])
