"""A directory seen through a slow volume: a FUSE file system that passes through, with delays.

    python -m benchmarks.slowfs SOURCE MOUNTPOINT --model far

Emulates what a filer does to a client, for programs that know only paths. Simulated, and every
figure measured on it says so:

- `far`: 1 ms more for every open and every read request, as many at a time as anybody asks for.
- `nas`: 1 ms for every open, read, stat of a name and listing; at most 5,000 calls a second and
  1 GB a second in all, shared by all callers, first come first served.

Read-only. The page cache of the mount is as any network file system's (emptied when it is mounted);
requests are at most as big as the kernel makes them (as root 1 MiB, and 256 of read-ahead at a
time; else 128 KiB and 12). One event loop serves all requests, so hundreds can be waiting at once,
and what it can pass through itself is the upper end: about 1 GB and some ten thousand requests a
second.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio


@dataclass(frozen=True, slots=True)
class Model:
    """How slow a volume is; None: no bound."""

    call_seconds: float
    names_too: bool
    calls_per_second: float | None = None
    bytes_per_second: float | None = None


MODELS = {
    "far": Model(0.001, names_too=False),
    "nas": Model(0.001, names_too=True, calls_per_second=5_000, bytes_per_second=1e9),
}
_FOREVER = 3600.0
_CONNECTIONS = Path("/sys/fs/fuse/connections")


class SlowFs(pyfuse3.Operations):
    """Passes a directory through, each call as late as the model says."""

    def __init__(self, source: str, model: Model) -> None:
        super().__init__()
        self._model = model
        self._paths = {pyfuse3.ROOT_INODE: source}
        self._inodes = {source: pyfuse3.ROOT_INODE}
        self._free_at = 0.0  # when the shared volume is done with what it has been asked so far

    async def _wait(self, size_bytes: int = 0) -> None:
        model, now = self._model, trio.current_time()
        share = 0.0
        if model.calls_per_second is not None:
            share = 1 / model.calls_per_second
        if model.bytes_per_second is not None:
            share = max(share, size_bytes / model.bytes_per_second)
        self._free_at = max(now, self._free_at) + share
        await trio.sleep_until(self._free_at + model.call_seconds)

    def _inode(self, path: str) -> int:
        if path not in self._inodes:
            self._inodes[path] = len(self._inodes) + 1
            self._paths[self._inodes[path]] = path
        return self._inodes[path]

    def _attributes(self, path: str) -> pyfuse3.EntryAttributes:
        try:
            found = os.lstat(path)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self._inode(path)
        entry.st_mode, entry.st_size, entry.st_nlink = found.st_mode, found.st_size, 1
        entry.st_mtime_ns = entry.st_atime_ns = entry.st_ctime_ns = found.st_mtime_ns
        entry.st_blksize, entry.st_blocks = 1 << 20, found.st_blocks
        entry.entry_timeout = entry.attr_timeout = _FOREVER
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        if self._model.names_too:
            await self._wait()
        return self._attributes(os.path.join(self._paths[parent], os.fsdecode(name)))

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        return self._attributes(self._paths[inode])

    async def opendir(self, inode: int, ctx: object) -> int:
        if self._model.names_too:
            await self._wait()
        return inode

    async def readdir(self, handle: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        directory = self._paths[handle]
        for number, name in enumerate(sorted(os.listdir(directory))[start:], start + 1):
            entry = self._attributes(os.path.join(directory, name))
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, number):
                return

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        await self._wait()
        return pyfuse3.FileInfo(fh=os.open(self._paths[inode], os.O_RDONLY), keep_cache=True)

    async def read(self, handle: int, offset: int, size: int) -> bytes:
        await self._wait(size)
        return os.pread(handle, size, offset)

    async def release(self, handle: int) -> None:
        os.close(handle)


async def serve(mountpoint: str) -> None:
    """Serve until a signal ends it or somebody unmounts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stopped)
        # In a thread: it asks the mount, which this loop answers.
        nursery.start_soon(trio.to_thread.run_sync, _as_nfs, mountpoint)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _stopped() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            pyfuse3.terminate()
            return


def _as_nfs(mountpoint: str) -> None:
    """Let the kernel ask for as much at a time, and as often, as an NFS client does.

    That is a mebibyte (its usual rsize), and more than the dozen requests of read-ahead at which
    FUSE stops: whoever relies on read-ahead would see a filer with a dozen slots.
    """
    if os.geteuid() != 0:
        return
    device = os.stat(mountpoint).st_dev
    if _CONNECTIONS.exists() and not any(_CONNECTIONS.iterdir()):
        subprocess.run(["mount", "-t", "fusectl", "none", _CONNECTIONS], check=False)
    connection = _CONNECTIONS / str(os.minor(device))
    bounds = {
        Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"): "1024",
        connection / "max_background": "256",
        connection / "congestion_threshold": "256",
    }
    for bound, value in bounds.items():
        if bound.exists():
            bound.write_text(value)


def main() -> None:
    """Mount, serve, unmount."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("mountpoint")
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    options = parser.parse_args()
    served = SlowFs(os.path.abspath(options.source), MODELS[options.model])
    flags = set(pyfuse3.default_options) | {"fsname=lakefeed-slowfs", "ro"}
    pyfuse3.init(served, options.mountpoint, flags)
    try:
        trio.run(serve, options.mountpoint)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
