"""Who may do what in a mount, and how the kernel was told to mount it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.adapters.fuse import kernel
from tests.fuse.tools import NOBODY, mounted, needs_fuse, open_to_all

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]


def may(place: Path, words: str) -> bool:
    """Tell whether another user, who has no right at all, may run a command in a directory."""
    user = ["setpriv", "--reuid", f"{NOBODY}", "--regid", f"{NOBODY}", "--clear-groups"]
    done = subprocess.run([*user, "sh", "-c", f'cd "$0" && {words}', place],
                          capture_output=True, check=False)  # fmt: skip
    return done.returncode == 0


def test_others_are_let_in_as_the_modes_allow_or_not_at_all(lake: Path, tmp_path: Path) -> None:
    with Lake.open(lake) as opened, opened.writer() as writer:
        for name, mode in ("shown", 0o644), ("hidden", 0o600), ("shared", 0o666):
            writer.put(name, b"x", mode=mode)
    open_to_all(tmp_path)
    with mounted(lake, tmp_path / "mnt", "--rw", "--allow-other", "--owner", "12:34") as here:
        assert may(here.path, "cat shown") and not may(here.path, "cat hidden")
        assert may(here.path, "echo y > shared") and not may(here.path, "echo y > shown")
        assert not may(here.path, "touch new") and not may(here.path, "rm shared")
        info = os.stat(here.path / "shown")
        assert (info.st_uid, info.st_gid) == (12, 34)
        flags = os.statvfs(here.path).f_flag
        assert flags & os.ST_NOSUID and flags & os.ST_NODEV and not flags & os.ST_NOEXEC
        found = kernel.mounted_at(str(here.path))
        assert found is not None
        ahead = Path(f"/sys/class/bdi/0:{found.minor}/read_ahead_kb").read_text()
        assert int(ahead) == kernel.READ_AHEAD_KIB
    with mounted(lake, tmp_path / "mnt") as here:
        assert (here.path / "shown").read_bytes() == b"x"
        assert not may(here.path, "cat shown")
