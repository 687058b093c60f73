"""One mount from beginning to end.

1. Open the lake, choose the snapshot; pin it unless the mount follows the head.
2. Remove what a dead daemon left at the mount point, mount, start the watchdog.
3. Serve: requests, following the head, committing, the pin, the heartbeat, each a task.
4. SIGTERM or SIGINT: commit what is pending, detach, finish. `umount` by somebody else: finish, and
   commit what is pending. What could not be committed is logged and makes `run` raise.

pyfuse3 has one session a process, so a process serves one mount.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio

from lakefeed.adapters.fuse import guard, kernel, pace
from lakefeed.adapters.fuse.changes import Committing
from lakefeed.adapters.fuse.heart import Heart
from lakefeed.adapters.fuse.operations import ReadOperations
from lakefeed.adapters.fuse.pending import Pending
from lakefeed.adapters.fuse.reading import Reads
from lakefeed.adapters.fuse.spool import Budget
from lakefeed.adapters.fuse.tree import Stale, Tree
from lakefeed.adapters.fuse.writing import WriteOperations
from lakefeed.errors import Invalid, LakefeedError, VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.batch import WHEN_TOLD
from lakefeed.lake.lake import Lake
from lakefeed.lake.refs import Pin

# Requests under way at a time; the kernel itself sends at most some hundred in the background.
REQUESTS_MAX = 256
PIN_SECONDS = 3600.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a lake is mounted.

    `at` names a snapshot and makes the mount read-only and still. `fd` is an open /dev/fuse that
    somebody with the right to mount has mounted already. `watchdog_seconds` 0: no watchdog.
    """

    at: str | int | None = None
    refresh_seconds: float = 5.0
    writable: bool = False
    allow_other: bool = False
    executable: bool = True
    fd: int | None = None
    cache_bytes: int = 256 << 20
    watchdog_seconds: float = 120.0
    owner: tuple[int, int] | None = None
    committing: Committing = field(default_factory=Committing)
    spool: Budget | None = None


class Mount:
    """A lake and a place to mount it. `run` serves until it is unmounted."""

    def __init__(self, lake: Lake, path: str, options: MountOptions) -> None:
        self._lake = lake
        self._path = os.path.abspath(path)
        self._options = options
        self._pace = pace.Pace()
        # Our mount; None where it is not found.
        self._mount: kernel.Mounted | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._heart: Heart | None = None
        self._pin: Pin | None = None
        self._failed: LakefeedError | None = None

    def run(self, ready: Callable[[ReadOperations], None]) -> None:
        """Mount and serve; `ready` is called once the mount answers. Returns after unmounting.

        Raises what kept the last changes from being committed.
        """
        try:
            trio.run(self._run, ready)
        finally:
            if self._pin is not None:
                self._lake.refs.unpin(self._pin)
        if self._failed is not None:
            raise self._failed

    async def _run(self, ready: Callable[[ReadOperations], None]) -> None:
        options = self._options
        self._path = kernel.full_path(self._path)
        follows = options.at is None
        snapshot = self._lake.snapshot(options.at)
        if not follows:
            self._pin = self._pinned(snapshot.number)
        tree = Tree(self._lake, snapshot, self._pace, follows=follows)
        reads = Reads(self._pace, options.cache_bytes)
        owner = options.owner or (os.geteuid(), os.getegid())
        if not options.writable:
            operations = ReadOperations(tree, reads, self._lake.volume, owner)
            await self._mounted(operations, None, ready)
            return
        budget = options.spool or Budget()
        # Now, not when the first big file is written, which would only be told ENOENT.
        try:
            budget.file().close()
        except OSError as error:
            raise Invalid(f"--spool {budget.directory or ''}", expected="a directory to write in",
                          found=(error.strerror or "none").lower()) from error  # fmt: skip
        writer = self._lake.writer(WHEN_TOLD, operation="mount")
        pending = Pending(tree, self._lake, writer, options.committing, budget)
        try:
            writing = WriteOperations(tree, reads, self._lake.volume, owner)
            writing.use(pending)
            await self._mounted(writing, pending, ready)
        finally:
            writer.close()

    async def _mounted(
        self,
        operations: ReadOperations,
        pending: Pending | None,
        ready: Callable[[ReadOperations], None],
    ) -> None:
        if self._options.fd is None:
            lake = self._lake.name
            needed = {f"lake's {each}": f"{lake}/{each}" for each in layout.DIRECTORIES}
            if pending is not None:
                needed["spool"] = pending.budget.place
            kernel.prepare(self._path, needed)
        pace.install(self._pace)
        # Heard from before the mount is there, or a signal in that moment would leave a dead one.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            self._init(operations)
            try:
                await self._serve(operations, pending, signals, ready)
            finally:
                pyfuse3.close(unmount=self._is_there())
                pace.uninstall()
                self._dismiss_guard()
                _logger.info("%s is no longer mounted", self._path)

    def _init(self, operations: ReadOperations) -> None:
        options = self._options
        # pyfuse3 takes ASCII only.
        source = self._lake.name.encode("ascii", "backslashreplace").decode()
        source = source.replace("\\", "\\\\").replace(",", "\\,")
        words = {f"fsname={source}", "subtype=lakefeed", "default_permissions", "noatime"}
        words.add("rw" if options.writable else "ro")
        if options.allow_other:
            words.add("allow_other")
        if not options.executable:
            words.add("noexec")
        where = self._path if options.fd is None else f"/dev/fd/{options.fd}"
        try:
            pyfuse3.init(operations, where, words)
        except RuntimeError as error:
            raise VolumeFailed(f"mount {self._path}", found=str(error),
                               hint="see the lines above; it takes /dev/fuse, fusermount3 and a "
                               "user that /etc/passwd knows, or root, and user_allow_other in "
                               "/etc/fuse.conf for --allow-other",
                               ) from error  # fmt: skip
        self._mount = kernel.mounted_at(self._path)

    def _is_there(self) -> bool:
        """Tell whether what is at the path is ours to end: not one made since `umount --lazy`."""
        if self._options.fd is not None:
            return False
        return self._mount is None or kernel.mounted_at(self._path) == self._mount

    # -- serving ---------------------------------------------------------------------------------

    async def _serve(
        self,
        operations: ReadOperations,
        pending: Pending | None,
        signals: AsyncIterator[int],
        ready: Callable[[ReadOperations], None],
    ) -> None:
        tree = operations.tree
        async with trio.open_nursery() as nursery:
            operations.reads.start = nursery.start_soon
            nursery.start_soon(self._stop_on_signal, tree, pending, signals)
            if tree.follows:
                nursery.start_soon(self._follow, tree)
            if pending is not None:
                nursery.start_soon(pending.run)
            if self._pin is not None:
                nursery.start_soon(self._renew_pin)
            nursery.start_soon(self._settle, nursery, lambda: ready(operations))
            await pyfuse3.main(min_tasks=1, max_tasks=REQUESTS_MAX)
            with trio.CancelScope(shield=True):
                await self._commit_rest(pending)
            nursery.cancel_scope.cancel()

    async def _settle(self, nursery: trio.Nursery, ready: Callable[[], None]) -> None:
        """Do what needs an answering mount, then say that there is one."""
        # The kernel has taken our limits once it gets an answer, and they would override ours.
        await self._pace.elsewhere(os.statvfs, self._path)
        mount = kernel.mounted_at(self._path)
        if mount is not None:
            kernel.widen_read_ahead(mount.minor)
        ready()
        # After `ready`, which may exchange stderr: the watchdog must not keep the old one open.
        _logger.info("%s is mounted at %s, %s", self._lake.name, self._path,
                     "writable" if self._options.writable else "read-only")  # fmt: skip
        if mount is not None and self._options.watchdog_seconds:
            self._guard = _start_guard(mount, self._options.watchdog_seconds)
            assert self._guard.stdin is not None
            self._heart = Heart(self._pace, self._guard.stdin)
            self._heart.start()
            nursery.start_soon(self._heart.turn)

    def _dismiss_guard(self) -> None:
        if self._heart is not None:
            self._heart.stop()
        if self._guard is not None:
            assert self._guard.stdin is not None
            with suppress(BrokenPipeError):  # it went first, which was said
                self._guard.stdin.close()
            self._guard.wait()
        self._heart = self._guard = None

    async def _follow(self, tree: Tree) -> None:
        while True:
            await trio.sleep(self._options.refresh_seconds)
            try:
                stale, tree.stale = tree.stale + await tree.follow(), []
                if stale:
                    await self._pace.elsewhere(invalidate, stale)
            except LakefeedError as error:
                _logger.warning("cannot look for a newer snapshot: %s", error)
            except Exception:
                # It would end the mount; what was not shown this time may be the next time.
                _logger.exception("following the lake failed in a way nobody foresaw")

    def _pinned(self, number: int) -> Pin | None:
        try:
            return self._lake.pin(
                number, holder=f"mount {self._path}", lifetime_seconds=PIN_SECONDS
            )
        except VolumeFailed as error:
            _logger.warning("the snapshot is not pinned, keep it with a tag: %s", error)
            return None

    async def _renew_pin(self) -> None:
        while self._pin is not None:
            await trio.sleep(PIN_SECONDS / 4)
            try:
                self._pin = await self._pace.elsewhere(self._lake.renew, self._pin, PIN_SECONDS)
            except LakefeedError as error:
                _logger.warning("cannot renew the pin: %s", error)

    # -- the end ---------------------------------------------------------------------------------

    async def _stop_on_signal(
        self, tree: Tree, pending: Pending | None, signals: AsyncIterator[int]
    ) -> None:
        number = await anext(signals)
        _logger.info("signal %d: unmounting", number)
        if pending is not None:
            await self._pace.elsewhere(self._hand_over, tree.open_paths())
        await self._commit_rest(pending)
        # Detached, so that nobody new comes in; those inside finish or get ENOTCONN.
        await self._pace.elsewhere(self._detach)
        pyfuse3.terminate()

    def _hand_over(self, paths: list[str]) -> None:
        # One that was handed over (`fd`) is not ours to end, but to ask; it may be out of sight.
        if self._mount is None or kernel.mounted_at(self._path) != self._mount:
            return
        try:
            kernel.hand_over(self._path, paths)
        except (LakefeedError, OSError) as error:
            _logger.warning("%s", error)

    def _detach(self) -> None:
        if not self._is_there():
            return
        try:
            kernel.unmount(self._path, lazy=True)
        except LakefeedError as error:
            _logger.warning("%s", error)

    async def _commit_rest(self, pending: Pending | None) -> None:
        if pending is None:
            return
        try:
            await pending.commit()
            self._failed = None
        except LakefeedError as error:
            _logger.error("not committed: %d changes: %s", pending.count, error)
            self._failed = error


def _start_guard(mount: kernel.Mounted, seconds: float) -> subprocess.Popen[bytes]:
    script = Path(guard.__file__)
    arguments = [mount.path, str(mount.number), str(mount.minor), str(os.getpid()), str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), *arguments], stdin=subprocess.PIPE, cwd="/"
    )


def invalidate(stale: Stale) -> None:
    """Tell the kernel which names to look up again."""
    for ino, name in stale:
        try:
            pyfuse3.invalidate_entry(ino, name)
        except FileNotFoundError:
            continue  # it did not know the name
        except OSError as error:
            _logger.warning("cannot invalidate %r: %s", name, error)
