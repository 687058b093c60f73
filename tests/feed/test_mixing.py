"""A mix gives each selection its share of every stretch, goes through all of it, and resumes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.feed.feed import Feed, FeedOptions, Mix
from lakefeed.feed.mixing import schedule
from lakefeed.lake.lake import Lake
from tests.feed.lakes import lake_of, some_files

FILES = some_files(120, classes=4)
MIX = Mix.of({"train/class0": 2, "train/class1/**": 1, "train/class2": 1})


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        yield lake


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    st.integers(0, 1 << 36),
    st.integers(1, 300),
)
def test_every_stretch_holds_the_weights(weights: list[float], start: int, length: int) -> None:
    mix = Mix.of([("", weight) for weight in weights])
    component, before = schedule(np.arange(start, start + length), mix.shares)
    for number, weight in enumerate(weights):
        exact = length * weight / sum(weights)
        found = np.flatnonzero(component == number)
        # A sample or so for each component before it, and what 24 bits of share leave.
        assert abs(len(found) - exact) <= 2 + number + length * 2**-20
        assert np.array_equal(np.diff(before[found]), np.ones(max(len(found) - 1, 0)))


def test_the_schedule_is_the_same_from_anywhere() -> None:
    whole = schedule(np.arange(1000), MIX.shares)
    part = schedule(np.arange(300, 700), MIX.shares)
    assert all(np.array_equal(one[300:700], other) for one, other in zip(whole, part, strict=True))


def test_components_are_served_by_weight_and_each_goes_through_all_of_its_own(lake: Lake) -> None:
    names = ("class0", "class1", "class2")
    options = FeedOptions(9, epochs=4, labels="parent", class_names=names)
    with Feed(lake, MIX, options) as feed:
        assert feed.class_names == names
        paths = []
        for batch in feed:
            assert batch.bytes() == [FILES[path] for path in batch.paths]
            assert batch.labels is not None
            assert batch.labels.tolist() == [int(path[11]) for path in batch.paths]
            paths += batch.paths
    assert len(paths) == 4 * 90
    assert Counter(path[:12] for path in paths) == {
        "train/class0": 180, "train/class1": 90, "train/class2": 90,
    }  # fmt: skip
    for part, turns in (("train/class0", 6), ("train/class1", 3)):
        mine = [path for path in paths if path.startswith(part)]
        for turn in range(turns):
            assert len(set(mine[turn * 30 : turn * 30 + 30])) == 30


@pytest.mark.parametrize("stop", [0, 1, 7, 11])
def test_a_mix_resumes_at_any_world_size(lake: Lake, stop: int) -> None:
    options = FeedOptions(12, epochs=2, seed=3)
    with Feed(lake, MIX, options) as feed:
        whole = [path for batch in feed for path in batch.paths]
    with Feed(lake, MIX, options) as feed:
        for _ in range(stop):
            next(feed)
        state = json.loads(json.dumps(feed.state()))
        assert len(json.dumps(state)) < 200
    seen: list[str] = []
    for rank in range(3):
        with Feed(lake, MIX, FeedOptions(4, epochs=2, seed=3, rank=rank, world_size=3)) as feed:
            feed.restore(state)
            seen += [path for batch in feed for path in batch.paths]
    taken = min(stop, 8) * 12 - 6 * (stop >= 8) + max(0, stop - 8) * 12
    assert Counter(seen) == Counter(whole[taken:])


def test_other_weights_are_another_feed(lake: Lake) -> None:
    with Feed(lake, MIX) as feed:
        state = feed.state()
    other = Mix.of({"train/class0": 1, "train/class1/**": 1, "train/class2": 1})
    with Feed(lake, other) as feed, pytest.raises(Invalid, match="selection"):
        feed.restore(state)


@given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=5))
def test_every_selection_of_a_mix_is_served_or_the_mix_is_refused(weights: list[float]) -> None:
    parts = [("", weight) for weight in weights]
    if min(weights) < sum(weights) / 2**24:
        with pytest.raises(Invalid, match="never be served"):
            Mix.of(parts)
        return
    shares = Mix.of(parts).shares
    assert all(0 < share < 1 << 24 for share in shares[:-1])


def test_weights_that_cannot_be_are_refused(lake: Lake) -> None:
    for parts in ({}, {"a": 0}, {"a": -1.0}, {"a": float("inf")}, {"a": float("nan")},
                  {"a": 1e9, "b": 1}, {"a": 1, "b": 1e9}, {"a": 1e308, "b": 1e308},
                  {"a": 1e6, "b": 1, "c": 1e-6}, {"a": "much"}, {"a": None}, "train", ["a", "b"],
                  5, {"a": 10**400}):  # fmt: skip
        with pytest.raises(Invalid, match="weights"):
            Mix.of(parts)  # type: ignore[arg-type]
    with (
        Feed(lake, MIX, FeedOptions(labels="parent")) as feed,
        pytest.raises(Invalid, match="class_names"),
    ):
        next(feed)
