"""Does a writer know what it did when the reply was lost on the way?

c1 works through the relay. For each kind of call that changes a folder, its reply is swallowed
once while a lake is made, written to, tagged and merged; every one of these must succeed, and the
history must hold exactly the commits that were acknowledged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from content import content
from relay import Relay
from tools import Child, wait_until
from world import World

from lakefeed.errors import LakefeedError
from lakefeed.lake.lake import Lake
from lakefeed.lake.writer import WriterOptions

V3 = ("LINK", "CREATE", "MKDIR", "RENAME", "REMOVE")
V4 = ("LINK", "CREATE", "OPEN", "RENAME", "REMOVE")
PUTS = 5


def put(root: Path) -> list[int]:
    """Commit some files one by one; return the numbers that were acknowledged."""
    with Lake.open(root) as lake, lake.writer(WriterOptions(flush_age_seconds=0.0)) as writer:
        return [writer.put(f"{n}", content(f"{n}")).wait(60) for n in range(PUTS)]


def tag(root: Path) -> None:
    with Lake.open(root) as lake:
        lake.tag("new")
        lake.tag("new", 1, move=True)
        pin = lake.refs.pin(1, "test", 60)
        lake.refs.unpin(lake.refs.renew(pin, 60))


def merge(root: Path) -> None:
    with Lake.open(root) as lake:
        lake.merge_index()
        lake.log.write_checkpoint(lake.snapshot().number)


def attempt(facts: dict[str, str], name: str, action: Callable[[], Any]) -> Any:
    """Return what the action gives; note an error: each was either done or can be done."""
    try:
        return action()
    except LakefeedError as error:
        facts[name] = str(error)
    return None


def trouble(world: World, relay: Relay, operation: str) -> dict[str, Any]:
    """Do everything, losing the first reply of that operation in each step."""
    near, far = world.c1.root / operation, world.c2.root / operation
    failures: dict[str, str] = {}
    steps: dict[str, Callable[[], Any]] = {
        "create": lambda: Lake.create(near).close(),
        "put": lambda: put(near),
        "tag": lambda: tag(near),
        "merge": lambda: merge(near),
    }
    given: dict[str, Any] = {}
    before = Counter(relay.seen()["dropped"])
    for name, step in steps.items():
        relay.drop(operation)
        given[name] = attempt(failures, name, step)
        relay.drop(operation, 0)
    with Lake.open(far) as lake:
        history = Counter(commit.id for commit in lake.history())
        written = [c.number for c in lake.history() if c.operation == "write"][::-1]
        readable = [lake.snapshot().get(f"{n}") == content(f"{n}") for n in range(PUTS)]
        tags = [(tag.name, tag.snapshot) for tag in lake.refs.tags()]
    return {
        "failures": failures,
        "acknowledged": given["put"],
        "written": written,
        "once": max(history.values(), default=1) == 1,
        "readable": all(readable),
        "tags": tags,
        "dropped": (Counter(relay.seen()["dropped"]) - before)[operation],
    }


def restart(world: World, relay: Relay) -> dict[str, Any]:
    """Lose the reply of one commit's link, and everything that the server remembers with it."""
    near, far = world.c1.root / "restart", world.c2.root / "restart"
    Lake.create(near).close()
    relay.drop("LINK", hold=True)
    writer = Child.start(put, near)
    assert wait_until(lambda: bool(relay.seen()["held"]), 30), "no reply was lost"
    world.server.restart()
    relay.resume()
    acknowledged = writer.value()
    with Lake.open(far) as lake:
        written = [commit.number for commit in lake.history()][::-1]
    return {"acknowledged": acknowledged, "written": written}


def main(world: World, relay: Relay) -> dict[str, Any]:
    names = V3 if world.settings.vers == "3" else V4
    return {
        "restart": restart(world, relay),
        "calls": {name: trouble(world, relay, name) for name in names},
    }
