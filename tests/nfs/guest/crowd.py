"""Writers on both clients, killed at random, while a reader on each follows what the other commits.

Two writers on each client commit small groups; every 400 ms one of them is killed with -9 and a
new one started. What `wait()` acknowledged is written down on a disk of the guest's own. A reader
first looks for the next commit's name (so that its client caches the miss), then opens the newest
snapshot: all that was acknowledged before must be in it. In the end each client reads everything.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from content import content, is_right
from tools import Child
from world import World

from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.lake.writer import WriterOptions

SECONDS = 5.0
WRITERS = 2
KILL_EVERY_SECONDS = 0.4
GROUP_FILES = 12
SHARED_PATHS = 5
ACKS = Path("/run/acks")
STOP = Path("/run/stop")
# A slow machine goes on until there is something to judge.
ENOUGH_PATHS = 100
OPTIONS = WriterOptions(flush_files=GROUP_FILES, flush_age_seconds=0.05, merge_after=12)


@dataclass(frozen=True)
class Job:
    """One generation of one writer."""

    root: Path
    name: str


def write(job: Job) -> int:
    """Put groups of files until told to stop; note each path once it is durable."""
    groups = 0
    acks = os.open(ACKS / job.name, os.O_CREAT | os.O_WRONLY)
    with Lake.open(job.root / "lake") as lake, lake.writer(OPTIONS) as writer:
        while not STOP.exists():
            paths = [f"{job.name}/{groups:05d}-{n:02d}" for n in range(GROUP_FILES - 1)]
            handles = [writer.put(path, content(path)) for path in paths]
            shared = f"shared/{groups % SHARED_PATHS}"
            handles.append(writer.put(shared, content(shared, f"{job.name} {groups}")))
            for handle in handles:
                handle.wait(60)
            os.write(acks, "".join(f"{path}\n" for path in paths).encode())
            groups += 1
    return groups


def acknowledged() -> list[str]:
    """Return every path that a writer has been promised."""
    return [path for file in sorted(ACKS.iterdir()) for path in file.read_text().split()]


def recently_acknowledged(prefix: str) -> list[str]:
    """Return the last few paths that each such writer was promised."""
    files = [file for file in ACKS.iterdir() if file.name.startswith(prefix)]
    return [path for file in files for path in file.read_text().split()[-6:]]


def follow(root: Path, other: str) -> dict[str, Any]:
    """Refresh again and again; return what was acknowledged on the other client but not seen."""
    rounds, missed = 0, []
    with Lake.open(root / "lake") as lake:
        snapshot = lake.snapshot()
        while not STOP.exists():
            next_name = root / "lake" / layout.commit_path(snapshot.number + 1)
            try:
                os.stat(next_name)
            except FileNotFoundError:
                pass  # now this client remembers that there is no such name
            promised = recently_acknowledged(other)
            snapshot = lake.snapshot()
            if promised:
                table = snapshot.locate(promised)
                there = table["path"].is_valid().to_pylist()
                gone = [path for path, found in zip(promised, there, strict=True) if not found]
                missed += [f"{path} at {snapshot.number}" for path in gone]
                sample = random.sample(promised, min(5, len(promised)))
                present = [path for path in sample if path not in gone]
                for path, data in zip(present, snapshot.get_many(present), strict=True):
                    assert data == content(path), f"wrong bytes for {path}"
            rounds += 1
            time.sleep(0.1)  # one CPU for all: leave it to the writers
    return {"rounds": rounds, "missed": missed[:20]}


def harass(jobs: Iterator[Job], writers: dict[str, Child]) -> int:
    """Kill a random writer now and then and put a new one in its place; return how many died."""
    killed = 0
    started = time.monotonic()
    while time.monotonic() - started < SECONDS or len(acknowledged()) < ENOUGH_PATHS:
        time.sleep(KILL_EVERY_SECONDS * random.uniform(0.5, 1.5))
        victim = random.choice(sorted(writers))
        child = writers.pop(victim)
        child.kill()
        child.value()
        killed += 1
        job = next(job for job in jobs if job.name.startswith(victim.split(".")[0]))
        writers[job.name] = Child.start(write, job)
    return killed


def everything(root: Path) -> dict[str, Any]:
    """Read the whole lake through one client; return what is wrong with it."""
    with Lake.open(root / "lake") as lake:
        snapshot = lake.snapshot()
        promised = acknowledged()
        there = snapshot.locate(promised)["path"].is_valid().to_pylist()
        lost = [path for path, found in zip(promised, there, strict=True) if not found]
        paths = [path for part in snapshot.find("") for path in part["path"].to_pylist()]
        pairs = zip(paths, snapshot.get_many(paths), strict=True)
        wrong = [path for path, data in pairs if not is_right(path, data)]
        commits = list(lake.history())[::-1]
    chain = [commit.number for commit in commits] == list(range(1, snapshot.number + 1))
    parents = [commit.parent for commit in commits] == [None, *(c.id for c in commits[:-1])]
    return {
        "acknowledged": len(promised), "files": len(paths), "commits": len(commits),
        "lost": lost[:20], "wrong": wrong[:20], "chain is total": chain and parents,
        "operations": sorted({commit.operation for commit in commits}),
    }  # fmt: skip


def main(world: World) -> dict[str, Any]:
    ACKS.mkdir()
    Lake.create(world.c1.root / "lake").close()
    clients = [world.c1, world.c2]

    def jobs() -> Iterator[Job]:
        generation = 0
        while True:
            for number in range(WRITERS):
                for client in clients:
                    name = f"{client.name}-{number}.{generation}"
                    yield Job(client.root, name)
            generation += 1

    source = jobs()
    writers = {
        job.name: Child.start(write, job)
        for job in [next(source) for _ in range(WRITERS * len(clients))]
    }
    readers = [
        Child.start(follow, world.c1.root, "c2"),
        Child.start(follow, world.c2.root, "c1"),
    ]
    killed = harass(source, writers)
    STOP.touch()
    groups = sum(child.value() for child in writers.values())
    return {
        "killed": killed,
        "groups of the survivors": groups,
        "readers": [child.value() for child in readers],
        "c1": Child.start(everything, world.c1.root).value(),
        "c2": Child.start(everything, world.c2.root).value(),
    }
