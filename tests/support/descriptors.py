"""What this process has open."""

from __future__ import annotations

import os
from pathlib import Path


def open_below(root: Path) -> list[str]:
    """Return the files and directories at or below `root` that are open, once for each time."""
    links = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    places = [os.readlink(link) for link in links if link.is_symlink()]
    return sorted(place for place in places if place.startswith(str(root)))
