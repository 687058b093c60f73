"""Run several checks of the lake in one guest, each in a process of its own, and keep going.

A check is a module with `main(world, *args)`. The forks share one import of lakefeed, which takes
seconds in here, and leave this process single-threaded. A check that fails is reported in its
place, so that one boot tells everything.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

from relay import Relay
from tools import Child
from world import World

from lakefeed.lake.lake import Lake

CHECK_SECONDS_MAX = 150.0


def warm_up() -> None:
    """Let lakefeed and its libraries load what they load late, once and not in every fork."""
    with Lake.create("/run/warm-up") as lake:
        with lake.writer() as writer:
            writer.put("path", b"bytes")
        assert lake.snapshot().get("path") == b"bytes"
        lake.merge_index()


def main(world: World, names: list[str]) -> dict[str, Any]:
    relay = Relay.start()
    warm_up()
    modules = {name: importlib.import_module(name) for name in names}
    facts: dict[str, Any] = {}
    for name, module in modules.items():
        started = time.monotonic()
        extra = (relay,) if name.startswith("lost") else ()
        if extra:
            world.c1.remount(relay.port)
        value, failure = None, None
        try:
            value = Child.start(module.main, world, *extra).value(CHECK_SECONDS_MAX)
        except (RuntimeError, TimeoutError) as error:
            failure = str(error)
        seconds = round(time.monotonic() - started, 1)
        facts[name] = {"value": value, "failure": failure, "seconds": seconds}
        print(f"{name}: {seconds} s", flush=True)
    return facts
