"""Stall accounting: figures that add up, and a verdict that follows from them."""

from __future__ import annotations

import json

import pytest

from lakefeed.feed.feed import Cache, Feed, FeedOptions
from lakefeed.feed.options import bytes_of
from lakefeed.feed.stats import FeedStats, Now, Quantiles, Recorder
from lakefeed.lake.lake import Lake
from tests.feed.lakes import lake_of, some_files

FILES = some_files(200)


def recorded(
    wait: float, compute: float, fetch: float = 0.0, waiting: float = 0.0, verify: float = 0.0
) -> FeedStats:
    recorder = Recorder()
    clock = 100.0
    for _ in range(10):
        recorder.step(clock, clock + wait)
        recorder.delivered(4, 4000, 1)
        clock += wait + compute
    recorder.fetched([fetch, 0.002, 0.001], 50_000, waiting)
    recorder.stage("verify", verify)
    return recorder.facts(Now(occupancy=0.5, workers=3))


def test_waits_and_steps_add_up() -> None:
    stats = recorded(wait=0.25, compute=0.75)
    assert stats.wait_seconds == pytest.approx(2.5)
    assert stats.compute_seconds == pytest.approx(0.75 * 9)
    assert stats.wall_seconds == pytest.approx(stats.wait_seconds + stats.compute_seconds)
    assert stats.stall_share == pytest.approx(2.5 / 9.25)
    assert (stats.samples, stats.sample_bytes, stats.batches) == (40, 40_000, 10)
    assert stats.read_amplification == pytest.approx(1.25)
    assert stats.wait.max == pytest.approx(0.25)
    assert (stats.reads, stats.read.p50, stats.read.max) == (3, 0.001, 0.002)
    assert stats.stages["fetch"] == pytest.approx(0.003)


def test_the_verdict_names_what_limits() -> None:
    model = recorded(wait=0.001, compute=1.0, fetch=9.0, waiting=9.0)
    storage = recorded(wait=0.5, compute=0.5, fetch=9.0, waiting=8.0, verify=1.0)
    processor = recorded(wait=0.5, compute=0.5, fetch=4.0, waiting=0.5, verify=5.0)
    assert [s.limit for s in (model, storage, processor)] == ["model", "storage", "CPU"]
    assert model.verdict.startswith("model-bound: 0%")
    assert "at a time" in storage.verdict
    assert processor.verdict.endswith("in verify")
    reading = recorded(wait=0.5, compute=0.5, fetch=5.0, waiting=0.5, verify=4.0)
    assert reading.verdict.endswith("in fetch")
    assert all(" 4 samples/s" in s.verdict for s in (storage, processor))  # 40 in 9.5 s
    assert "2.00 ms a read (p99 9000.00), 3 at a time" in storage.verdict
    assert all("\n" not in s.verdict for s in (model, storage, processor))


def test_quantiles_are_those_of_the_values() -> None:
    assert Quantiles.of(range(100, -1, -1)) == Quantiles(50, 95, 99, 100)
    assert Quantiles.of([3.0]) == Quantiles(3, 3, 3, 3)
    assert Quantiles.of([]) == Quantiles()


def test_a_feed_counts_what_it_did() -> None:
    with lake_of(FILES) as lake, Feed(lake, "train", FeedOptions(16, epochs=2)) as feed:
        size = sum(batch.data.nbytes for batch in feed)
        stats = feed.stats()
    assert stats.samples == 2 * len(FILES)
    assert stats.sample_bytes == size == 2 * sum(map(len, FILES.values()))
    assert stats.batches == 2 * len(feed) == 26
    assert stats.read_bytes >= size * 0.9
    assert stats.reads > 0
    assert stats.read.max > 0
    assert 0 <= stats.occupancy <= 1
    assert stats.epoch == 1, "the second epoch's number"
    assert stats.inflight == 0
    assert 0 < stats.peak_bytes <= 1 << 30
    assert set(stats.stages) == {"index", "fetch", "verify", "batch"}
    assert json.loads(json.dumps(stats.facts()))["verdict"] == stats.verdict


def test_a_cache_is_used_counted_and_gives_the_same_bytes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with lake_of(FILES) as lake:
        options = FeedOptions(16, cache=Cache(tmp_path / "cache", "64MiB"))
        counts = []
        for _ in range(2):
            with Feed(lake, "train", options) as feed:
                got = {p: d for b in feed for p, d in zip(b.paths, b.bytes(), strict=True)}
                assert got == FILES
                stats = feed.stats()
                counts.append((stats.cache_hits, stats.cache_misses))
    assert counts[0][1] > 0
    assert counts[1][0] > 0
    assert counts[1][1] == 0


def test_a_directory_is_opened_and_closed_with_the_feed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with Lake.create(tmp_path) as lake, lake.writer() as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    with Feed(tmp_path, "train", FeedOptions(16, memory_bytes="64MiB")) as feed:
        assert sum(map(len, feed)) == len(FILES)


def test_sizes_are_numbers_or_words() -> None:
    assert [bytes_of(size, "x") for size in (7, "7", "1GiB", "1.5 kB", "2m")] == [
        7, 7, 1 << 30, 1500, 2_000_000,
    ]  # fmt: skip
    for size in ("", "GiB", "1XB", "-1"):
        with pytest.raises(ValueError, match="bytes"):
            bytes_of(size, "x")
