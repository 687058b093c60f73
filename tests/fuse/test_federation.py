"""A federation, mounted: each lake at its prefix, whatever the others do."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.adapters.fuse import kernel
from lakefeed.cli.mount_daemon import READY_FD
from lakefeed.errors import EXIT_NOT_FOUND
from tests.fuse.tools import LAKEFEED, is_mounted, is_running, needs_fuse, run, wait_until
from tests.lake.tools import contents, write
from tests.support.silent import silenced

pytestmark = needs_fuse


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """Two lakes under one roof, at "train" and, fixed at a tag, at "cameras/line1"."""
    for name in ("a", "b"):
        with Lake.create(tmp_path / name) as lake:
            write(lake, {"one": name.encode()})
    run("tag", tmp_path / "b", "v1")
    file = tmp_path / "all.json"
    run("federate", file, f"train={tmp_path / 'a'}", f"cameras/line1={tmp_path / 'b'}")
    run("federate", file, "--fix", "cameras/line1=v1")
    return file


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "mnt"
    where.mkdir()
    yield where
    run("umount", where, "--lazy", check=False)


def test_each_lake_is_at_its_prefix_and_one_umount_ends_all(federation: Path, place: Path) -> None:
    run("mount", federation, place, "--rw", "--commit-age", "0.01ms", "--noexec")
    assert os.statvfs(place / "train").f_flag & os.ST_NOEXEC
    assert (place / "train/one").read_bytes() == b"a"
    assert (place / "cameras/line1/one").read_bytes() == b"b"
    (place / "train/two").write_bytes(b"2")
    with pytest.raises(OSError) as fixed:
        (place / "cameras/line1/two").write_bytes(b"2")
    assert fixed.value.errno == errno.EROFS
    with pytest.raises(OSError) as between:
        os.rename(place / "train/two", place / "cameras/two")
    assert between.value.errno == errno.EXDEV
    (place.parent / "link").symlink_to(place)
    run("umount", place.parent / "link")
    assert not is_mounted(place / "train") and not is_mounted(place / "cameras/line1")
    with Lake.open(federation.parent / "a") as lake:
        assert contents(lake.snapshot()) == {"one": b"a", "two": b"2"}


def test_a_lake_that_is_gone_leaves_the_others_mounted_and_comes_when_it_is_back(
    federation: Path, place: Path
) -> None:
    lake, away = federation.parent / "b", federation.parent / "away"
    shutil.move(lake, away)
    done = run("mount", federation, place, check=False)
    assert done.returncode == EXIT_NOT_FOUND
    assert str(lake) in done.stderr and "1 of 2 lakes are mounted" in done.stderr
    assert (place / "train/one").read_bytes() == b"a"
    shutil.move(away, lake)
    done = run("mount", federation, place)
    assert "mounted already" in done.stderr
    assert (place / "cameras/line1/one").read_bytes() == b"b"


def test_in_the_foreground_a_signal_ends_all_and_commits_what_is_pending(
    federation: Path, place: Path
) -> None:
    words = ["mount", str(federation), str(place), "--rw", "--foreground", "--commit-age", "1h"]
    with subprocess.Popen([*LAKEFEED, *words]) as process:
        wait_until(lambda: is_mounted(place / "train") and is_mounted(place / "cameras/line1"))
        (place / "train/two").write_bytes(b"2")
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert not is_mounted(place / "train") and not is_mounted(place / "cameras/line1")
    with Lake.open(federation.parent / "a") as lake:
        assert contents(lake.snapshot())["two"] == b"2"


def served_by(where: Path) -> int:
    """Return a daemon's pid without a look at its mount, which the kernel would remember; or 0."""
    for home in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = (home / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(where) in words and READY_FD.encode() in (home / "environ").read_bytes():
                return int(home.name)
    return 0


def daemon_of(where: Path) -> int:
    """Return the pid of the daemon that is there. Not 0: a signal to that is one to all of us."""
    pid = served_by(where)
    assert pid, f"nobody serves {where}"
    return pid


def test_a_lake_whose_daemon_died_is_mounted_again_beside_the_others(
    federation: Path, place: Path
) -> None:
    run("mount", federation, place, "--watchdog", "0s")
    pid = daemon_of(place / "train")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    run("umount", place / "cameras/line1")
    run("mount", federation, place, "--watchdog", "0s")
    assert (place / "train/one").read_bytes() == b"a"
    assert (place / "cameras/line1/one").read_bytes() == b"b"


@pytest.mark.parametrize("what", ["a file in the way", "a log that cannot be"])
def test_what_keeps_a_daemon_from_starting_is_told_and_the_others_are_mounted(
    what: str, federation: Path, place: Path
) -> None:
    words = ["mount", str(federation), str(place), "--foreground"]
    if what == "a file in the way":
        (place / "cameras").mkdir()
        (place / "cameras/line1").write_bytes(b"")
    else:
        words += ["--log", "/nowhere/log"]
    with subprocess.Popen([*LAKEFEED, *words], stderr=subprocess.PIPE, text=True) as process:
        if what == "a file in the way":
            wait_until(lambda: is_mounted(place / "train"))
            process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
        assert process.returncode
    assert "cameras/line1" in said and "Traceback" not in said
    assert not is_mounted(place / "train")


@pytest.mark.parametrize("what", ["a lake", "a federation"])
def test_ctrl_c_while_a_lake_does_not_answer_leaves_nobody_who_mounts_later(
    what: str, federation: Path, place: Path, tmp_path: Path
) -> None:
    silent = federation.parent / "b" / "lake.json"
    environment = {**os.environ, **silenced(tmp_path / "silent", silent)}
    lake, at = (silent.parent, place) if what == "a lake" else (federation, place / "cameras/line1")
    with subprocess.Popen(
        [*LAKEFEED, "mount", lake, place], stderr=subprocess.DEVNULL, env=environment
    ) as process:
        wait_until(lambda: served_by(at))
        wait_until(lambda: what == "a lake" or is_mounted(place / "train"))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    wait_until(lambda: not served_by(at) and not served_by(place / "train"))
    assert not is_mounted(place / "train")


def test_umount_ends_the_others_while_one_does_not_answer(federation: Path, place: Path) -> None:
    run("mount", federation, place)
    # The newest, which is the first that umount looks at.
    sick, well = (Path(mount.path) for mount in kernel.lakes_below(str(place)))
    pid = daemon_of(sick)
    os.kill(pid, signal.SIGSTOP)
    with subprocess.Popen([*LAKEFEED, "umount", place]) as process:
        try:
            wait_until(lambda: not is_mounted(well))
            assert is_mounted(sick)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert process.wait() == 0
    assert not is_mounted(sick)


def test_umount_ends_lakes_below_a_mount_of_another_kind_and_never_all_of_the_machine(
    federation: Path, place: Path
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        run("mount", federation, place)
        assert run("umount", "/", check=False).returncode == 2
        assert is_mounted(place / "train")
        run("umount", place)
        assert not is_mounted(place / "train") and not is_mounted(place / "cameras/line1")
        assert is_mounted(place)
        assert run("umount", place, check=False).returncode == 2
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_mount_whose_starter_has_gone_goes_on(federation: Path, place: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    words = [*LAKEFEED, "mount", str(federation.parent / "a"), str(place), "--foreground"]
    told = {**os.environ, "LAKEFEED_READY_FD": str(write_end)}
    with subprocess.Popen(words, env=told, pass_fds=[write_end]) as process:
        os.close(write_end)
        wait_until(lambda: is_mounted(place) or process.poll() is not None)
        assert (place / "one").read_bytes() == b"a"
        run("umount", place)
        assert process.wait() == 0


@pytest.mark.parametrize("option", ["--listen=:0", "--fd=9", "--at=7"])
def test_what_means_one_lake_is_refused(federation: Path, place: Path, option: str) -> None:
    done = run("mount", federation, place, option, check=False)
    assert done.returncode == 2
    assert not is_mounted(place / "train")
