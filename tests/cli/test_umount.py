"""umount: what it says of a daemon that it waits for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lakefeed.adapters.fuse import kernel
from lakefeed.cli import mount
from lakefeed.errors import EXIT_VOLUME
from tests.cli.conftest import Run


def test_a_daemon_that_does_not_end_is_told_by_who_unmounts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = kernel.Mounted(1, 1, str(tmp_path), kernel.FUSE_TYPE, "lake")
    monkeypatch.setattr(kernel, "mounted_at", lambda path: found)
    monkeypatch.setattr(kernel, "is_dead", lambda found: False)
    monkeypatch.setattr(kernel, "unmount", lambda path: None)
    monkeypatch.setattr(mount, "_commit", lambda path, place, user: os.getpid())
    monkeypatch.setattr(mount, "STOP_SECONDS", 0)
    done = run("umount", tmp_path)
    assert done.code == EXIT_VOLUME
    assert f"process {os.getpid()} at work" in done.err
