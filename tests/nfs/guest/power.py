"""Writers on both clients go on working while the server loses power, twice.

The mounts are hard, so the writers hang while the server is away and go on afterwards. Whatever
`wait()` acknowledged must be readable in the end, by clients that remember nothing.
"""

from __future__ import annotations

from typing import Any

from crowd import ACKS, STOP, Job, acknowledged, everything, write
from tools import Child, wait_until
from world import World

from lakefeed.lake.lake import Lake

CUTS = 2
PATHS_BETWEEN = 25


def main(world: World) -> dict[str, Any]:
    ACKS.mkdir()
    Lake.create(world.c1.root / "lake").close()
    clients = (world.c1, world.c2)
    writers = [
        Child.start(write, Job(client.root, f"{client.name}-{number}"))
        for client in clients
        for number in range(2)
    ]
    at_cut = [0]
    for _ in range(CUTS):
        wanted = at_cut[-1] + PATHS_BETWEEN
        assert wait_until(lambda wanted=wanted: len(acknowledged()) >= wanted, 60)
        at_cut.append(len(acknowledged()))
        world.server.power_cut()
    assert wait_until(lambda: len(acknowledged()) >= at_cut[-1] + PATHS_BETWEEN, 60)
    STOP.touch()
    groups = [child.value() for child in writers]
    for client in clients:
        client.remount()
    return {
        "acknowledged at the cuts": at_cut[1:],
        "groups": groups,
        "c1": Child.start(everything, world.c1.root).value(),
        "c2": Child.start(everything, world.c2.root).value(),
    }
