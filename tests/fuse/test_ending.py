"""What a mount still takes over when it is told to end."""

from __future__ import annotations

import mmap
import os
import signal
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.fuse.tools import is_running, mounted, needs_fuse, wait_until

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]


def test_sigterm_commits_what_was_written_into_a_mapped_file(lake: Path, tmp_path: Path) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--commit-age", "1h") as here:
        (here.path / "f").write_bytes(b"before")
        with (here.path / "f").open("r+b") as file, mmap.mmap(file.fileno(), 6) as mapped:
            mapped[:] = b"mapped"
            pid = here.pid
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not is_running(pid))
    with Lake.open(lake) as opened:
        assert opened.snapshot().get("f") == b"mapped"
