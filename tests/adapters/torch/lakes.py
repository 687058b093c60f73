"""What the tests of the torch adapter share: a lake in a directory, and what came out of loaders.

Everything here can be sent to a spawned process.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from tests.feed.lakes import QUIET, some_files

FILES = some_files(83)
OPTIONS = FeedOptions(8, labels="parent", seed=3)


def make_lake(where: Path) -> Path:
    """Make the lake of FILES in a directory."""
    with Lake.create(where) as lake, lake.writer(QUIET) as writer:
        for path, content in FILES.items():
            writer.put(path, content)
    return where


def expected(where: Path, options: FeedOptions = OPTIONS, epoch: int = 0) -> list[list[str]]:
    """The batches of one epoch, by their paths, as one feed gives them."""
    with Lake.open(where) as lake, Feed(lake.snapshot(), "train", at(options, epoch)) as feed:
        feed.restore({**feed.state(), "epoch": epoch})
        return [batch.paths for batch in feed]


def at(options: FeedOptions, epoch: int) -> FeedOptions:
    return FeedOptions(
        options.batch_size,
        options.shuffle,
        options.seed,
        epochs=epoch + 1,
        labels=options.labels,
        rank=options.rank,
        world_size=options.world_size,
    )


def kept(batches: Iterable[Any]) -> list[Any]:
    """The batches, each with its paths looked up while the feed is open."""
    return [batch for batch in batches if batch.paths]


def paths(batches: Iterable[Any]) -> list[list[str]]:
    return [batch.paths for batch in batches]


def check(batch: Any) -> None:
    """A batch holds its files' own bytes and labels."""
    assert [bytes(view.numpy()) for view in batch.views()] == [FILES[path] for path in batch.paths]
    assert batch.labels.tolist() == [int(path.split("/")[1][-1]) for path in batch.paths]


def sizes(batch: Any) -> list[tuple[str, int]]:
    """A transform: what the batch holds, in plain values."""
    check(batch)
    return [(path, len(view)) for path, view in zip(batch.paths, batch.views(), strict=True)]


def names(items: Iterable[list[tuple[str, int]]]) -> list[list[str]]:
    return [[path for path, _ in item] for item in items]
