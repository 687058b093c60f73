"""What this process has open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def open_below(root: Path) -> list[str]:
    """Return the files and directories at or below `root` that are open, once for each time."""
    places = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile: by us, or by another thread
            places.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
    return sorted(str(place) for place in places if place.is_relative_to(root))
