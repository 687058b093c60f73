"""A feed on a real NFS client: right bytes, and what is announced is fetched at once, and once.

c1 writes the lake; c2, which has none of it in memory, reads it: first a hint alone, behind which
the client must ask the server although nobody reads; then, mounted afresh, a whole epoch.
"""

from __future__ import annotations

from typing import Any

from content import content
from tools import wait_until
from world import Client, World

from lakefeed.bench import mountstats
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake

PATHS = [f"train/{number:04d}" for number in range(600)]
BATCH = 20


def fetched(client: Client) -> mountstats.Operation:
    """What this client has read from the server so far."""
    mount = mountstats.read(str(client.root))
    assert mount is not None
    return mount.operations["READ"]


def main(world: World) -> dict[str, Any]:
    near, far = world.c1.root / "fed", world.c2.root / "fed"
    facts: dict[str, Any] = {}
    with Lake.create(near) as lake, lake.writer() as writer:
        for path in PATHS:
            writer.put(path, content(path))
    with Lake.open(far) as lake:
        # A slow machine commits now and then while it writes, each time with a pack of its own.
        places = [layout.pack_path(pack) for pack in lake.snapshot().state.packs]
        sizes = {place: lake.volume.stat(place).size for place in places}
        with lake.volume.open(max(sizes, key=lambda place: sizes[place])) as file:
            before = fetched(world.c2).calls
            facts["takes hints"] = file.will_need([(256 << 10, 64 << 10), (1 << 20, 64 << 10)])
            facts["fetches unread"] = wait_until(lambda: fetched(world.c2).calls > before, 20)
        facts["pack bytes"] = sum(sizes.values())
    world.c2.remount()
    with Lake.open(far) as lake, Feed(lake, "train", FeedOptions(BATCH)) as feed:
        before = fetched(world.c2).received_bytes
        served = {p: d for batch in feed for p, d in zip(batch.paths, batch.bytes(), strict=True)}
        facts["received bytes"] = fetched(world.c2).received_bytes - before
    facts["missing"] = sorted(set(PATHS) - set(served))
    facts["wrong"] = sorted(path for path, data in served.items() if data != content(path))
    return facts
