"""Facts about the two clients: that they are two, and that NFS behaves as it does in the field.

Nothing is judged here; test_rig.py says what each fact must be on each version.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools import Child, outcome, wait_until
from world import World

# The guest's clock stamps files in steps of 10 ms (HZ=100); this is safely past one step.
TICK_SECONDS = 0.03
SERVED = Path("/run/export")


def locks(a: Path, b: Path) -> list[str]:
    """Both clients ask for the same lock."""
    (a / "lock").touch()
    with open(a / "lock", "r+b") as first, open(b / "lock", "r+b") as second:
        return [
            outcome(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB) for file in (first, second)
        ]


def open_folder(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def hidden_name(a: Path, b: Path, *, same_tick: bool) -> dict[str, str]:
    """c2 misses a name, c1 makes it, c2 looks again.

    `same_tick`: the folder was changed so shortly before that its time stamp does not move.
    """
    folder = f"log-{same_tick}"
    facts, tries = {}, 0
    while True:
        (a / folder).mkdir()
        open_folder(b)
        open_folder(b / folder)
        facts["before"] = outcome(os.stat, b / folder / "1")
        if not same_tick:
            time.sleep(TICK_SECONDS)
        stamp = os.stat(a / folder).st_ctime_ns
        (a / folder / "1").touch()
        if not same_tick or os.stat(a / folder).st_ctime_ns == stamp or tries > 20:
            break
        tries, folder = tries + 1, f"{folder}+"
    facts["after"] = outcome(os.stat, b / folder / "1")
    facts["by open"] = outcome(os.open, b / folder / "1", os.O_RDONLY)
    open_folder(b / folder)
    facts["after opening the folder"] = outcome(os.stat, b / folder / "1")
    time.sleep(TICK_SECONDS)
    os.utime(a / folder)
    open_folder(b / folder)
    facts["after the folder's time moved"] = outcome(os.stat, b / folder / "1")
    return facts


def one_winner(a: Path, b: Path) -> dict[str, Any]:
    """Both clients link their own file to one name, and create another one exclusively."""
    (a / "mine").write_text("first")
    (b / "yours").write_text("second")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    crowd = [Child.start(outcome, os.open, root / "crowd", flags) for root in (a, b, a, b)]
    return {
        "links": [
            outcome(os.link, a / "mine", a / "name"),
            outcome(os.link, b / "yours", b / "name"),
        ],
        "winner": (b / "name").read_text(),
        "exclusive": [outcome(os.open, root / "excl", flags) for root in (a, b)],
        "crowd": sorted(child.value() for child in crowd),
    }


def renamed_over(a: Path, b: Path) -> dict[str, str]:
    """c1 renames a new file over one that c2 has read. Opening revalidates a file, not its name."""
    (a / "hint").write_text("old")
    facts = {"before": (b / "hint").read_text()}
    time.sleep(TICK_SECONDS)
    (a / "hint.new").write_text("new")
    os.rename(a / "hint.new", a / "hint")
    facts["next open"] = (b / "hint").read_text()
    open_folder(b)
    facts["after opening the folder"] = (b / "hint").read_text()
    return facts


def deleted_under_handle(a: Path, b: Path) -> dict[str, str]:
    """c2 holds a file open, with none of its end cached, that c1 deletes."""
    size = 1 << 20
    (a / "big").write_bytes(os.urandom(size))
    fd = os.open(b / "big", os.O_RDONLY)
    os.pread(fd, 4096, 0)
    os.unlink(a / "big")
    # The server's own cache of open files keeps a deleted one for some milliseconds.
    ends = range(size - 4096, 512 << 10, -(128 << 10))
    wait_until(lambda: any(outcome(os.pread, fd, 4096, end) != "ok" for end in ends), 2)
    return {
        "read": outcome(os.pread, fd, 4096, (512 << 10) - 4096),
        "open": outcome(os.open, b / "big", os.O_RDONLY),
    }


def being_made(world: World) -> dict[str, float]:
    """Return how old a file looks on the server while c1 makes it exclusively, over a late cable.

    In seconds, by either time: the first look at the file, which is before c1 hears of it.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    world.c1.shape(delay_ms=100.0)
    child = Child.start(outcome, os.open, world.c1.root / "excl.new", flags)
    assert wait_until((SERVED / "excl.new").exists, 10, step_seconds=0.001)
    info, now = os.stat(SERVED / "excl.new"), time.time()
    assert child.value() == "ok"
    world.c1.shape()
    return {"mtime": now - info.st_mtime, "ctime": now - info.st_ctime}


def refused(a: Path) -> dict[str, str]:
    """Calls that local file systems offer and NFS does not."""
    return {"tmpfile": outcome(os.open, a, os.O_TMPFILE | os.O_WRONLY)}


def delay(world: World, delay_ms: float) -> dict[str, float]:
    """Return the seconds that ten creations take c1, without and with a late cable."""
    seconds = {}
    for name, late_ms in (("plain", 0.0), ("late", delay_ms)):
        world.c1.shape(delay_ms=late_ms)
        started = time.monotonic()
        for number in range(10):
            (world.c1.root / f"{name}{number}").touch()
        seconds[name] = time.monotonic() - started
    world.c1.shape()
    return seconds


def main(world: World) -> dict[str, Any]:
    a, b = world.c1.root, world.c2.root
    facts: dict[str, Any] = {
        "options": [world.c1.options_in_force(), world.c2.options_in_force()],
        "seconds": {},
    }
    checks: dict[str, Callable[[], Any]] = {
        "locks": lambda: locks(a, b),
        "hidden name": lambda: hidden_name(a, b, same_tick=False),
        "hidden in one tick": lambda: hidden_name(a, b, same_tick=True),
        "one winner": lambda: one_winner(a, b),
        "renamed over": lambda: renamed_over(a, b),
        "deleted": lambda: deleted_under_handle(a, b),
        "refused": lambda: refused(a),
        "being made": lambda: being_made(world),
        "delay": lambda: delay(world, 20.0),
    }
    for name, check in checks.items():
        started = time.monotonic()
        facts[name] = check()
        facts["seconds"][name] = round(time.monotonic() - started, 2)
    return facts
