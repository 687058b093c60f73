"""What a mount still takes over when it is told to end."""

from __future__ import annotations

import mmap
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.fuse.tools import is_running, mounted, needs_fuse, wait_until

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
