"""Real mounts for tests: the daemon is the command a user runs, in a process of its own."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.support.patience import PATIENCE_SECONDS

CAN_MOUNT = (
    importlib.util.find_spec("pyfuse3") is not None
    and os.path.exists("/dev/fuse")
    and os.geteuid() == 0
)
needs_fuse = pytest.mark.skipif(not CAN_MOUNT, reason="needs pyfuse3, /dev/fuse and root")
LAKEFEED = [sys.executable, "-m", "lakefeed"]
NOBODY = 65534
# It keeps one right, to read: the interpreter may live in root's home. None to mount.
AS_NOBODY = ["setpriv", "--reuid", f"{NOBODY}", "--regid", f"{NOBODY}", "--clear-groups",
             "--inh-caps", "-all,+dac_read_search",
             "--ambient-caps", "-all,+dac_read_search"]  # fmt: skip


def run(*arguments: object, check: bool = True, **how: object) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    done = subprocess.run(
        [*LAKEFEED, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        **how,  # type: ignore[call-overload]
    )
    assert not check or done.returncode == 0, done.stderr
    return done


class Mounted:
    """A mount and the process that serves it."""

    def __init__(self, lake: Path, path: Path, log: Path) -> None:
        self.lake = lake
        self.path = path
        self.log = log

    @property
    def pid(self) -> int:
        return int(os.getxattr(self.path, "user.lakefeed.pid"))

    def sync(self) -> None:
        """Commit everything that is pending."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def mounted(lake: Path, path: Path, *options: object) -> Iterator[Mounted]:
    """Mount a lake for the time of a block; the log must stay free of tracebacks."""
    path.mkdir(exist_ok=True)
    log = path.with_name(path.name + ".log")
    run("mount", lake, path, "--log", log, "--log-level", "info", *options)
    here = Mounted(lake, path, log)
    try:
        yield here
    finally:
        if os.path.ismount(path):
            run("umount", path, "--lazy")
            wait_until(lambda: not is_mounted(path))
        text = log.read_text() if log.exists() else ""
    assert "Traceback" not in text, text


def is_mounted(path: Path) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(path) for line in lines)


def is_running(pid: int) -> bool:
    """Tell whether any thread of a process lives; one that only waits for its parent does not."""
    states = set()
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            states.add(thread.read_text().rpartition(")")[2].split()[0])
    return not states <= {"Z", "X"}


def wait_until(happened: object) -> None:
    """Look again and again until it has happened; fail when it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """An empty lake."""
    where = tmp_path / "lake"
    Lake.create(where).close()
    return where


@pytest.fixture
def rw(lake: Path, tmp_path: Path) -> Iterator[Mounted]:
    """An empty lake, mounted for writing."""
    with mounted(lake, tmp_path / "mnt", "--rw") as here:
        yield here


def fsck(lake: Path) -> None:
    """The lake itself is sound, to the last payload."""
    done = run("fsck", lake, "--deep", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def new_mount(base: Path) -> Iterator[Mounted]:
    """Mount a new lake for writing; at the end all of it is committed, and sound."""
    Lake.create(base / "lake").close()
    with mounted(base / "lake", base / "mnt", "--rw") as here:
        yield here
        here.sync()
    fsck(base / "lake")


def open_to_all(tmp_path: Path) -> None:
    """Let every user reach a directory."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o055)


def mounted_by_hand(point: Path, options: str, *, writable: bool = False) -> int:
    """Mount with mount(2) alone; return the /dev/fuse of it, which nobody serves yet."""
    fuse = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={fuse},rootmode=40000,default_permissions,{options}"
    libc = ctypes.CDLL(None, use_errno=True)
    flags = 2 | 4 | (not writable)  # no set-user-id, no devices, read-only
    arguments = (b"lakefeed", os.fsencode(point), b"fuse.lakefeed", flags, data.encode())
    assert libc.mount(*arguments) == 0, os.strerror(ctypes.get_errno())
    return fuse
