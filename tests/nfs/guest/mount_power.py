"""Programs on writable mounts, whose lake lies on NFS, while server and client lose their power.

A client mounts a lake twice, once with `--sync close`. Programs do what is promised to be durable
there, and note it on a disk of the guest's own. Then, one after the other:

1. the server loses power and comes back; the mounts wait for it and go on;
2. the client does: its cable is cut, so that nothing of what its kernel still has gets out, and
   soon its processes are gone; with the server once more.

What the other client finds then is compared with the notes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools import Child, wait_until
from world import World, load

import lakefeed
from lakefeed.lake.lake import Lake
from tests.survival.lakes import audit, files_of
from tests.survival.syncing import Syncing, broken, durable

NOTES = Path("/run/notes")
# What makes a file durable on a mount, as a program there takes it, and its options.
MODES: dict[str, tuple[str, ...]] = {"fsync": (), "close": ("--sync", "close")}
STEPS_BETWEEN = 30
# One CPU for all, and a server that first waits for its clients.
PATIENCE_SECONDS = 90.0


def main(world: World, seed: int) -> dict[str, Any]:
    numbers = random.Random(seed)
    load("fuse")
    NOTES.mkdir()
    Child.start(create, world.c1.root / "lake").value()
    points = {mode: mount(world.c1.root / "lake", mode) for mode in MODES}
    journals = [NOTES / f"{mode}.journal" for mode in MODES]
    programs = [Child.start(work, point, mode, seed) for mode, point in points.items()]
    at_cuts = []
    for cut in (world.server.power_cut, lambda: world.c1.shape(loss_percent=100)):
        await_steps(journals, sum(at_cuts[-1:]) + numbers.randint(1, STEPS_BETWEEN))
        time.sleep(numbers.uniform(0, 0.1))
        at_cuts.append(steps(journals))
        cut()
    # Whatever is called durable from here on never left the client.
    time.sleep(numbers.uniform(0, 2.0))
    for point in points.values():
        os.kill(int(os.getxattr(point, "user.lakefeed.pid")), signal.SIGKILL)
    for program in programs:
        program.kill()
    world.server.power_cut()
    world.c2.remount()
    found = Child.start(look, world.c2.root / "lake", journals).value(PATIENCE_SECONDS)
    return {"at the cuts": at_cuts, "in the end": steps(journals), **found}


def create(lake: Path) -> None:
    """Make the lake; in a process of its own, as this one forks."""
    Lake.create(lake).close()


def mount(lake: Path, mode: str) -> Path:
    """Start the daemon that a user would, and return where it mounted the lake."""
    point = Path("/run", f"mnt-{mode}")
    point.mkdir()
    words = ["mount", str(lake), str(point), "--rw", "--log", f"{point}.log", *MODES[mode]]
    home = str(Path(lakefeed.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "lakefeed", *words],
        env={**os.environ, "PYTHONPATH": home}, capture_output=True, text=True, check=False,
        timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return point


def work(point: Path, mode: str, seed: int) -> None:
    """Be the program that works on a mount."""
    Syncing(point / mode, NOTES / f"{mode}.journal", mode, seed).run_forever()


def steps(journals: list[Path]) -> int:
    """Return how many steps all programs together were told are durable."""
    return sum(map(durable, journals))


def await_steps(journals: list[Path], wanted: int) -> None:
    """Return once so many steps are durable."""
    if not wait_until(lambda: steps(journals) >= wanted, PATIENCE_SECONDS):
        said = [log.read_text()[-2000:] for log in Path("/run").glob("mnt-*.log")]
        raise AssertionError(f"{steps(journals)} of {wanted} steps; {said}")


def look(lake: Path, journals: list[Path]) -> dict[str, Any]:
    """Compare what is there with the notes, and look whether all of it hangs together."""
    with Lake.open(lake) as opened:
        files = files_of(opened.snapshot())
    audit(lake)
    return {
        "files": len(files),
        "broken": [one for each in journals for one in broken(each, files)],
    }
