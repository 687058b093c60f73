"""What a writer was told to do, kept outside the lake: the other side of every survival test.

A writer owns a directory of the lake and changes it in batches, each one commit. Before a batch it
notes what it is going to do, and after the last `wait()` that it was acknowledged. Whatever kills
the writer, its directory must hold all acknowledged batches, and of the one in progress all or
nothing.

Bytes name themselves: the content of a file begins with its own id and follows from it, so a
reader that knows nothing can tell wrong bytes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Empty payloads, dense ones, aligned ones, and one of many pages.
SIZES = (0, 10, 500, 5000, 70_000)
FILES_MAX = 40

Model = dict[str, str]
"""Path to content id."""


@dataclass(frozen=True)
class Step:
    """One change: `put` gives a path new content, `rename` moves it, `delete` removes it."""

    verb: str
    path: str
    other: str = ""


Steps = tuple[Step, ...]


def content(content_id: str) -> bytes:
    """Return the bytes that this id stands for."""
    numbers = random.Random(content_id)
    return f"{content_id}\n".encode() + numbers.randbytes(numbers.choice(SIZES))


def id_of(data: bytes) -> str:
    """Return the id in a file's bytes; AssertionError when they are not that id's bytes."""
    content_id = data.partition(b"\n")[0].decode()
    assert data == content(content_id), f"wrong bytes in what says it is {content_id!r}"
    return content_id


def plan(numbers: random.Random, directory: str, batch: int, model: Model) -> Steps:
    """Return the next batch: several changes, the later ones aware of the earlier."""
    steps: list[Step] = []
    now = dict(model)
    for place in range(numbers.randint(1, 12)):
        name = f"{directory}/{numbers.choice('abc')}/{batch}-{place}"
        old = numbers.choice(sorted(now)) if now else ""
        verbs = ["put"] if not old else ["put", "put", "overwrite", "rename", "delete"]
        verb = numbers.choice(verbs) if len(now) < FILES_MAX else "delete"
        if verb in ("put", "overwrite"):
            steps.append(Step("put", name if verb == "put" else old, f"{name}#{verb}"))
        else:
            steps.append(Step(verb, old, name if verb == "rename" else ""))
        now = after(now, steps[-1:])
    return tuple(steps)


def after(model: Model, steps: Steps | list[Step]) -> Model:
    """Return the model once these steps are done."""
    new = dict(model)
    for step in steps:
        if step.verb == "put":
            new[step.path] = step.other
        else:
            moved = new.pop(step.path)
            if step.verb == "rename":
                new[step.other] = moved
    return new


class Journal:
    """Appends what one writer does to a file, each line on stable storage before the next step."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def begin(self, steps: Steps) -> None:
        """Note a batch that may happen from now on."""
        self._line({"begin": [[step.verb, step.path, step.other] for step in steps]})

    def done(self, snapshot: int) -> None:
        """Note that the batch was acknowledged."""
        self._line({"done": snapshot})

    def _line(self, fact: dict[str, object]) -> None:
        os.write(self._fd, json.dumps(fact).encode() + b"\n")
        os.fsync(self._fd)


@dataclass(frozen=True)
class Told:
    """What a journal tells: the acknowledged state, and the state if the last batch happened."""

    acknowledged: Model
    possible: Model
    batches: int
    snapshot: int


def read_journal(path: Path) -> Told:
    """Return what a journal tells; a line cut short was never acted upon."""
    model: Model = {}
    pending = model
    batches = snapshot = 0
    for fact in _facts(path):
        if "begin" in fact:
            pending = after(model, [Step(*step) for step in fact["begin"]])
        else:
            model, batches, snapshot = pending, batches + 1, fact["done"]
    return Told(model, pending, batches, snapshot)


def _facts(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)


def told(journals: Path) -> dict[str, Told]:
    """Return what all journals tell, by the directory that each is about."""
    return {path.stem: read_journal(path) for path in sorted(journals.glob("*.journal"))}


def losses(journals: Path, files: dict[str, bytes]) -> list[str]:
    """Return the directories that hold neither their acknowledged state nor the possible one.

    `files` is the whole lake; wrong bytes anywhere are an AssertionError.
    """
    seen: dict[str, Model] = {}
    for path, data in files.items():
        seen.setdefault(path.split("/", 1)[0], {})[path] = id_of(data)
    stories = told(journals)
    assert seen.keys() <= stories.keys()
    return [
        directory
        for directory, story in stories.items()
        if seen.get(directory, {}) not in (story.acknowledged, story.possible)
    ]
