"""What survives when the server loses power, with an honest disk and with one that drops writes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tools import outcome
from world import World


def write(path: Path, *, sync: bool) -> None:
    with open(path, "wb") as file:
        file.write(b"x" * 8192)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def survivors(root: Path) -> list[str]:
    """Return the names that hold what was written."""
    return sorted(
        path.name for path in root.iterdir() if path.is_file() and path.read_bytes() == b"x" * 8192
    )


def main(world: World) -> dict[str, Any]:
    disk = world.server.disk
    assert disk is not None
    root, server_side = world.c1.root, Path("/run/export")
    facts: dict[str, Any] = {}
    write(root / "synced by the client", sync=True)
    write(server_side / "not synced on the server", sync=False)
    world.server.power_cut()
    world.c1.remount()
    facts["power cut"] = survivors(root)

    disk.become("flakey")
    write(root / "synced on a lying disk", sync=True)
    world.server.power_cut()
    disk.become("linear")
    world.c1.remount()
    facts["lying disk"] = survivors(root)

    seconds = {}
    for name, target in (("plain", "linear"), ("slow", "delay 100")):
        disk.become(target)
        started = time.monotonic()
        write(root / name, sync=True)
        seconds[name] = time.monotonic() - started
    disk.become("linear")
    facts["seconds"] = seconds

    disk.become("error")
    facts["broken disk"] = outcome(write_many, root)
    return facts


def write_many(root: Path) -> None:
    for number in range(20):
        write(root / f"broken{number}", sync=True)
