"""What the tests of the service share: a lake with an inbox, and one pass over it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.service.inbox import Inbox
from lakefeed.service.ingest import Ingest, Outcome
from lakefeed.service.options import InboxOptions
from lakefeed.service.threads import Guard

LONG_AGO_NS = 1_700_000_000 * 10**9


def drop(root: Path, name: str, data: bytes, *, mtime_ns: int = LONG_AGO_NS) -> Path:
    """Put a complete file into an inbox: written elsewhere, with its time, renamed into place."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.parent / f".{path.name}.part"
    hidden.write_bytes(data)
    os.utime(hidden, ns=(mtime_ns, mtime_ns))
    hidden.rename(path)
    return path


def waiting(root: Path) -> list[str]:
    """Return the files in an inbox, without its own."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if not path.is_dir() and not path.relative_to(root).parts[0].startswith(".")
    )


def refuse_to_open(patch: pytest.MonkeyPatch, names: Collection[str], error: int) -> None:
    """Let files or directories of an inbox be such as cannot be opened by these names."""
    opened = os.open

    def refusing(path: Any, *flags: Any, **where: Any) -> int:
        if path in names:
            raise OSError(error, os.strerror(error))
        return opened(path, *flags, **where)

    patch.setattr(os, "open", refusing)


@dataclass
class Service:
    """A lake, its inbox, and what was reported."""

    lake: Lake
    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    guard: Guard = field(default_factory=Guard)
    outcomes: list[Outcome] = field(default_factory=list)

    def inbox(self, **options: Any) -> Inbox:
        """Return the inbox as another process would open it."""
        self.guard.allow(True)
        chosen = {"threads": 4, **self.options, **options}
        return Inbox(self.lake, InboxOptions(str(self.root), **chosen), self.guard,
                     self.outcomes.append)  # fmt: skip

    def take(self, **options: Any) -> int:
        """Open the inbox, walk it once taking everything, close it; return how many were taken."""
        return run_once(self.inbox(**options))

    def files(self) -> dict[str, bytes]:
        """Return what the lake shows."""
        snapshot = self.lake.snapshot()
        paths = [path for table in snapshot.find("") for path in table["path"].to_pylist()]
        return dict(zip(paths, snapshot.get_many(paths), strict=True)) if paths else {}

    def commits(self) -> int:
        """Return how many commits the inbox made."""
        return sum(commit.operation == "inbox" for commit in self.lake.history())


def run_once(inbox: Inbox, *, everything: bool = True) -> int:
    """Walk an inbox once, and close it."""
    try:
        return asyncio.run(inbox.run(everything=everything))
    finally:
        inbox.close()


@contextmanager
def service(tmp_path: Path, **options: Any) -> Iterator[Service]:
    """Make a lake and an empty inbox."""
    root = tmp_path / "inbox"
    root.mkdir()
    with Lake.create(tmp_path / "lake") as lake:
        yield Service(lake, root, options)


class Died(BaseException):
    """The process ends here, as kill -9 would."""


def dying(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> None:
    """Let the next call of `owner.name` be the last thing that happens."""
    call: Callable[..., Any] = getattr(owner, name)

    def die(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, call)
        if after:
            call(*args, **kwargs)
        raise Died

    monkeypatch.setattr(owner, name, die)


def race(made: Service, monkeypatch: pytest.MonkeyPatch, between: Callable[[], None]) -> None:
    """Let another replica act between this one's packs and its commit."""
    write = Ingest._write

    def then_the_other(self: Ingest, *args: Any) -> None:
        monkeypatch.setattr(Ingest, "_write", write)
        write(self, *args)
        between()

    monkeypatch.setattr(Ingest, "_write", then_the_other)
