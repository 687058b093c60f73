"""warm: fills the cache once, says what it did, and feeds read from it."""

from __future__ import annotations

import os
from pathlib import Path

from lakefeed import Lake
from lakefeed.feed.feed import Cache, Feed, FeedOptions
from tests.cli.conftest import Run

FILES = {f"train/{number:02d}": os.urandom(200_000) for number in range(30)}


def lake_at(where: Path) -> Path:
    with Lake.create(where) as lake, lake.writer() as writer:
        for path, data in {**FILES, "val/x": b"x"}.items():
            writer.put(path, data)
    return where


def test_what_was_warmed_is_read_from_the_cache(tmp_path: Path, run: Run) -> None:
    lake, cache = lake_at(tmp_path / "lake"), tmp_path / "cache"
    warm = ("warm", lake, "--cache", cache, "--cache-bytes", "64MiB", "--prefix", "train")
    first = run(*warm, "--json").json
    assert (first["files"], first["bytes"], first["files_left"]) == (30, 6_000_000, 0)
    assert first["blocks_fetched"] > 0
    again = run(*warm, "--json").json
    assert again["blocks_fetched"] == 0
    assert run(*warm).out.startswith("30 files, 5.7 MiB in ")
    with Feed(lake, "train", FeedOptions(8, cache=Cache(cache, "64MiB"))) as feed:
        assert {p: d for b in feed for p, d in zip(b.paths, b.bytes(), strict=True)} == FILES
        assert feed.stats().cache_misses == 0


def test_a_cache_that_is_too_small_says_what_is_left(tmp_path: Path, run: Run) -> None:
    lake = lake_at(tmp_path / "lake")
    small = run("warm", lake, "--cache", tmp_path / "cache", "--cache-bytes", "1MiB")
    assert small.code == 2
    assert "at least 16 blocks" in small.err


def test_nothing_of_that_name_is_not_found(tmp_path: Path, run: Run) -> None:
    lake = lake_at(tmp_path / "lake")
    assert run("warm", lake, "--cache", tmp_path / "c", "--prefix", "nowhere").code == 3
