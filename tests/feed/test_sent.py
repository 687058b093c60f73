"""A selection resolved before is of use in another process, whatever kind it is."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

from lakefeed.feed.feed import Feed, FeedOptions, Mix
from lakefeed.feed.indexed import Indexed
from lakefeed.feed.labels import Labelling
from lakefeed.feed.selection import resolve
from lakefeed.lake.lake import Lake
from lakefeed.volume.posix import PosixVolume
from tests.feed.lakes import lake_of, some_files

FILES = some_files(60)
OPTIONS = FeedOptions(batch_size=7, labels="parent", seed=3)
Asked = str | list[str] | Mix


@pytest.mark.parametrize(
    "select",
    ["train", "train/class1/*", sorted(FILES), Mix.of({"train/class0": 1, "train/class1": 2})],
)
def test_a_selection_that_was_sent_gives_the_same_feed(tmp_path: Path, select: Asked) -> None:
    options = OPTIONS
    if isinstance(select, Mix):
        options = FeedOptions(7, seed=3, labels="parent", class_names=("class0", "class1"))
    with lake_of(FILES, PosixVolume(tmp_path)) as lake:
        lake.merge_index(everything=True)
    with Feed(tmp_path, select, options) as feed:
        before = [(batch.paths, batch.labels.tolist(), batch.state) for batch in feed]  # type: ignore[union-attr]
        selection = feed.selection
        sent = pickle.dumps(selection)
    arrived = pickle.loads(sent)
    assert (arrived.class_names, len(arrived)) == (selection.class_names, len(selection))
    with Feed(tmp_path, arrived, options) as feed:
        after = [(batch.paths, batch.labels.tolist(), batch.state) for batch in feed]  # type: ignore[union-attr]
    assert after == before


def test_nothing_is_read_until_an_index_that_was_sent_is_used(tmp_path: Path) -> None:
    with lake_of(FILES, PosixVolume(tmp_path)) as lake:
        lake.merge_index(everything=True)
    with Lake.open(tmp_path) as lake:
        selection = resolve(lake.snapshot(), "train", Labelling("parent"))
        assert isinstance(selection, Indexed)
        sent = pickle.dumps(selection)
    shutil.rmtree(tmp_path)
    arrived = pickle.loads(sent)
    assert (arrived.digest, len(arrived)) == (selection.digest, len(FILES))
