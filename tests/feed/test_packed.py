"""Compressed samples come out as their files' bytes, between raw ones, or are named as damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lakefeed.errors import Corrupt
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.format.rows import Codec
from lakefeed.lake.lake import Lake
from lakefeed.lake.layout import pack_path
from lakefeed.volume.posix import PosixVolume
from tests.feed.lakes import lake_of

# No two are alike or equally long; a third of them, in a pack between two others, are compressed.
FILES = {f"train/{at:02}": b"%02d and so on. " % at * (at * 7 % 60 + 40) for at in range(60)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    with lake_of(FILES, PosixVolume(root)) as lake:
        table = lake.snapshot().locate(sorted(FILES))
        assert table["codec"].to_pylist() == [Codec.NONE, Codec.ZSTD, Codec.NONE] * 20
    return root


@pytest.mark.parametrize("shuffle", ["global", None])
def test_they_are_the_bytes_that_were_put(root: Path, shuffle: str | None) -> None:
    with Feed(root, "train", FeedOptions(7, shuffle, epochs=2)) as feed:
        served = [pair for b in feed for pair in zip(b.paths, b.bytes(), strict=True)]
    assert len(served) == 2 * len(FILES)
    assert dict(served) == FILES


@pytest.mark.parametrize("victim", ["train/24", "train/25"], ids=["raw", "compressed"])
def test_a_damaged_one_is_named_wherever_it_is(root: Path, tmp_path: Path, victim: str) -> None:
    where = shutil.copytree(root, tmp_path / "lake")
    with Lake.open(where) as lake:
        row = lake.snapshot().stat(victim)
    assert row.pack is not None
    with (where / pack_path(row.pack)).open("r+b") as pack:
        pack.seek(row.offset + row.length // 2)
        pack.write(b"\xff")
    with Feed(where, "train", FeedOptions(7, None, on_corrupt="skip")) as feed:
        batches = list(feed)
        served = [pair for b in batches for pair in zip(b.paths, b.bytes(), strict=True)]
    assert dict(served) == {path: data for path, data in FILES.items() if path != victim}
    assert [b.corrupt for b in batches if b.corrupt] == [(victim,)]
    with Feed(where, "train", FeedOptions(7)) as feed, pytest.raises(Corrupt, match=victim):
        list(feed)
