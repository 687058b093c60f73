"""The resume table: 50 stop points, world sizes 1, 2, 3, 4, 8: none repeated, none missing."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from tests.feed.lakes import lake_of

WORLDS = (1, 2, 3, 4, 8)
TOGETHER = 24
FILES = {f"train/{at:04d}": b"%d" % at for at in range(509)}


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        lake.merge_index(everything=True)
        yield lake


def served(
    snapshot: Snapshot, options: FeedOptions, state: str | None, stop: int | None
) -> tuple[Counter[str], str]:
    """What all ranks get from a state on, up to `stop` batches each, and the state they save."""
    seen: Counter[str] = Counter()
    saved = set()
    batch_size = TOGETHER // options.world_size
    for rank in range(options.world_size):
        with Feed(snapshot, "train", replace(options, batch_size=batch_size, rank=rank)) as feed:
            if state is not None:
                feed.restore(json.loads(state))
            for batch in feed if stop is None else islice(feed, stop):
                seen.update(batch.paths[: batch.real])
            saved.add(json.dumps(feed.state()))
    (one,) = saved
    return seen, one


@pytest.mark.slow
@pytest.mark.parametrize("first", WORLDS)
def test_no_sample_is_repeated_or_missed(lake: Lake, first: int) -> None:
    chance = random.Random(first)
    snapshot = lake.snapshot()
    for _ in range(10):
        stop, second = chance.randrange(21), chance.choice(WORLDS)
        shuffle, seed = chance.choice(["global", "runs=8", None]), chance.randrange(1 << 32)
        options = FeedOptions(shuffle=shuffle, seed=seed)
        before, state = served(snapshot, replace(options, world_size=first), None, stop)
        behind, _ = served(snapshot, replace(options, world_size=second), state, None)
        assert before + behind == dict.fromkeys(FILES, 1), (first, second, stop, shuffle, seed)
