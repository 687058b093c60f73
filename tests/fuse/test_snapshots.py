"""Older snapshots in a mount that can be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.fuse.tools import Mounted, needs_fuse

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]


def changes(top: Path, old: Path) -> dict[str, Callable[[], object]]:
    """Return all that could change a snapshot, or the directory that shows them."""
    file, timeline = old / "d/f", old.parent
    return {
        "create": lambda: os.mknod(old / "new"),
        "open": lambda: file.open("r+b"),
        "truncate": lambda: os.truncate(file, 0),
        "mkdir": lambda: (old / "new").mkdir(),
        "symlink": lambda: (old / "new").symlink_to("d"),
        "unlink": lambda: file.unlink(),
        "rmdir": lambda: (old / "empty").rmdir(),
        "rename": lambda: file.rename(old / "new"),
        "rename into": lambda: (top / "d/f").rename(old / "new"),
        "rename out of": lambda: file.rename(top / "new"),
        "rename of a directory": lambda: (old / "d").rename(top / "new"),
        "chmod": lambda: file.chmod(0o600),
        "chmod of a snapshot": lambda: old.chmod(0o700),
        "utime": lambda: os.utime(file, (0, 0)),
        "setxattr": lambda: os.setxattr(file, "user.a", b"b"),
        "removexattr": lambda: os.removexattr(file, "user.kept"),
        "mkdir of a tag": lambda: (timeline / "new").mkdir(),
        "rmdir of a snapshot": lambda: old.rmdir(),
        "rename of a snapshot": lambda: old.rename(top / "new"),
        "rmdir of all": lambda: timeline.rmdir(),
        "rename of all": lambda: timeline.rename(top / "new"),
        "rename over all": lambda: (top / "empty").rename(timeline),
        "chmod of all": lambda: timeline.chmod(0o700),
    }


def test_nothing_changes_a_snapshot(rw: Mounted) -> None:
    (rw.path / "d").mkdir()
    (rw.path / "empty").mkdir()
    (rw.path / "d/f").write_bytes(b"as it was")
    os.setxattr(rw.path / "d/f", "user.kept", b"kept")
    rw.sync()
    number = os.getxattr(rw.path, "user.lakefeed.snapshot").decode()
    old = rw.path / ".snapshots" / number
    assert (old / "d/f").read_bytes() == b"as it was"
    refused = {}
    for name, change in changes(rw.path, old).items():
        try:
            refused[name] = change()
        except OSError as error:
            refused[name] = error.errno
    assert refused == dict.fromkeys(refused, errno.EROFS)
    rw.sync()
    with Lake.open(rw.lake) as lake:
        assert lake.snapshot().number == int(number)
