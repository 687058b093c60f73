"""Is a commit, a tag or a pin of one client seen by the very next refresh of the other?

The worst moment for it: the other client looks for the name just before it is made, in the same
tick of the server's clock as an earlier change of the folder, so that neither the name nor the time
of the folder tells it later that there is something new.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tools import outcome
from world import World

from lakefeed.errors import Conflict, NotFound
from lakefeed.format.commit import Changes
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.volume import directories
from lakefeed.volume.posix import PosixVolume
from lakefeed.volume.posix_writing import PosixWritableFile

ROUNDS = 40
SERVED = Path("/run/export/visible")


class WorstMoment(PosixVolume):
    """Before a name is made, the other client looks for it by name and by listing, in vain."""

    def __init__(self, root: Path, other: Path) -> None:
        super().__init__(root)
        self._other = other

    def link(self, source: str, target: str) -> None:
        self._look(target)
        super().link(source, target)

    def replace(self, source: str, target: str) -> None:
        self._look(target)
        super().replace(source, target)

    def _look(self, target: str) -> None:
        parent = Path(target).parent
        # A change on the server itself, by nobody we know: another writer's, a collector's.
        os.utime(SERVED / parent)
        os.close(os.open(self._other / parent, os.O_RDONLY | os.O_DIRECTORY))
        os.listdir(self._other / parent)
        outcome(os.stat, self._other / target)


def late_commits(writer: Lake, reader: Lake) -> list[str]:
    late = []
    for number in range(1, ROUNDS + 1):
        state = writer.log.commit(Draft("test"), lambda state: Changes())
        assert state.number == number
        seen = reader.snapshot().number
        if seen != number:
            late.append(f"{seen} of {number}")
            os.utime(SERVED / layout.LOG)  # or all that follow would be late too
    return late


def late_tags(writer: Lake, reader: Lake) -> list[str]:
    late = []
    for number in range(1, 11):
        writer.tag("best", number, move=True)
        if (told := reader.snapshot("best").number) != number:
            late.append(f"{told} instead of {number}")
        try:
            writer.tag(f"tag{number}", number)
            assert reader.snapshot(f"tag{number}").number == number
        except NotFound as error:
            late.append(str(error))
    return late


def late_pins(writer: Lake, reader: Lake) -> list[str]:
    """A collector that lists the pins after one was given must find it, or I3 is broken."""
    late = []
    for number in range(1, 11):
        pin = writer.pin(number, holder="test", lifetime_seconds=60)
        if pin.id not in [seen.id for seen in reader.refs.pins()]:
            late.append(f"pin of {number}")
    return late


class Removing(PosixVolume):
    """Before a commit is written, the other client removes the pack that it is to name."""

    def __init__(self, root: Path, other: Path) -> None:
        super().__init__(root)
        self._other = other
        self._pack = ""

    def create(self, path: str) -> PosixWritableFile:
        if layout.is_pack(path):
            self._pack = path
        elif self._pack:
            (self._other / self._pack).unlink()
            self._pack = ""
        return super().create(path)


def commit_of_what_is_gone(near: Path, far: Path) -> str:
    """This client has just written the pack: a stat tells of it from memory."""
    try:
        with Lake.open(Removing(near, far)) as lake, lake.writer() as writer:
            writer.put("path", b"bytes")
    except Conflict as refused:
        return str(refused)
    return "made"


def found(root: Path) -> bool:
    """Say whether there is a lake for this client."""
    try:
        Lake.open(root).close()
    except NotFound:
        return False
    return True


def main(world: World) -> dict[str, Any]:
    near, far = world.c1.root / SERVED.name, world.c2.root / SERVED.name
    near.mkdir()
    before = found(far)
    Lake.create(WorstMoment(near, far)).close()
    there = [before, found(far)]
    with Lake(WorstMoment(near, far)) as writer, Lake.open(far) as reader:
        return {
            "there": there,
            "late commits": late_commits(writer, reader),
            "late tags": late_tags(writer, reader),
            "late pins": late_pins(writer, reader),
            "commit of what the other removed": commit_of_what_is_gone(near, far),
            **without_the_touch(writer, reader),
        }


def without_the_touch(writer: Lake, reader: Lake) -> dict[str, Any]:
    """The same where nobody waits for the next tick: what the touch of the folder is for."""
    directories.TICK_SECONDS_MAX = 0.0
    head = writer.log.head().number
    late = 0
    for number in range(head + 1, head + ROUNDS + 1):
        writer.log.commit(Draft("test"), lambda state: Changes())
        late += reader.snapshot().number != number
        os.utime(SERVED / layout.LOG)
    return {"late without the touch": late}
