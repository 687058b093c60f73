"""The watchdog, as the process that it is, beside mounts that do not answer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakefeed.adapters.fuse import guard, kernel
from tests.fuse.points import Points
from tests.fuse.tools import is_mounted, needs_fuse, wait_until
from tests.support.patience import PATIENCE_SECONDS

pytestmark = [needs_fuse, pytest.mark.root]
LONG_SECONDS = 1000.0


def watching(mount: kernel.Mounted, pid: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start the watchdog of a mount whose daemon is a process."""
    words = [mount.path, str(mount.number), str(mount.minor), str(pid), str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, *words],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip


def said_when_it_hangs(mount: kernel.Mounted) -> bytes:
    """Return what the watchdog says of a daemon that hangs, and that it has killed then."""
    with (
        subprocess.Popen(["sleep", str(LONG_SECONDS)]) as daemon,
        watching(mount, daemon.pid, 0.1) as process,
    ):
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) == 0
        assert daemon.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    return said


@contextmanager
def detached(mount: kernel.Mounted) -> Iterator[None]:
    """A mount out of sight that somebody still holds, or its number would be given again."""
    held = os.open(mount.path, os.O_PATH)
    try:
        kernel.unmount(mount.path, lazy=True)
        yield
    finally:
        os.close(held)


def ignores_signals(pid: int) -> bool:
    """Tell whether a process has come so far as to ignore SIGINT and SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    return all(ignored >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))


def test_the_mount_of_a_daemon_that_dies_is_detached_whatever_the_watchdog_heard(
    points: Points,
) -> None:
    mount, fuse = points.mount("a name\twith \\ all\nkinds")
    with watching(mount, os.getpid(), LONG_SECONDS) as process:
        wait_until(lambda: ignores_signals(process.pid))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        points.die(fuse)
        _, said = process.communicate(guard.BEAT * 3, PATIENCE_SECONDS)
    assert (process.returncode, said) == (0, b"")
    assert kernel.mounted_at(mount.path) is None


def test_a_daemon_that_says_good_bye_and_a_mount_made_since_are_left_alone(points: Points) -> None:
    mount, _ = points.mount("point")
    with watching(mount, os.getpid(), LONG_SECONDS) as process:
        process.communicate(guard.BEAT + guard.GOODBYE, PATIENCE_SECONDS)
    assert kernel.mounted_at(mount.path) == mount
    with detached(mount):
        since, _ = points.mount("point")
        with watching(mount, os.getpid(), LONG_SECONDS) as process:
            process.communicate(guard.BEAT, PATIENCE_SECONDS)
        assert kernel.mounted_at(mount.path) == since


def test_a_daemon_that_hangs_is_killed_and_nobody_waits_for_it_any_more(points: Points) -> None:
    mount, _ = points.mount("point")
    failed: list[int | None] = []

    def wait() -> None:
        try:
            os.statvfs(mount.path)
        except OSError as error:
            failed.append(error.errno)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert b"has not answered" in said_when_it_hangs(mount)
    waiting.join(PATIENCE_SECONDS)
    assert failed and failed[0] in (errno.ENOTCONN, errno.ECONNABORTED)
    assert not is_mounted(Path(mount.path))


def test_a_daemon_that_hangs_after_its_mount_was_detached_takes_no_other_away(
    points: Points,
) -> None:
    mount, _ = points.mount("point")
    with detached(mount):
        since, _ = points.mount("point")
        said_when_it_hangs(mount)
        assert kernel.mounted_at(mount.path) == since
