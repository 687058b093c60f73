"""A mount as one of the actors: its handlers, without a kernel, and its commits.

What it writes under names of its own is promised: what was there at the last commit that it was
told of, or what it wrote since, is what the lake must show in the end.
"""

from __future__ import annotations

import errno
import os
import random
from functools import partial

import pyfuse3
import trio
import trio.testing

from lakefeed import Lake
from lakefeed.adapters.fuse.nodes import ROOT
from lakefeed.errors import LakefeedError, VolumeFailed
from tests.fuse.scenes import Here, serving
from tests.survival.world import DIRECTORIES, NAMES, ROUNDS, World

OWN = ("own 1", "own 2", "own 3")


def mount(here: World, actor: str) -> None:
    with here.open(actor) as lake:
        # Its clock stands still: what is tried again after a while is so at the next commit.
        trio.run(partial(_serve, here, lake, here.dice(actor)), clock=trio.testing.MockClock())


async def _serve(here: World, lake: Lake, numbers: random.Random) -> None:
    async with serving(lake) as scene:
        for round_ in range(2 * ROUNDS):
            for step in range(numbers.randint(1, 4)):
                data = f"mount {round_} {step}".encode() * numbers.choice((1, 30, 300))
                try:
                    await _change(here, scene, numbers, data)
                except pyfuse3.FUSEError as refused:
                    # No such file, or another kind of one. EIO says that the lake is damaged.
                    assert refused.errno != errno.EIO or here.is_faulty or here.damaged
                except VolumeFailed:
                    assert here.is_faulty
            try:
                if numbers.random() < 0.5:
                    await scene.pending.commit()
                    made = [*OWN]
                else:
                    made = [await _sync(scene, numbers.choice(OWN))]
            except (LakefeedError, pyfuse3.FUSEError):
                continue
            for name in made:
                here.promised[name] = here.promised.get(name, [None])[-1:]


async def _change(here: World, scene: Here, numbers: random.Random, data: bytes) -> None:
    verb = numbers.choice(("own", "own", "remove own", "rename", "mv", "write", "unlink", "follow"))
    name, (old, new) = numbers.choice(OWN), numbers.sample(NAMES[:3], 2)
    if verb == "own":
        await _write(scene, name, data)
        here.promised.setdefault(name, [None]).append(data)
    elif verb == "remove own":
        await scene.operations.unlink(ROOT, name.encode(), None)
        here.promised.setdefault(name, [None]).append(None)
    elif verb == "rename":
        await scene.rename(old, new)
    elif verb == "mv":
        await scene.rename(*numbers.sample(DIRECTORIES[:2], 2))
    elif verb == "write":
        await _write(scene, old, data)
    elif verb == "unlink":
        await scene.operations.unlink(ROOT, old.encode(), None)
    else:
        await scene.tree.follow()


async def _sync(scene: Here, name: str) -> str:
    """Have one file committed, as fsync(2) does; return its name."""
    number = await scene.open(name)
    try:
        await scene.operations.fsync(number, False)
    finally:
        await scene.operations.release(number)
    return name


async def _write(scene: Here, name: str, data: bytes) -> None:
    """Write a file anew, or make it."""
    if await scene.find(name):
        number = await scene.open(name, os.O_RDWR | os.O_TRUNC)
        await scene.operations.write(number, 0, data)
        await scene.operations.release(number)
    else:
        await scene.write(name, data)
