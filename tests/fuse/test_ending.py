"""What a mount still takes over when it is told to end."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import EXIT_VOLUME
from tests.fuse.tools import (
    LAKEFEED,
    is_mounted,
    is_running,
    mounted,
    needs_fuse,
    run,
    wait_until,
)
from tests.support.patience import PATIENCE_SECONDS

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize(("files", "size_bytes"), [(1, 6), (100, 1 << 20)])
def test_sigterm_commits_what_was_written_into_mapped_files(
    lake: Path, tmp_path: Path, files: int, size_bytes: int
) -> None:
    """More than the kernel has under way at a time, too."""
    names = [f"f{number}" for number in range(files)]
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here, ExitStack() as held:
        for name in names:
            (here.path / name).write_bytes(bytes(size_bytes))
            file = held.enter_context((here.path / name).open("r+b"))
            mapped = held.enter_context(mmap.mmap(file.fileno(), size_bytes))
            mapped[:] = b"m" * size_bytes
        pid = here.pid
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid))
    with Lake.open(lake) as opened:
        snapshot = opened.snapshot()
        assert all(snapshot.get(name) == b"m" * size_bytes for name in names)


def test_a_mount_that_somebody_else_unmounts_is_committed(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here:
        (here.path / "f").write_bytes(b"x")
        pid = here.pid
        subprocess.run(["umount", "-i", here.path], check=True)
        wait_until(lambda: not is_running(pid))
    with Lake.open(lake) as opened:
        assert opened.snapshot().get("f") == b"x"


def test_what_cannot_be_committed_keeps_the_mount_and_is_told_at_the_end(
    lake: Path, tmp_path: Path
) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    command = [*LAKEFEED, "mount", lake, point, "--rw", "--commit-age", "1h", "--foreground"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        wait_until(lambda: is_mounted(point) or daemon.poll() is not None)
        (point / "f").write_bytes(b"x")
        lake.rename(tmp_path / "away")
        refused = run("umount", point, check=False)
        assert refused.returncode == EXIT_VOLUME and str(point) in refused.stderr
        assert is_mounted(point) and (point / "f").read_bytes() == b"x"
        daemon.terminate()
        _, said = daemon.communicate(timeout=PATIENCE_SECONDS)
    assert "not committed: 1 changes" in said and "Traceback" not in said
    assert daemon.returncode and not is_mounted(point)
