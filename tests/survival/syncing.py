"""A program that uses a mount and is told what is durable: `syncing DIRECTORY JOURNAL MODE SEED`.

It makes, overwrites, renames and deletes files of its own directory, one after the other, each by
what the manual calls durable: fsync(2) of the file or of a directory, close(2) where the mount was
made with `--sync close`, the renaming of a directory. The journal, which lies on another disk, has
a line before each change, the paths that it concerns, and one after it, what is there from then on.
Errors end the program: what is not durable is not in the journal.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.survival.journal import Model, content, id_of

FILES_MAX = 12


class Syncing:
    """One run of it; `model` is what is durable, by the path below its directory."""

    def __init__(self, directory: Path, journal: Path, mode: str, seed: int) -> None:
        self._directory = directory
        self._mode = mode
        self._numbers = random.Random(seed)
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._model: Model = {}
        self._step = 0

    def run_forever(self) -> None:
        """Change one thing after the other, until an error or the end of the process."""
        for name in ("a", "b"):
            (self._directory / name).mkdir(parents=True)
        self._sync(self._directory)
        while True:
            self._step += 1
            verbs: list[Callable[[], None]] = [*[self._put] * 4, self._replace]
            if self._model:
                verbs += [self._rename, self._delete, self._move_directory]
            self._numbers.choice(self._verbs_now(verbs))()

    def _verbs_now(self, verbs: list[Callable[[], None]]) -> list[Callable[[], None]]:
        return verbs if len(self._model) < FILES_MAX else [self._delete]

    def _put(self) -> None:
        """Write a file in place, new or not."""
        path = f"{self._numbers.choice('ab')}/{self._numbers.randrange(FILES_MAX)}"
        with self._changing(path):
            self._write(path)
            self._model[path] = self._id(path)

    def _replace(self) -> None:
        """Write a file under another name, make it durable, and rename it over the old one."""
        path = f"{self._numbers.choice('ab')}/{self._numbers.randrange(FILES_MAX)}"
        with self._changing(path, f"{path}.new"):
            self._write(f"{path}.new", self._id(path))
            os.rename(self._directory / f"{path}.new", self._directory / path)
            self._sync_any()
            self._model[path] = self._id(path)

    def _rename(self) -> None:
        old = self._numbers.choice(sorted(self._model))
        new = f"{self._numbers.choice('ab')}/{self._numbers.randrange(FILES_MAX)}"
        if old == new:
            return
        with self._changing(old, new):
            os.rename(self._directory / old, self._directory / new)
            self._sync_any()
            self._model[new] = self._model.pop(old)

    def _delete(self) -> None:
        path = self._numbers.choice(sorted(self._model))
        with self._changing(path):
            os.unlink(self._directory / path)
            self._sync_any()
            del self._model[path]

    def _move_directory(self) -> None:
        """Rename a directory there and back: durable without any sync."""
        moved = {f"c{path[1:]}": id_ for path, id_ in self._model.items() if path.startswith("a/")}
        others = {path: id_ for path, id_ in self._model.items() if path.startswith("b/")}
        was = dict(self._model)
        for old, new, model in (("a", "c", {**moved, **others}), ("c", "a", was)):
            with self._changing(*was, *moved):
                os.rename(self._directory / old, self._directory / new)
                self._model = model

    def _write(self, path: str, id_: str | None = None) -> None:
        data = content(id_ or self._id(path))
        fd = os.open(self._directory / path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for at in range(0, len(data), 30_000):
                assert os.write(fd, data[at : at + 30_000]) == len(data[at : at + 30_000])
            if self._mode != "close":
                os.fsync(fd)
        finally:
            os.close(fd)

    def _sync_any(self) -> None:
        """Make durable what has no bytes of its own."""
        above = (self._directory, self._directory / "a", self._directory.parent)
        self._sync(self._numbers.choice(above))

    def _sync(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _id(self, path: str) -> str:
        return f"{self._directory.name}/{path}#{self._step}"

    @contextmanager
    def _changing(self, *paths: str) -> Iterator[None]:
        self._line({"changing": paths})
        yield
        self._line({"durable": self._model})

    def _line(self, fact: dict[str, object]) -> None:
        os.write(self._journal, json.dumps(fact).encode() + b"\n")


def promised(journal: Path) -> tuple[Model, set[str]]:
    """Return what a journal says is durable, and the paths that were being changed at its end."""
    model: Model = {}
    changing: set[str] = set()
    for line in journal.read_bytes().splitlines(keepends=True):
        fact = json.loads(line) if line.endswith(b"\n") else {}
        if "durable" in fact:
            model, changing = fact["durable"], set()
        changing.update(fact.get("changing", ()))
    return model, changing


def durable(journal: Path) -> int:
    """Return how many steps a journal says are durable."""
    return journal.read_bytes().count(b'"durable"') if journal.exists() else 0


def broken(journal: Path, files: dict[str, bytes]) -> list[str]:
    """Return what one program was promised, and `files`, all that there are, do not keep."""
    above = f"{journal.stem}/"
    found = {path.removeprefix(above): data for path, data in files.items()
             if path.startswith(above)}  # fmt: skip
    model, changing = promised(journal)
    wrong = [f"{above}{path}: {id_} is lost" for path, id_ in model.items()
             if path not in changing and found.get(path) != content(id_)]  # fmt: skip
    wrong += [f"{above}{path} came back" for path in found.keys() - model.keys() - changing]
    # While a directory is moved, its files are all there, under one name or the other.
    if any(path.startswith("c/") for path in changing):
        names = {path.partition("/")[2] for path in found}
        if names != {path.partition("/")[2] for path in model}:
            wrong.append(f"{above} holds {sorted(names)} while a directory is moved")
        if {id_of(data) for data in found.values()} != {*model.values()}:
            wrong.append(f"{above} holds other bytes while a directory is moved")
    return wrong


if __name__ == "__main__":
    Syncing(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])).run_forever()
