"""Batches hold the files' own bytes, verified, within the budget; errors come out; threads end."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lakefeed.errors import Corrupt, Invalid, SnapshotExpired, VolumeFailed
from lakefeed.feed import feed as feed_module
from lakefeed.feed.batch import Batch
from lakefeed.feed.buffers import ALIGNMENT_BYTES
from lakefeed.feed.feed import Cache, Feed, FeedOptions
from lakefeed.lake import layout
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from tests.feed.lakes import QUIET, lake_of, some_files
from tests.lake.compacting import AT_ONCE
from tests.lake.tools import compact
from tests.support.descriptors import open_below
from tests.support.faulty import FaultyVolume
from tests.support.threads import Threads

FILES = some_files(100)


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        yield lake


def read(lake: Lake, options: FeedOptions, select: str = "train") -> list[Batch]:
    with Feed(lake.snapshot(), select, options) as feed:
        return list(feed)


@pytest.mark.parametrize("shuffle", ["global", "runs=5", None])
@pytest.mark.parametrize("prefetch", [1, 2, 9])
def test_every_sample_has_its_files_bytes_path_and_label(
    lake: Lake, shuffle: str | None, prefetch: int
) -> None:
    options = FeedOptions(7, shuffle, epochs=2, labels="parent", prefetch=prefetch)
    batches = read(lake, options)
    names = ("class0", "class1", "class2")
    for batch in batches:
        assert batch.labels is not None
        for path, data, label in zip(batch.paths, batch.bytes(), batch.labels, strict=True):
            assert data == FILES[path]
            assert names[label] == path.split("/")[1]
    assert Counter(path for batch in batches for path in batch.paths) == dict.fromkeys(FILES, 2)
    with Feed(lake.snapshot(), "train", options) as feed:
        assert len(batches) == 2 * len(feed)
        assert feed.class_names == names


def test_a_batch_is_one_dense_aligned_buffer(lake: Lake) -> None:
    for batch in read(lake, FeedOptions(16)):
        assert batch.data.dtype == np.uint8
        assert batch.data.ctypes.data % ALIGNMENT_BYTES == 0
        ends = batch.offsets + batch.lengths
        assert batch.offsets[0] == 0
        assert np.array_equal(batch.offsets[1:], ends[:-1])
        assert ends[-1] == len(batch.data)
        views = batch.views()
        assert [bytes(view) for view in views] == batch.bytes()
        assert all(view.readonly for view in views)
        full = next(view for view in views if len(view))
        assert np.shares_memory(np.frombuffer(full, np.uint8), batch.data)


def test_a_batch_stays_valid_when_the_feed_is_gone(lake: Lake) -> None:
    batches = read(lake, FeedOptions(16))
    assert all(b.bytes() == [FILES[p] for p in b.paths] for b in batches)


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(lake: Lake) -> None:
    orders = [[b.paths for b in read(lake, FeedOptions(9, seed=seed))] for seed in (4, 4, 5)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_without_a_shuffle_batches_follow_the_paths(lake: Lake) -> None:
    batches = read(lake, FeedOptions(9, None))
    assert [path for batch in batches for path in batch.paths] == sorted(FILES)


def test_copies_of_a_file_share_its_bytes(lake: Lake) -> None:
    source = max(FILES, key=lambda path: len(FILES[path]))
    with lake.writer(QUIET) as writer:
        writer.copy(source, "copies/one")
        writer.copy(source, "copies/two")
    with Feed(lake.snapshot(), [source, "copies/one", source, "copies/two"]) as feed:
        batch = next(feed)
    assert batch.bytes() == [FILES[source]] * 4


@pytest.mark.parametrize("labels", [None, "parent"])
def test_the_state_is_small_plain_json(lake: Lake, labels: str | None) -> None:
    options = FeedOptions(9, "runs=1000000", (1 << 64) - 1, labels=labels)
    with Feed(lake.snapshot(), "train", options) as feed:
        state = {**next(feed).state, "epoch": 10**12, "position": 10**12, "snapshot": 10**12}
        assert len(json.dumps(state)) < 200
        assert json.loads(json.dumps(feed.state())) == feed.state()


@pytest.mark.parametrize("memory_bytes", [12_000, 40_000, 1 << 20])
def test_what_is_read_ahead_stays_under_the_budget(lake: Lake, memory_bytes: int) -> None:
    options = FeedOptions(2, epochs=2, prefetch=50, memory_bytes=memory_bytes)
    with Feed(lake.snapshot(), "train", options) as feed:
        seen = sum(len(batch) for batch in feed)
        assert seen == 2 * len(FILES)
        assert 0 < feed.peak_bytes <= memory_bytes


@pytest.mark.parametrize("memory_bytes", [1, 5_000])
def test_a_batch_beyond_the_budget_is_refused(lake: Lake, memory_bytes: int) -> None:
    feed = Feed(lake.snapshot(), "train", FeedOptions(100, memory_bytes=memory_bytes))
    with feed, pytest.raises(Invalid, match="memory_bytes"):
        next(feed)


def test_closing_leaves_no_thread_whenever_it_comes(lake: Lake, threads: Threads) -> None:
    for batches in range(4):
        with Feed(lake.snapshot(), "train", FeedOptions(3, epochs=None, prefetch=2)) as feed:
            for _ in range(batches):
                next(feed)
        assert threads.left() == []
        feed.close()
        with pytest.raises(Invalid, match="closed"):
            next(feed)


@pytest.mark.parametrize("step", ["Ahead.start", "Ahead.next", "Recorder.delivered"])
def test_a_feed_that_was_interrupted_in_next_goes_on_where_it_stood(
    lake: Lake, step: str, monkeypatch: pytest.MonkeyPatch, threads: Threads
) -> None:
    owner, name = getattr(feed_module, step.partition(".")[0]), step.partition(".")[2]
    whole = getattr(owner, name)
    calls, tries = count(1), count()

    def interrupted(*arguments: Any) -> Any:
        done = whole(*arguments)
        if next(calls) in (1, 4, 5):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(owner, name, interrupted)
    paths: list[str] = []
    with Feed(lake.snapshot(), "train", FeedOptions(9, prefetch=4)) as feed:
        while len(paths) < len(feed.selection) and next(tries) < 9:
            try:
                for batch in feed:
                    paths += batch.paths
            except KeyboardInterrupt:
                assert threads.left() == []
        assert list(feed) == []
    assert sorted(paths) == sorted(path for path in FILES if path.startswith("train/"))


def test_an_endless_feed_goes_on_into_new_epochs(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", FeedOptions(60, epochs=None)) as feed:
        epochs = [next(feed).cursor.epoch for _ in range(6)]
    assert epochs == [0, 1, 1, 2, 2, 3]


def corrupt_one_payload(directory: Path, data: bytes) -> None:
    for pack in (directory / "packs").rglob("*.pack"):
        content = bytearray(pack.read_bytes())
        at = content.find(data)
        if at > 0:
            content[at] ^= 1
            pack.write_bytes(content)


def test_a_damaged_payload_is_refused_by_name_behind_the_batches_before_it(
    tmp_path: Path, threads: Threads
) -> None:
    files = {f"train/{at:03d}": bytes([at]) * 50 + b"unlike any other" for at in range(40)}
    with lake_of(files, None) as probe:
        order = [path for batch in read(probe, FeedOptions(4)) for path in batch.paths]
    victim = order[22]
    with Lake.create(tmp_path) as lake:
        with lake.writer(QUIET) as writer:
            for path, data in files.items():
                writer.put(path, data)
        corrupt_one_payload(tmp_path, files[victim])
        with Feed(lake.snapshot(), "train", FeedOptions(4, prefetch=1)) as feed:
            paths = [path for _ in range(5) for path in next(feed).paths]
            assert paths == order[:20]
            for _ in range(2):
                with pytest.raises(Corrupt, match=victim):
                    next(feed)
            assert feed.state()["position"] == 20
    assert threads.left() == []


@pytest.mark.slow
def test_whichever_read_fails_comes_out_of_next(threads: Threads) -> None:
    inner = MemoryVolume()
    with lake_of(FILES, inner):
        pass
    fired = []
    while not fired or fired[-1]:
        volume = FaultyVolume(inner, fail_at=len(fired) + 1, verbs={"read"})
        try:
            with Lake.open(volume) as lake:
                assert sum(map(len, read(lake, FeedOptions(10)))) == len(FILES)
        except VolumeFailed:
            assert volume.fired
        fired.append(volume.fired)
        assert threads.left() == []
    assert len(fired) > 10


def test_files_that_compaction_moved_are_found_in_their_new_pack() -> None:
    volume = MemoryVolume()
    with lake_of(FILES, volume) as lake:
        lake.merge_index()
    with Lake.open(volume) as lake, Feed(lake.snapshot(), "train", FeedOptions(10)) as feed:
        assert len(feed.selection) == len(FILES)
        old = list(lake.snapshot().state.packs)
        compact(lake)
        for pack in old:
            volume.unlink(layout.pack_path(pack))
        served = {path: data for b in feed for path, data in zip(b.paths, b.bytes(), strict=True)}
    assert served == FILES


def test_files_that_compaction_moved_are_asked_for_together() -> None:
    """The newest commit is looked for once a window, not once a file."""
    inner = MemoryVolume()
    with lake_of(FILES, inner) as lake:
        lake.merge_index()
        before = lake.snapshot()
        compact(lake)
        for pack in before.state.packs:
            inner.unlink(layout.pack_path(pack))
    volume = FaultyVolume(inner)
    with (
        Lake.open(volume) as lake,
        Feed(lake.snapshot(before.number), "train", FeedOptions(len(FILES))) as feed,
    ):
        assert len(feed.selection) == len(FILES)
        looks = volume.count("refresh")
        assert len(next(feed).paths) == len(FILES)
        assert volume.count("refresh") <= looks + 2


def test_a_damaged_file_that_compaction_moved_spoils_no_other(tmp_path: Path) -> None:
    files = {f"train/{at:03d}": bytes([at]) * 50 + b"unlike any other" for at in range(40)}
    with Lake.create(tmp_path) as lake:
        with lake.writer(QUIET) as writer:
            for path, data in files.items():
                writer.put(path, data)
        lake.merge_index(everything=True)
        before = lake.snapshot()
        compact(lake)
        for pack in before.state.packs:
            (tmp_path / layout.pack_path(pack)).unlink()
        corrupt_one_payload(tmp_path, files.pop("train/007"))
    volume = FaultyVolume(PosixVolume(tmp_path))
    with Lake.open(volume) as lake:
        options = FeedOptions(len(files) + 1, on_corrupt="skip")
        with Feed(lake.snapshot(before.number), "train", options) as feed:
            looks = volume.count("refresh")
            (batch,) = feed
            assert dict(zip(batch.paths, batch.bytes(), strict=True)) == files
            assert feed.stats().corrupt_samples == 1
            # Nor does it make the others be asked for one by one.
            assert volume.count("refresh") - looks < len(files) / 2


@pytest.mark.parametrize("number", [0, 7, 77, 119])
def test_a_file_that_is_nowhere_any_more_ends_a_feed_behind_the_batches_before_it(
    number: int,
) -> None:
    """Others of its window were moved and are found; it is missed, also where damage is skipped."""
    volume = MemoryVolume()
    files = {f"train/{at:03d}": bytes([at]) * 50 for at in range(120)}
    with Lake.create(volume) as lake:
        with lake.writer(QUIET) as writer:
            for path, data in files.items():
                writer.put(path, data)
        lake.merge_index(everything=True)
        before = lake.snapshot()
        with lake.writer(QUIET) as writer:
            writer.put(f"train/{number:03d}", b"newer")
        compact(lake)
        for pack in before.state.packs:
            volume.unlink(layout.pack_path(pack))
    options = FeedOptions(4, None, on_corrupt="skip")
    with (
        Lake.open(volume) as lake,
        Feed(lake.snapshot(before.number), "train", options) as feed,
    ):
        served = [path for _ in range(number // 4) for path in next(feed).paths]
        assert served == list(files)[: number // 4 * 4]
        with pytest.raises(SnapshotExpired, match=f"train/{number:03d}"):
            next(feed)


def test_packs_that_garbage_collection_took_are_missed_by_name() -> None:
    volume = MemoryVolume()
    with lake_of(FILES, volume) as lake:
        lake.merge_index()
    with Lake.open(volume) as lake, Feed(lake.snapshot(), "train", FeedOptions(10)) as feed:
        assert len(feed.selection) == len(FILES)
        with lake.writer(QUIET) as writer:
            for path, data in FILES.items():
                writer.put(path, data)
        lake.merge_index(everything=True)
        compact(lake)
        collect(lake, AT_ONCE)
        with pytest.raises(SnapshotExpired, match="garbage collected"):
            list(feed)


def test_a_budget_may_be_a_number_of_numpys() -> None:
    limits = FeedOptions(memory_bytes=np.int64(1 << 30)).limits  # type: ignore[arg-type]
    assert limits == FeedOptions(memory_bytes="1GiB").limits
    assert type(limits.bytes_max) is int


def test_counts_may_be_numbers_of_numpys(lake: Lake) -> None:
    size, rank, world, epochs, seed = np.array([8, 1, 2, 1, 7])
    options = FeedOptions(
        size, rank=rank, world_size=world, epochs=epochs, prefetch=size, seed=seed
    )
    assert options == FeedOptions(8, rank=1, world_size=2, prefetch=8, seed=7)
    states = [batch.state for batch in read(lake, options)]
    assert json.loads(json.dumps(states)) == states


def test_options_that_cannot_be_are_refused_at_once() -> None:
    for options in ({"batch_size": 0}, {"shuffle": "a bit"}, {"rank": 1}, {"prefetch": 0},
                    {"memory_bytes": 0}, {"labels": "colour"}, {"memory_bytes": 1e9}, {"seed": -1},
                    {"seed": 1 << 64}, {"seed": 0.5}, {"seed": None}, {"batch_size": 8.0},
                    {"batch_size": "8"}, {"batch_size": None}, {"world_size": 2.0}, {"epochs": 0},
                    {"epochs": -1}, {"epochs": 1.5}, {"prefetch": 2.5}, {"prefetch": "2"},
                    {"shuffle": "runs=8,window=16", "window": 64},
                    {"shuffle": True}, {"shuffle": 8}, {"labels": True}, {"labels": 0},
                    {"class_names": 2}, {"class_names": "cat"}, {"class_names": (0, 1)},
                    {"cache": "/local/nvme"}):  # fmt: skip
        with pytest.raises(Invalid):
            FeedOptions(**options)  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_is_refused_at_once() -> None:
    for options in ({"bytes": "much"}, {"bytes": 0}, {"bytes": "15MiB"}, {"block_bytes": 1000},
                    {"block_bytes": "1MiB"}, {"block_bytes": 32 << 20}):  # fmt: skip
        with pytest.raises(Invalid, match="cache"):
            Cache("/local/nvme", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("cached", [False, True])
def test_i9_a_closed_feed_keeps_no_file_open(tmp_path: Path, cached: bool) -> None:
    files = some_files(30)
    with lake_of(files, PosixVolume(tmp_path / "lake")) as lake:
        where = str(tmp_path / "lake")
        cache = Cache(tmp_path / "cache", "64MiB") if cached else None
        before = open_below(tmp_path)
        with Feed(where, "train", FeedOptions(8, cache=cache)) as feed:
            assert sum(len(batch) for batch in feed) == len(files)
        assert open_below(tmp_path) == before
        assert lake.snapshot().number == 3


def test_a_feed_that_is_dropped_leaves_neither_threads_nor_files(tmp_path: Path) -> None:
    with lake_of(some_files(30), PosixVolume(tmp_path)):
        before, threads = open_below(tmp_path), Threads()
        feed = Feed(str(tmp_path), "train", FeedOptions(8, epochs=None))
        next(feed)
        assert threads.running()
        del feed
        gc.collect()
        assert threads.left() == []
        until = time.monotonic() + 120.0
        while open_below(tmp_path) != before and time.monotonic() < until:
            gc.collect()  # what stopped them may hold the lake a moment longer
        assert open_below(tmp_path) == before
