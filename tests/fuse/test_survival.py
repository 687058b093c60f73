"""What a mount survives: kill -9 under load, hanging, a lake rewritten under it, a busy unmount."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.errors import EXIT_CONFLICT
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.repacking import CopyOptions
from tests.fuse.tools import (
    LAKEFEED,
    Mounted,
    fsck,
    is_mounted,
    is_running,
    mounted,
    needs_fuse,
    run,
    wait_until,
)
from tests.fuse.writers import content
from tests.support.patience import PATIENCE_SECONDS
from tests.survival.mounts import quota, skip_for, why_no_quota

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]


def start_writers(here: Mounted, tmp_path: Path, count: int) -> list[subprocess.Popen[bytes]]:
    started = []
    for number in range(count):
        with open(tmp_path / f"acknowledged{number}", "wb") as told:
            command = [sys.executable, "-m", "tests.fuse.writers", here.path, number * 1_000_000]
            started.append(
                subprocess.Popen(list(map(str, command)), stdout=told, stderr=subprocess.DEVNULL)
            )
    return started


def acknowledged(tmp_path: Path) -> list[int]:
    lines = [p.read_text().splitlines() for p in tmp_path.glob("acknowledged*")]
    return [int(line) for each in lines for line in each if line]


@pytest.mark.parametrize("after", [5, 40])
def test_kill_9_under_load_loses_no_fsynced_file_and_leaves_no_stuck_process(
    lake: Path, tmp_path: Path, after: int
) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw") as here:
        writers = start_writers(here, tmp_path, 3)
        wait_until(lambda: len(acknowledged(tmp_path)) >= after)
        os.kill(here.pid, signal.SIGKILL)
        for writer in writers:
            assert writer.wait(timeout=PATIENCE_SECONDS) != 0
        with mounted(lake, tmp_path / "mnt", "--rw") as again:
            for number in acknowledged(tmp_path):
                assert (again.path / f"{number % 7}/{number}").read_bytes() == content(number)
            (again.path / "works").write_bytes(b"again")
    fsck(lake)


def test_the_path_is_free_again_after_the_daemon_died(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt") as here:
        os.kill(here.pid, signal.SIGKILL)
        wait_until(lambda: not is_mounted(here.path))
        assert os.listdir(here.path) == []


def test_a_mount_through_links_is_watched_and_unmounted_through_them(
    lake: Path, tmp_path: Path
) -> None:
    point, link = tmp_path / "point", tmp_path / "link"
    point.mkdir()
    (tmp_path / "further").symlink_to(point)
    link.symlink_to("../" + tmp_path.name + "/further")
    with mounted(lake, link) as here:
        assert is_mounted(point)
        os.kill(here.pid, signal.SIGKILL)
        wait_until(lambda: not is_mounted(point))
    with mounted(lake, link, "--rw") as here:
        assert run("mount", lake, link, check=False).returncode == EXIT_CONFLICT
        (here.path / "f").write_bytes(b"x")
        run("umount", link)
        assert not is_mounted(point)
    with Lake.open(lake) as opened:
        assert opened.snapshot().get("f") == b"x"


def test_what_a_dead_daemon_left_is_removed_at_the_next_start(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt", "--watchdog", "0s") as here:
        pid = here.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid))
        with pytest.raises(OSError) as gone:
            os.statvfs(here.path)
        assert gone.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        assert is_mounted(here.path)
        with mounted(lake, tmp_path / "mnt") as again:
            assert os.listdir(again.path) == []


def test_the_watchdog_frees_those_who_wait_for_a_daemon_that_hangs(
    lake: Path, tmp_path: Path
) -> None:
    # A busy machine may keep a daemon that is well from its heartbeat for some seconds.
    with mounted(lake, tmp_path / "mnt", "--rw", "--watchdog", "8s") as here:
        pid = here.pid
        os.kill(pid, signal.SIGSTOP)
        failed: list[OSError] = []

        def wait() -> None:
            try:
                (here.path / "file").write_bytes(b"x")
            except OSError as error:
                failed.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(PATIENCE_SECONDS)
        assert not waiting.is_alive()
        assert failed
        wait_until(lambda: not is_mounted(here.path))
        wait_until(lambda: not is_running(pid))
        assert "has not answered" in here.log.read_text()


def test_sigterm_commits_what_is_pending_and_unmounts(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here:
        for number in range(200):
            (here.path / f"f{number}").write_bytes(b"%d" % number)
        pid = here.pid
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid))
        assert not is_mounted(here.path)
    with Lake.open(lake) as opened:
        assert [opened.snapshot().get(f"f{n}") for n in range(200)] == [
            b"%d" % n for n in range(200)
        ]


def test_the_log_tells_the_life_of_a_mount(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here:
        (here.path / "f").write_bytes(b"1")
        here.sync()
        run("umount", here.path)
        told = [line.partition(": ")[2] for line in here.log.read_text().splitlines()]
        assert told[0] == f"{lake} is mounted at {here.path}, writable"
        assert told[1:] == ["shows snapshot 1", f"{here.path} is no longer mounted"]


def test_a_busy_mount_is_not_unmounted_unless_lazily(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw") as here:
        (here.path / "f").write_bytes(b"held")
        pid = here.pid
        with open(here.path / "f", "rb", buffering=0) as held:
            busy = run("umount", here.path, check=False)
            assert busy.returncode == 6
            assert "busy" in busy.stderr
            assert "--lazy" in busy.stderr
            run("umount", "--lazy", here.path)
            assert not is_mounted(here.path)
            assert held.read() == b"held"
        wait_until(lambda: not is_running(pid))


def test_umount_lazy_frees_the_path_though_a_commit_fails_or_does_not_end(
    lake: Path, tmp_path: Path
) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here:
        (here.path / "f").write_bytes(b"x")
        packs = lake / "packs"
        shutil.move(packs, tmp_path / "away")
        packs.write_bytes(b"")
        pid = here.pid
        with open(here.path / "f", "rb"):
            failed = run("umount", "--lazy", here.path, check=False)
            assert failed.returncode == 6 and str(here.path) in failed.stderr
            assert not is_mounted(here.path)
            packs.unlink()
            shutil.move(tmp_path / "away", packs)
        wait_until(lambda: not is_running(pid))
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here:
        (here.path / "g").write_bytes(b"x")
        pid = here.pid
        os.kill(pid, signal.SIGSTOP)
        with subprocess.Popen([*LAKEFEED, "umount", "--lazy", here.path]) as process:
            try:
                wait_until(lambda: not is_mounted(here.path))
            finally:
                os.kill(pid, signal.SIGCONT)
            assert process.wait() == 0
        with Lake.open(lake) as opened:
            assert [row.path for row in opened.snapshot().ls()] == ["f", "g"]
        wait_until(lambda: not is_running(pid))


def test_a_daemon_that_was_detached_leaves_what_is_mounted_there_since(
    lake: Path, tmp_path: Path
) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw") as here:
        (here.path / "f").write_bytes(b"held")
        pid = here.pid
        with open(here.path / "f", "rb"):
            run("umount", "--lazy", here.path)
            with mounted(lake, here.path):
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda: not is_running(pid))
                assert (here.path / "f").read_bytes() == b"held"


def test_a_lake_compacted_and_collected_under_the_mount_goes_on_reading(
    lake: Path, tmp_path: Path
) -> None:
    expected = {f"d{n % 10}/{n:04d}": b"%d" % n * 500 for n in range(1000)}
    with Lake.open(lake) as opened:
        for start in range(0, 1000, 50):
            with opened.writer(WriterOptions(merge_after=0)) as writer:
                for path in sorted(expected)[start : start + 50]:
                    writer.put(path, expected[path])
        with (
            mounted(lake, tmp_path / "live", "--refresh", "200ms") as live,
            mounted(lake, tmp_path / "rw", "--rw") as writable,
            mounted(lake, tmp_path / "still", "--at", str(opened.snapshot().number)) as still,
        ):
            held = [os.open(live.path / path, os.O_RDONLY) for path in sorted(expected)[:20]]
            half = sorted(expected)[::2]
            for path in half[:100]:
                assert (live.path / path).read_bytes() == expected[path]
            for number in range(3):
                (writable.path / f"new{number}").write_bytes(b"new")
                writable.sync()
                opened.merge_index(everything=True)
                how = CopyOptions("path", 0, None)
                compact(opened, CompactionOptions(target_bytes=1 << 30), how)
                collect(opened, Retention(0.0, 0.0))
                for here in (live, still, writable):
                    for path in sorted(expected)[number::7]:
                        assert (here.path / path).read_bytes() == expected[path], here.path
                    assert len(os.listdir(here.path / f"d{number}")) == 100
            for handle, path in zip(held, sorted(expected)[:20], strict=True):
                assert os.read(handle, 1 << 20) == expected[path]
                os.close(handle)
    fsck(lake)


def test_a_lake_that_went_away_is_an_error_never_a_missing_file(lake: Path, tmp_path: Path) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("a/b", b"1")
        writer.flush()
        opened.tag("v1")
    with mounted(lake, tmp_path / "mnt", "--rw") as here:
        lake.rename(tmp_path / "elsewhere")
        (here.path / "new").write_bytes(b"2")
        tag = here.path / ".snapshots" / "v1"
        for ask in (os.stat, os.listdir, lambda _: here.sync(), lambda _: os.stat(tag)):
            with pytest.raises(OSError) as caught:
                ask(here.path / "a")
            assert caught.value.errno == errno.EIO
        (tmp_path / "elsewhere").rename(lake)
        here.sync()
        assert [each.read_bytes() for each in (here.path / "a/b", here.path / "new")] == [
            b"1",
            b"2",
        ]


@pytest.mark.parametrize("option", ["--rw", "--refresh=1h"])
def test_a_mount_whose_lake_went_away_can_be_unmounted(
    lake: Path, tmp_path: Path, option: str
) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("a", b"1")
    with mounted(lake, tmp_path / "mnt", option) as here:
        lake.rename(tmp_path / "elsewhere")
        run("umount", here.path)
        assert not is_mounted(here.path)


def test_a_full_volume_is_enospc_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", small], check=True)
    try:
        lake = small / "lake"
        Lake.create(lake).close()
        with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here:
            written = []
            with pytest.raises(OSError) as full:
                for number in range(40):
                    with open(here.path / f"f{number}", "wb", buffering=0) as file:
                        file.write(os.urandom(1 << 20))
                        os.fsync(file.fileno())
                    written.append(number)
            assert full.value.errno == errno.ENOSPC
            assert written
            # Still readable here: a commit that failed drops nothing, and can be made up for.
            assert (here.path / f"f{len(written)}").stat().st_size == 1 << 20
            os.unlink(here.path / f"f{len(written)}")
            (here.path / "tiny").write_bytes(b"x")
            here.sync()
        with Lake.open(lake) as opened:
            assert {f"f{n}" for n in written} <= {row.path for row in opened.snapshot().ls()}
            assert opened.snapshot().get("tiny") == b"x"
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_quota_reaches_whoever_waits_for_the_commit(tmp_path: Path) -> None:
    skip_for(why_no_quota(tmp_path))
    with quota(tmp_path / "disk") as limited:
        lake = limited.path / "lake"
        Lake.create(lake).close()
        options = ("--rw", "--sync", "close", "--commit-age", "1h", "--spool", tmp_path)
        with mounted(lake, tmp_path / "mnt", *options) as here:
            (here.path / "kept").write_bytes(b"kept")
            limited.limit(4 << 20)
            handle = os.open(here.path / "big", os.O_CREAT | os.O_WRONLY)
            os.pwrite(handle, os.urandom(1 << 20), 7 << 20)
            with pytest.raises(OSError) as synced:
                os.fsync(handle)
            with pytest.raises(OSError) as closed:
                os.close(handle)
            assert (synced.value.errno, closed.value.errno) == (errno.EDQUOT, errno.EDQUOT)
            with Lake.open(lake) as opened:
                assert [row.path for row in opened.snapshot().ls()] == ["kept"]
            # Nothing is lost meanwhile, and with room again it can be made up for.
            limited.limit(None)
            here.sync()
        with Lake.open(lake) as opened:
            assert opened.snapshot().stat("big").size == 8 << 20
            assert opened.snapshot().get("kept") == b"kept"
        fsck(lake)


def test_a_full_spool_is_enospc_at_once(lake: Path, tmp_path: Path) -> None:
    options = ("--rw", "--commit-age", "1h", "--spool", tmp_path, "--spool-size", "8MiB")
    with mounted(lake, tmp_path / "mnt", *options) as here:
        with pytest.raises(OSError) as full, open(here.path / "big", "wb", buffering=0) as file:
            for _ in range(16):
                file.write(bytes(1 << 20))
        assert full.value.errno == errno.ENOSPC
        os.unlink(here.path / "big")
        (here.path / "small").write_bytes(b"fits")


def test_a_spool_that_cannot_be_is_told_before_anything_is_mounted(
    lake: Path, tmp_path: Path
) -> None:
    point, spool = tmp_path / "mnt", tmp_path / "none"
    point.mkdir()
    done = run("mount", lake, point, "--rw", "--spool", spool, check=False)
    assert done.returncode == 2
    assert f"--spool {spool}" in done.stderr
    assert not is_mounted(point)


def test_with_sync_close_a_closed_file_is_committed(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--sync", "close", "--commit-age", "1h") as here:
        (here.path / "f").write_bytes(b"x")
        with Lake.open(lake) as opened:
            assert opened.snapshot().get("f") == b"x"


def test_a_bigger_file_than_memory_is_spooled_and_streamed(lake: Path, tmp_path: Path) -> None:
    block = os.urandom(1 << 20)
    with mounted(lake, tmp_path / "mnt", "--rw") as here:
        with open(here.path / "big", "wb", buffering=0) as file:
            for number in range(64):
                file.write(bytes([number]) + block[1:])
            os.fsync(file.fileno())
            file.seek(10 << 20)
            file.write(b"changed")
        here.sync()
        with open(here.path / "big", "rb") as file:
            file.seek(10 << 20)
            assert file.read(9) == b"changed" + block[7:9]
    with Lake.open(lake) as opened:
        data = opened.snapshot().get("big")
        assert len(data) == 64 << 20
        assert data[10 << 20 : (10 << 20) + 7] == b"changed"
        assert data[63 << 20] == 63
