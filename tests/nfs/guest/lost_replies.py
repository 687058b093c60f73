"""What the caller of link(2) and friends is told when the server did it but the reply was lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from relay import Relay
from tools import Child, outcome, wait_until
from world import World

# What one call is named on the wire, on v3 and on v4.2.
WIRE = {
    "link": ("LINK", "LINK"),
    "create": ("CREATE", "OPEN"),
    "create exclusively": ("CREATE", "OPEN"),
    "mkdir": ("MKDIR", "CREATE"),
    "rename": ("RENAME", "RENAME"),
    "unlink": ("REMOVE", "REMOVE"),
}


def creating(path: Path, extra_flags: int) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | extra_flags))


def calls(at: Path) -> dict[str, tuple[Any, ...]]:
    """Return each kind of call with its arguments, in the order to make them."""
    return {
        "link": (os.link, at / "mine", at / "name"),
        "create": (creating, at / "new", 0),
        "create exclusively": (creating, at / "exclusive", os.O_EXCL),
        "mkdir": (os.mkdir, at / "folder"),
        "rename": (os.rename, at / "new", at / "newer"),
        "unlink": (os.unlink, at / "newer"),
    }


def main(world: World) -> dict[str, Any]:
    relay = Relay.start()
    world.c1.mount(relay.port)
    world.c2.mount()
    minor = 0 if world.settings.vers == "3" else 1
    at = world.c1.root / "at"
    at.mkdir()
    (at / "mine").write_text("mine")
    told = {}
    for name, call in calls(at).items():
        relay.drop(WIRE[name][minor])
        told[name] = outcome(*call)
    facts: dict[str, Any] = {
        "told": told,
        "dropped": relay.seen()["dropped"],
        "links": os.stat(world.c2.root / "at" / "mine").st_nlink,
    }
    # The same link, but nfsd forgets everything before the client can ask again.
    (at / "mine too").write_text("mine too")
    relay.drop("LINK", hold=True)
    caller = Child.start(outcome, os.link, at / "mine too", at / "name too")
    assert wait_until(lambda: bool(relay.seen()["held"]), 20), "no reply was lost"
    world.server.restart()
    relay.resume()
    facts["told after restart"] = caller.value()
    facts["links after restart"] = os.stat(world.c2.root / "at" / "mine too").st_nlink
    return facts
