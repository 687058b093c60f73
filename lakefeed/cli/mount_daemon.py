"""The daemon of a mount: started in the background, waited for until it says that it answers."""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import lakefeed
from lakefeed.cli.stopping import held_back
from lakefeed.cli.units import parse_address
from lakefeed.errors import Invalid, VolumeFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from lakefeed.adapters.fuse.operations import ReadOperations

# A daemon that has not mounted by then never will: it opens the lake, which is a few small files.
START_SECONDS = 120.0
READY = b"1"
# Set for the daemon, and what tells that it is one: the pipe on which it says that it is up.
READY_FD = "LAKEFEED_READY_FD"
# As a file, not with -m: that takes modules from the current directory, whoever put them there.
_COMMAND = Path(lakefeed.__file__).with_name("__main__.py")

_logger = logging.getLogger(__name__)


class Daemon:
    """A `lakefeed` command that goes on in the background once it is up."""

    def __init__(
        self, words: Sequence[str], log: str | None, fd: int | None = None, *, mountpoint: str
    ) -> None:
        self._mountpoint = mountpoint
        self._pipe, write_end = os.pipe()
        output = open(log, "ab") if log else None  # noqa: SIM115 - handed to the daemon
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(_COMMAND), *words],
                stdin=subprocess.DEVNULL,
                stdout=output or 2,
                stderr=output or 2,
                start_new_session=True,
                env={**os.environ, READY_FD: str(write_end)},
                pass_fds=[write_end, *([] if fd is None else [fd])],
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(write_end)
            if output is not None:
                output.close()

    def wait(self) -> int:
        """Return 0 once it is up, else the exit code that it ended with, having said why."""
        with open(self._pipe, "rb") as pipe:
            ready, _, _ = select.select([pipe], [], [], START_SECONDS)
            if ready and pipe.read(1) == READY:
                return 0
        if not ready:
            self._process.kill()
            raise VolumeFailed(f"mount {self._mountpoint}",
                               found=f"no answer in {START_SECONDS:.0f} s")  # fmt: skip
        return self._process.wait()

    def ended(self) -> int:
        """Return its exit code when it has ended."""
        return self._process.wait()

    def stop(self) -> None:
        """Ask it to commit what is pending and to unmount."""
        self._process.terminate()


class Daemons(list[Daemon]):
    """Daemons that are being started. Whoever is interrupted in the `with` block (Ctrl-C) stops
    them: they would mount when nobody expects it."""

    def begin(
        self, words: Sequence[str], log: str | None, fd: int | None = None, *, mountpoint: str
    ) -> Daemon:
        """Start one, and note it, before any interrupt is heard."""
        with held_back():
            self.append(Daemon(words, log, fd, mountpoint=mountpoint))
        return self[-1]

    def __enter__(self) -> Daemons:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for daemon in self:
                daemon.stop()


class Reporter:
    """Tells whoever started the daemon, systemd and Prometheus that it is up."""

    def __init__(self, listen: str | None) -> None:
        self._listen = listen
        self._show: Callable[[ReadOperations], None] | None = None
        told = os.environ.pop(READY_FD, None)
        self._ready_fd = None if told is None else int(told)

    def listen(self) -> None:
        """Take the address of the metrics, before anything is mounted."""
        if self._listen is None:
            return
        from lakefeed.adapters.fuse.report import listen

        address = parse_address(self._listen)
        if address is None:
            expected = "HOST:PORT, such as 127.0.0.1:9464"
            raise Invalid(f"--listen {self._listen}", expected=expected)
        self._show = listen(*address)

    def ready(self, operations: ReadOperations) -> None:
        """Say that the mount answers."""
        if self._show is not None:
            self._show(operations)
        self.up()

    def up(self) -> None:
        """Say so to whoever waits."""
        notify_systemd("READY=1")
        if self._ready_fd is not None:
            with suppress(BrokenPipeError):  # nobody waits any more, and the mount goes on
                os.write(self._ready_fd, READY)
            os.close(self._ready_fd)
            if os.isatty(2) or not _is_regular(2):
                # Whoever started us must not wait for our stderr to end.
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
                os.close(nowhere)


def _is_regular(handle: int) -> bool:
    return stat.S_ISREG(os.fstat(handle).st_mode)


def notify_systemd(text: str) -> None:
    """Tell systemd how the daemon is; that it does not listen is said, and ends nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), address)
    except OSError as error:
        _logger.warning("NOTIFY_SOCKET is not told %s: %s", text, error)
