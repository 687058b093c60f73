"""Who may mount and who serves can be two: a helper mounts, the daemon needs no rights.

And the ways that mount(8), fstab and systemd start a mount.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lakefeed
from lakefeed import Lake
from lakefeed.cli.mount_helper import unmounting_of
from tests.fuse.tools import (
    AS_NOBODY,
    LAKEFEED,
    NOBODY,
    is_mounted,
    is_running,
    mounted_by_hand,
    needs_fuse,
    open_to_all,
    run,
    wait_until,
)
from tests.support.patience import PATIENCE_SECONDS

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
# Mount as an ordinary user, where all may open /dev/fuse as on most machines; once the watchdog is
# there, kill the daemon and wait until its mount is gone.
DIES = """
mount --bind "$1" /dev/fuse || exit 2
point=$2
shift 2
"$@" & daemon=$!
mounted() { grep -q " $point " /proc/self/mountinfo; }
for _ in $(seq 600); do pgrep -P $daemon -f guard && break; sleep 0.1; done
mounted || exit 2
kill -9 $daemon
for _ in $(seq 600); do mounted || exit 0; sleep 0.1; done
exit 1
"""


def test_an_unprivileged_daemon_serves_what_a_helper_mounted(lake: Path, tmp_path: Path) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("file", b"content")
    point = tmp_path / "mnt"
    point.mkdir()
    open_to_all(tmp_path)
    fuse = mounted_by_hand(point, "user_id=0,group_id=0,allow_other")
    options = ["--fd", str(fuse), "--foreground", "--watchdog", "0s"]
    try:
        daemon = subprocess.Popen(
            [*AS_NOBODY, *LAKEFEED, "mount", lake, point, *options],
            pass_fds=[fuse],
            stderr=subprocess.PIPE,
        )
        os.close(fuse)
        shown = subprocess.run(["cat", point / "file"], capture_output=True, check=False)
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        assert f"Uid:\t{NOBODY}" in status
        effective = int(status.partition("CapEff:")[2].split()[0], 16)
        assert effective == 1 << 2, "nothing but CAP_DAC_READ_SEARCH"
    finally:
        # Busy for as long as the daemon itself looks whether the mount answers.
        wait_until(lambda: subprocess.run(["umount", point], check=False).returncode == 0)
    _, said = daemon.communicate(timeout=PATIENCE_SECONDS)
    assert shown.stdout == b"content", said
    assert daemon.returncode == 0, said
    assert b"Traceback" not in said


@contextmanager
def letting_nobody_in(lake: Path, point: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Mount as a user who lets in nobody else; nothing is committed until somebody asks."""
    point.mkdir()
    open_to_all(point)
    for path in (lake, *lake.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    fuse = mounted_by_hand(point, f"user_id={NOBODY},group_id={NOBODY}", writable=True)
    words = ["mount", lake, point, "--fd", f"{fuse}", "--foreground", "--watchdog", "0s"]
    command = [*AS_NOBODY, *LAKEFEED, *words, "--rw", "--commit-age", "1h"]
    with subprocess.Popen(command, pass_fds=[fuse]) as daemon:
        os.close(fuse)
        try:
            yield daemon
        finally:
            daemon.kill()
            subprocess.run(["umount", "-i", "-l", "-q", point], check=False)


def written_by_nobody(point: Path) -> None:
    write = 'cd "$0" && for n in $(seq 2000); do echo $n > $n; done'
    subprocess.run([*AS_NOBODY, "sh", "-c", write, point], check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("lazy", [(), ("--lazy",)])
def test_root_ends_the_mount_of_a_user_who_lets_nobody_in_once_it_is_committed(
    lake: Path, tmp_path: Path, lazy: tuple[str, ...]
) -> None:
    point = tmp_path / "mnt"
    with letting_nobody_in(lake, point) as daemon:
        written_by_nobody(point)
        with pytest.raises(PermissionError):
            os.listdir(point)
        run("umount", point, *lazy)
        with Lake.open(lake) as opened:
            assert len(opened.snapshot().ls()) == 2000
        assert not is_mounted(point)
        assert daemon.wait(PATIENCE_SECONDS) == 0


def test_root_ends_a_mount_that_let_nobody_in_and_whose_daemon_died(
    lake: Path, tmp_path: Path
) -> None:
    point = tmp_path / "mnt"
    with letting_nobody_in(lake, point) as daemon:
        written_by_nobody(point)
        daemon.kill()
        daemon.wait(PATIENCE_SECONDS)
        run("umount", point)
        assert not is_mounted(point)


def test_the_watchdog_of_an_ordinary_user_takes_a_dead_mount_away(
    lake: Path, tmp_path: Path
) -> None:
    if shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3")
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("file", b"content")
    point, device = tmp_path / "mnt", tmp_path / "fuse"
    point.mkdir()
    os.chown(point, NOBODY, NOBODY)
    os.mknod(device, 0o666 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    open_to_all(tmp_path)
    command = [*AS_NOBODY, *LAKEFEED, "mount", lake, point, "--foreground"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", DIES, "sh", device, point, *command],
        check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_mount_helper_speaks_mount_8(lake: Path, tmp_path: Path) -> None:
    """As /sbin/mount.fuse.lakefeed it gets what mount(8) gives: source, directory, -o options."""
    point = tmp_path / "mnt"
    point.mkdir()
    helper = [sys.executable, "-c", "from lakefeed.cli.mount_helper import main; main()"]
    options = "rw,noexec,noauto,_netdev,nosuid,commit-age=1h,log-level=info,x-systemd.automount"
    try:
        done = subprocess.run(
            [*helper, lake, point, "-n", "-v", "-o", options, "-t", "fuse.lakefeed"],
            check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (point / "f").write_bytes(b"x")
        (point / "f").chmod(0o755)
        assert os.statvfs(point).f_flag & os.ST_NOEXEC
        with pytest.raises(PermissionError):
            subprocess.run([point / "f"], check=False)
    finally:
        run("umount", point)
    with Lake.open(lake) as opened:
        assert opened.snapshot().get("f") == b"x"
    wrong = subprocess.run(
        [*helper, lake, point, "-o", "at=v9"],
        check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert wrong.returncode == 3
    assert not is_mounted(point)


@pytest.mark.parametrize("flags", [[], ["-l", "-v"]])
def test_unmount_helper_returns_when_all_is_committed(
    lake: Path, tmp_path: Path, flags: list[str]
) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    run("mount", lake, point, "--rw", "--commit-age", "1h")
    for number in range(2000):
        (point / f"{number}").write_bytes(b"x" * 10_000)
    helper = [sys.executable, "-c", "from lakefeed.cli.mount_helper import unmount; unmount()"]
    done = subprocess.run(
        [*helper, point, *flags, "-t", "fuse.lakefeed"],
        check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Lake.open(lake) as opened:
        assert len(opened.snapshot().ls()) == 2000
    assert not is_mounted(point)


@pytest.mark.parametrize("name", ["main", "unmount"])
def test_a_helper_leaves_other_namespaces_and_the_mounts_of_its_own_alone(
    lake: Path, tmp_path: Path, name: str
) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    places = [lake, point]
    if name == "unmount":
        run("mount", *places)
        places = [point]
    helper = [sys.executable, "-c", f"from lakefeed.cli.mount_helper import {name}; {name}()"]
    done = subprocess.run(
        [*helper, *places, "-N", "/proc/self/ns/mnt"],
        check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    was_mounted = is_mounted(point)
    run("umount", point, check=False)
    assert was_mounted is (name == "unmount")
    assert done.returncode == 1
    assert "unknown option -N" in done.stderr


def test_unmount_helper_breaks_a_connection_when_asked_to() -> None:
    assert unmounting_of(["/data", "-f", "-l", "-n"]) == ["umount", "-i", "-f", "-l", "/data"]


@pytest.mark.parametrize("words", [["mount", "--rw", "--"], ["--", "mount", "--rw"]])
def test_a_daemon_takes_no_modules_from_the_directory_it_is_started_in(
    words: list[str], lake: Path, tmp_path: Path
) -> None:
    point, here = tmp_path / "mnt", tmp_path / "here"
    point.mkdir()
    here.mkdir()
    (here / "queue.py").write_text("raise SystemExit('a stranger was asked')")
    command = [sys.executable, Path(lakefeed.__file__).with_name("__main__.py")]
    done = subprocess.run(
        [*command, *words, lake, point],
        check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS, cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert is_mounted(point)
    run("umount", point)


def test_systemd_is_told_when_the_mount_answers(lake: Path, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(PATIENCE_SECONDS)
        daemon = subprocess.Popen(
            [*LAKEFEED, "mount", lake, point, "--foreground"],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert channel.recv(100) == b"READY=1"
            assert is_mounted(point)
        finally:
            daemon.terminate()
            assert daemon.wait(PATIENCE_SECONDS) == 0
    wait_until(lambda: not is_mounted(point))
    assert not is_running(daemon.pid)


def test_a_notify_socket_that_nobody_hears_ends_no_mount(lake: Path, tmp_path: Path) -> None:
    point, log = tmp_path / "mnt", tmp_path / "log"
    point.mkdir()
    silent = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody")}
    run("mount", lake, point, "--log", log, env=silent)
    assert is_mounted(point)
    run("umount", point)
    said = log.read_text()
    assert "NOTIFY_SOCKET" in said and "Traceback" not in said and "bug" not in said
