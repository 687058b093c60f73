"""What a reader of a figure must know of the place it was measured at."""

from __future__ import annotations

import os
import platform
import socket
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from lakefeed import __version__
from lakefeed.bench.mounts import mount_of
from lakefeed.errors import Invalid

_LIBRARIES = ("numpy", "pyarrow", "tensorflow-cpu", "tensorflow", "keras", "torch")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def describe(where: str | None = None) -> dict[str, Any]:
    """Return machine, versions, and how the directory is mounted."""
    facts: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "lakefeed": __version__,
        "versions": _versions(),
    }
    if where is not None:
        facts["where"] = os.path.abspath(where)
        mount = mount_of(where)
        if mount is not None:
            facts["mount"] = {
                "point": mount.point,
                "type": mount.kind,
                "source": mount.source,
                "options": mount.option_text,
            }
    return facts


def memory_bytes() -> int:
    """Return this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_cold() -> None:
    """Raise what `drop_caches` would raise; ask before anything is copied or measured."""
    _tell_kernel("")


def drop_caches() -> None:
    """Empty the page cache, so that the run is cold; Invalid where we may not."""
    os.sync()
    _tell_kernel("3")


def _tell_kernel(text: str) -> None:
    if sys.platform != "linux":
        raise Invalid("cold run", expected="Linux", found=sys.platform)
    try:
        DROP_CACHES.write_text(text, encoding="ascii")
    except OSError as error:
        raise Invalid(
            "cold run",
            expected=f"permission to write {DROP_CACHES}",
            found=os.strerror(error.errno or 0).lower(),
            hint="run as root, or leave --cold out: the run then counts as warm",
        ) from error
