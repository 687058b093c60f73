"""The packing service between two real NFS clients: lease, inbox, compaction and collection.

- A reader on c2 holds a snapshot while c1 overwrites, compacts and collects: it stays whole, and
  goes once it is given up.
- A reader on c2 has packs open that c1 compacts and collects: the same bytes are found elsewhere.
- c2's clock is hours off. It neither takes a lease that is held, nor deletes what is young, and the
  times that it writes are the server's.
- Both clients run the same inbox at once, with short leases and c2's clock off: every file dropped
  is in exactly one commit, and the inbox runs empty.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from content import content, read_all
from tools import Child
from world import World

from lakefeed.errors import Conflict, LakefeedError, NotFound
from lakefeed.lake import layout
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.packing import new_pack
from lakefeed.service.inbox import Inbox
from lakefeed.service.options import InboxOptions
from lakefeed.service.threads import Guard, Stopped

PATHS = [f"a/{number:03d}" for number in range(60)]
read = partial(read_all, PATHS)
AT_ONCE = Retention(keep_seconds=0, grace_seconds=0)
HOURS_SECONDS = 6 * 3600.0
DROPS = 120
DROPPING_SECONDS_MAX = 60.0
LEASE_SECONDS = 2.0


def put(root: Path, version: str, parts: int = 3) -> None:
    """Write every path in several packs."""
    with Lake.open(root) as lake:
        for part in range(parts):
            with lake.writer() as writer:
                for path in PATHS[part::parts]:
                    writer.put(path, content(path, version))


def rewrite(root: Path) -> tuple[int, int]:
    """Compact and collect everything that may go; return the packs removed and files deleted."""
    with Lake.open(root) as lake:
        removed = len(compact(lake).packs_removed)
        deleted = collect(lake, AT_ONCE, orphans=False).deleted
    # The server's cache of open files keeps a deleted one for some milliseconds.
    time.sleep(0.5)
    return removed, deleted


def held(near: Path, far: Path) -> dict[str, Any]:
    """A held snapshot across overwriting, compaction and collection on the other client."""
    Lake.create(near).close()
    put(near, "first")
    with Lake.open(far) as lake:
        with lake.hold(holder="reader", lifetime_seconds=600) as hold:
            snapshot = lake.snapshot(hold.number)
            put(near, "second")
            facts = {"rewritten": rewrite(near), "held": read(snapshot, "first")}
            with Lake.open(far) as late:
                facts["held, nothing open"] = read(late.snapshot(hold.number), "first")
            hold.check()
        with Lake.open(near) as other:
            facts["deleted afterwards"] = collect(other, AT_ONCE, orphans=False).deleted
        with Lake.open(far) as late:
            facts["newest"] = read(late.snapshot(), "second")
            try:
                facts["given up"] = read(late.snapshot(hold.number), "first")
            except LakefeedError as error:
                facts["given up"] = type(error).__name__
    return facts


def moved(near: Path, far: Path) -> dict[str, Any]:
    """Packs that are open on one client, compacted and collected by the other."""
    Lake.create(near).close()
    put(near, "first")
    with Lake.open(far) as lake:
        snapshot = lake.snapshot()
        facts: dict[str, Any] = {"before": read(snapshot, "first")}
        facts["rewritten"] = rewrite(near)
        facts["moved"] = read(snapshot, "first")
    return facts


@contextmanager
def clock_off(seconds: float) -> Iterator[None]:
    """Let this process believe in another time: an injected clock, for guests have one kernel."""
    real, real_ns = time.time, time.time_ns
    with (
        patch.object(time, "time", lambda: real() + seconds),
        patch.object(time, "time_ns", lambda: real_ns() + int(seconds * 1e9)),
    ):
        yield


def with_clock_off(far: Path, seconds: float) -> dict[str, Any]:
    """What a client does whose clock is off, while the other one holds the lease."""
    with clock_off(seconds), Lake.open(far) as lake:
        try:
            lake.leases.acquire("compactor", "far", LEASE_SECONDS)
            lease = "taken"
        except Conflict:
            lease = "held"
        orphan = new_pack(lake.volume, 0, lambda writer, now_ns: None)
        hour = Retention(keep_seconds=3600, grace_seconds=3600)
        collected = collect(lake, hour)
        try:
            lake.volume.stat(layout.pack_path(orphan.id))
            young = "kept"
        except NotFound:
            young = "deleted"
        with lake.writer() as writer:
            writer.put("late", b"late")
        return {
            "lease": lease,
            "young orphan": young,
            "deleted": collected.deleted,
            "horizon": lake.log.head().horizon,
            "commit is off by": (lake.snapshot().time_ns - time.time_ns()) / 1e9 + seconds,
        }


def skew(near: Path, far: Path) -> dict[str, Any]:
    """A clock that is hours ahead, and one that is hours behind."""
    Lake.create(near).close()
    put(near, "first")
    facts = {}
    with Lake.open(near) as lake:
        for name, seconds in (("ahead", HOURS_SECONDS), ("behind", -HOURS_SECONDS)):
            lease = lake.leases.acquire("compactor", "near", 600)
            facts[name] = Child.start(with_clock_off, far, seconds).value()
            lake.leases.release(lease)
    return facts


def take_in(
    lake_root: Path, inbox: Path, name: str, skew_seconds: float, is_over: Callable[[], bool]
) -> int:
    """Run one replica's inbox until it is over; return how many files it saw to their end."""
    took = 0
    guard = Guard()
    with clock_off(skew_seconds), Lake.open(lake_root) as lake:
        options = InboxOptions(str(inbox), "in", quiet_seconds=0.0, pack_files=10, threads=4)
        replica = Inbox(lake, options, guard, lambda outcome: None)
        while not is_over():
            try:
                lease = lake.leases.acquire("inbox", name, LEASE_SECONDS)
            except Conflict:
                time.sleep(0.2)
                continue
            # Longer than the lease, so that replicas do overlap.
            until = time.monotonic() + LEASE_SECONDS * 1.5
            guard.allow(True)
            while time.monotonic() < until and not is_over():
                try:
                    took += asyncio.run(replica.run(everything=True))
                except (Conflict, Stopped):
                    continue
            guard.allow(False)
            del lease
        replica.close()
    return took


def authors(root: Path) -> set[str]:
    """Return who has committed files of the inbox."""
    with Lake.open(root) as lake:
        return {commit.author for commit in lake.history() if commit.operation == "inbox"}


def waiting(inbox: Path) -> list[str]:
    """Return the files that are still in an inbox."""
    return [name for name in os.listdir(inbox) if not name.startswith(".")]


def replicas(near: Path, far: Path, near_inbox: Path, far_inbox: Path) -> dict[str, Any]:
    """One inbox taken in by both clients at once."""
    Lake.create(near).close()
    near_inbox.mkdir()
    over = Path("/run/over")  # of the guest's own: over NFS one of them would hear of it late
    children = [
        Child.start(take_in, near, near_inbox, "near", 0.0, over.exists),
        Child.start(take_in, far, far_inbox, "far", HOURS_SECONDS, over.exists),
    ]
    dropped, give_up = 0, time.monotonic() + DROPPING_SECONDS_MAX
    # On a slow machine the first may take all of the first ones before the other begins.
    while dropped < DROPS or (len(authors(near)) < 2 and time.monotonic() < give_up):
        hidden = near_inbox / f".{dropped}.part"
        hidden.write_bytes(content(f"{dropped}", "dropped"))
        hidden.rename(near_inbox / f"{dropped}")
        dropped += 1
        time.sleep(0.05)
    over.touch()
    took = [child.value() for child in children]
    # Whatever the last one left when it was over.
    end = time.monotonic() + DROPPING_SECONDS_MAX
    took.append(
        take_in(
            near, near_inbox, "last", 0.0,
            lambda: not waiting(near_inbox) or time.monotonic() > end,
        )
    )  # fmt: skip
    with Lake.open(near) as lake:
        commits = [commit for commit in lake.history() if commit.operation == "inbox"]
        snapshot = lake.snapshot()
        wrong = [
            number
            for number in range(dropped)
            if snapshot.get(f"in/{number}") != content(f"{number}", "dropped")
        ]
    left = waiting(near_inbox)
    rows = sum(pack.rows for commit in commits for pack in commit.changes.add_packs)
    return {"took": took, "wrong": wrong, "left": left, "dropped": dropped, "committed": rows,
            "authors": len(authors(near))}  # fmt: skip


def main(world: World) -> dict[str, Any]:
    near, far = world.c1.root, world.c2.root
    return {
        "held": held(near / "held", far / "held"),
        "moved": moved(near / "moves", far / "moves"),
        "skew": skew(near / "skew", far / "skew"),
        "replicas": replicas(near / "two", far / "two", near / "drop", far / "drop"),
    }
