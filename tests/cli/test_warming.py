"""warm: fills the cache once, says what it did, and feeds read from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.cli.warming import parts_of
from lakefeed.feed.feed import Cache, Feed, FeedOptions
from lakefeed.format.rows import Codec
from lakefeed.lake.writer import WriterOptions
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


def test_blocks_that_it_fetched_itself_are_not_said_to_have_been_there(
    tmp_path: Path, run: Run
) -> None:
    lake = lake_at(tmp_path / "lake")
    cold = run("warm", lake, "--cache", tmp_path / "cache").out
    assert " blocks were fetched; reads found theirs in the cache " in cold
    assert "there" not in cold
    again = run("warm", lake, "--cache", tmp_path / "cache").out
    assert "\n0 blocks were fetched; reads found theirs in the cache " in again


def test_a_cache_that_is_too_small_says_what_is_left(tmp_path: Path, run: Run) -> None:
    lake = lake_at(tmp_path / "lake")
    small = run("warm", lake, "--cache", tmp_path / "cache", "--cache-bytes", "1MiB")
    assert small.code == 2
    assert "at least 16 blocks" in small.err


@pytest.mark.slow
def test_what_counts_is_the_room_that_files_take(tmp_path: Path, run: Run) -> None:
    """Compressed ones take less than they have, others the blocks with what lies between."""
    files = {f"train/{number:03d}": b"%03d" % number * 15_000 for number in range(600)}
    with Lake.create(tmp_path / "lake") as lake:
        with lake.writer(WriterOptions(codec=Codec.ZSTD)) as writer:
            for path, data in files.items():
                writer.put(path, data)
        with lake.writer() as writer:
            for number in range(1200):
                writer.put(f"all/{number:04d}", os.urandom(25_000))
            writer.flush()
            for number in range(0, 1200, 2):
                writer.rename(f"all/{number:04d}", f"half/{number:04d}")
    warm = ("warm", tmp_path / "lake", "--cache-bytes", "16MiB", "--json", "--prefix")
    assert run(*warm, "train", "--cache", tmp_path / "one").json["files_left"] == 0
    half = run(*warm, "half", "--cache", tmp_path / "other").json
    assert half["blocks_fetched"] >= 14 > half["bytes"] >> 20
    assert half["files_left"] > 0


@pytest.mark.slow
def test_a_block_that_several_reads_want_fills_the_cache_once(tmp_path: Path, run: Run) -> None:
    with Lake.create(tmp_path / "lake") as lake, lake.writer() as writer:
        for number in range(1300):
            writer.put(f"train/{number:04d}", os.urandom(20_000))
    warm = ("warm", tmp_path / "lake", "--cache", tmp_path / "cache", "--cache-bytes", "32MiB")
    facts = run(*warm, "--json").json
    assert (facts["files_left"], facts["blocks_refused"]) == (0, 0)
    assert run(*warm, "--json").json["blocks_fetched"] == 0


@pytest.mark.slow
def test_files_that_fill_the_memory_come_a_few_at_a_time(tmp_path: Path, run: Run) -> None:
    packing = WriterOptions(codec=Codec.ZSTD)
    with Lake.create(tmp_path / "lake") as lake, lake.writer(packing) as writer:
        for number in range(260):
            writer.put(f"films/{number:03d}", bytes(5_000_000))
        writer.put("films/whole", bytes((1 << 30) + 1))
    facts = run("warm", tmp_path / "lake", "--cache", tmp_path / "cache", "--json").json
    assert (facts["files"], facts["files_left"]) == (261, 0)


def test_big_files_do_not_make_small_ones_come_alone(tmp_path: Path) -> None:
    big = {0, 3, 4, 9}
    with Lake.create(tmp_path / "lake") as lake, lake.writer() as writer:
        for number in range(10):
            writer.put(f"{number}", bytes((4 << 20) if number in big else number))
    with Lake.open(tmp_path / "lake") as lake, Feed(lake.snapshot()) as wanted:
        cache = Cache(tmp_path / "cache", "1GiB")
        sizes, found = [], []
        for part in parts_of(lake.snapshot(), wanted.selection, cache):
            with part:
                sizes.append(part.options.batch_size)
                found.append([path for batch in part for path in batch.paths])
    assert sizes == [256, 64]
    assert found == [list("125678"), list("0349")]


def test_a_disk_that_does_not_take_the_blocks_is_told(tmp_path: Path, run: Run) -> None:
    lake, cache = lake_at(tmp_path / "lake"), tmp_path / "file"
    cache.touch()
    warm = ("warm", lake, "--cache", cache)
    done = run(*warm, "--json")
    assert done.code == 6
    assert done.json["blocks_refused"] == done.json["blocks_fetched"] > 0
    assert "did not take" in done.err
    assert run(*warm).out.startswith("31 files, ")


def test_nothing_of_that_name_is_not_found(tmp_path: Path, run: Run) -> None:
    lake = lake_at(tmp_path / "lake")
    assert run("warm", lake, "--cache", tmp_path / "c", "--prefix", "nowhere").code == 3
