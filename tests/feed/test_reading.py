"""Reads that fail, hang, straggle or bring damaged bytes: the right samples or the right error."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lakefeed.errors import Corrupt, Invalid, VolumeFailed
from lakefeed.feed import assembly, fetching, tuning
from lakefeed.feed.batch import Batch
from lakefeed.feed.feed import Cache, Feed, FeedOptions
from lakefeed.feed.indexed import Indexed
from lakefeed.feed.labels import NO_LABEL
from lakefeed.feed.stats import Recorder
from lakefeed.feed.table import Rows
from lakefeed.format.checksum import crc32c
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.volume.memory import MemoryVolume
from tests.feed.lakes import QUIET, lake_of, some_files
from tests.feed.volumes import Failing, TroubledVolume, slow_volume
from tests.lake.tools import compact
from tests.support.faulty import FaultyVolume
from tests.support.threads import Threads

FILES = some_files(200)


@pytest.fixture(scope="module")
def volume() -> MemoryVolume:
    volume = MemoryVolume()
    with lake_of(FILES, volume) as lake:
        lake.merge_index(everything=True)
    return volume


def served(feed: Feed) -> dict[str, bytes]:
    return {path: data for b in feed for path, data in zip(b.paths, b.bytes(), strict=True)}


@pytest.mark.parametrize("shuffle", ["global", "runs=16", None])
def test_verifying_by_batch_and_one_by_one_give_the_same_bytes(
    volume: MemoryVolume, shuffle: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = []
    for small_bytes in (0, 1 << 20):
        monkeypatch.setattr(assembly, "_SMALL_BYTES", small_bytes)
        monkeypatch.setattr(assembly, "_WORTH_BYTES", 0)
        with Lake.open(volume) as lake, Feed(lake, "train", FeedOptions(30, shuffle)) as feed:
            batches = [(b.paths, b.bytes(), b.splits.tolist()) for b in feed]
        assert {
            p: d for paths, data, _ in batches for p, d in zip(paths, data, strict=True)
        } == FILES
        ways.append(batches)
    assert ways[0] == ways[1]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_by_itself_is_tried_again(
    volume: MemoryVolume, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 0.001)
    troubled = TroubledVolume(volume, Failing(3, number))
    with Lake.open(troubled) as lake, Feed(lake, "train", FeedOptions(30)) as feed:
        assert served(feed) == FILES
        retries = feed.stats().retries
    # Of two ESTALE in a row the first costs only a new handle.
    assert sum(retries.values()) in ((1, 2) if number == errno.ESTALE else (3,))
    assert set(retries) == {errno.errorcode[number]}


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True], ids=["where it was", "in another pack"])
def test_whatever_is_read_is_tried_again(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index and what compaction moved as well: each time another call fails, once."""
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 0.001)
    files, inner = some_files(24), MemoryVolume()
    with lake_of(files, inner) as lake:
        lake.merge_index(everything=True)
        number, packs = lake.snapshot().number, list(lake.snapshot().state.packs)
        if moved:
            compact(lake)
            for pack in packs:
                inner.unlink(layout.pack_path(pack))
    for later in itertools.count(1, 3):
        volume = FaultyVolume(inner, verbs={"read", "open"})
        with Lake.open(volume) as lake, Feed(lake.snapshot(number), "train") as feed:
            assert len(feed.selection) == len(files)
            volume.fail_at = volume.count("read", "open") + later
            assert sorted(feed_bytes(feed)) == sorted(files.values())
        if not volume.fired:
            break
    assert later > 5


@pytest.mark.slow
def test_a_batchs_paths_are_looked_up_with_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever has the batch, also when the feed is closed but the lake is not."""
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 0.001)
    inner = MemoryVolume()
    with lake_of(some_files(24), inner) as lake:
        lake.merge_index(everything=True)
    for later in range(1, 4):
        volume = FaultyVolume(inner, verbs={"read", "open"})
        with Lake.open(volume) as lake:
            with Feed(lake.snapshot(), "train", FeedOptions(24)) as feed:
                batch = next(feed)
            volume.fail_at = volume.count("read", "open") + later
            assert len(set(batch.paths)) == 24
        if not volume.fired:
            break
    assert later > 1


def feed_bytes(feed: Feed) -> list[bytes]:
    return [data for batch in feed for data in batch.bytes()]


@pytest.mark.parametrize(("times", "number"), [(10**9, errno.EIO), (1, errno.EACCES)])
def test_what_does_not_pass_comes_out_of_next(
    volume: MemoryVolume, times: int, number: int, monkeypatch: pytest.MonkeyPatch, threads: Threads
) -> None:
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 0.001)
    troubled = TroubledVolume(volume, Failing(times, number))
    with Lake.open(troubled) as lake, Feed(lake, "train", FeedOptions(30)) as feed:
        for _ in range(2):
            with pytest.raises(VolumeFailed) as caught:
                list(feed)
            assert caught.value.errno == number
    assert threads.left() == []


@pytest.mark.slow
def test_closing_does_not_wait_for_a_volume_that_hangs(
    volume: MemoryVolume, threads: Threads
) -> None:
    release, hanging = threading.Event(), threading.Event()

    def hang(path: str, offset: int) -> None:
        hanging.set()
        release.wait(60)

    with Lake.open(TroubledVolume(volume, hang)) as lake:
        feed = Feed(lake, "train", FeedOptions(30))
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(next, feed)
            assert hanging.wait(30)
            began = time.perf_counter()
            feed.close()
            # Hardly more than the patience with a call; generous for a busy machine, far from 60 s.
            assert time.perf_counter() - began < 10
            with pytest.raises(Invalid, match="closed"):
                taken.result(30)
        release.set()
    assert threads.left() == []


def test_a_pause_before_another_try_ends_with_the_feed(
    volume: MemoryVolume, threads: Threads
) -> None:
    failing = Failing(10**9, errno.EIO)
    with Lake.open(TroubledVolume(volume, failing)) as lake:
        feed = Feed(lake, "train", FeedOptions(30))
        closer = threading.Timer(0.02, feed.close)
        closer.start()
        with pytest.raises((VolumeFailed, Invalid)):
            next(feed)
        closer.join(30)
        feed.close()
    assert threads.left() == []


def test_nothing_is_begun_once_the_feed_is_closed() -> None:
    closed = threading.Event()
    patience = fetching.Patience(closed, Recorder(None))
    assert patience.run(lambda: 7) == 7
    closed.set()
    with pytest.raises(fetching.Stopped):
        patience.run(lambda: 7)


@pytest.mark.slow
def test_big_neighbours_share_reads_where_a_mixed_window_fits_into_the_budget() -> None:
    volume = MemoryVolume()
    with Lake.create(volume) as lake, lake.writer(QUIET) as writer:
        for at in range(1024):
            writer.put(f"train/{at:04d}", bytes([at % 251]) * 40_000)
    slow = slow_volume(volume, 2e-3)
    # 128 samples are 5 MB: a quarter of 64 MiB holds them.
    options = FeedOptions(16, "runs=32", window=128, memory_bytes="64MiB", epochs=2)
    with Lake.open(slow) as lake, Feed(lake, "train", options) as feed:
        assert sum(map(len, feed)) == 2048
        stats = feed.stats()
        assert feed.peak_bytes <= 64 << 20
    assert stats.reads < 0.25 * 2048
    assert stats.read_bytes < 1.5 * stats.sample_bytes


@pytest.mark.slow
def test_a_straggler_is_overtaken(monkeypatch: pytest.MonkeyPatch, threads: Threads) -> None:
    """One read of one pack hangs until the feed is through: the others' answers must do."""
    volume = MemoryVolume()
    files = {f"train/{at:04d}": bytes([at % 251]) * 3000 for at in range(1200)}
    with Lake.create(volume) as lake, lake.writer(QUIET) as writer:
        for path, data in files.items():
            writer.put(path, data)
    monkeypatch.setattr(tuning, "_GAP_BYTES_MIN", 0)
    monkeypatch.setattr(tuning, "_GAP_BYTES_MAX", 0)
    release, counted, lock = threading.Event(), [0], threading.Lock()

    def hang_once(path: str, offset: int) -> None:
        with lock:
            counted[0] += 1
            mine = counted[0] == 700
        if mine:
            release.wait(60)

    slow = slow_volume(volume, 2e-3)
    options = FeedOptions(20, epochs=2)
    with Lake.open(TroubledVolume(slow, hang_once)) as lake, Feed(lake, "train", options) as feed:
        seen = Counter(path for batch in feed for path in batch.paths)
        stats = feed.stats()
        release.set()
    assert seen == dict.fromkeys(files, 2)
    assert stats.hedges >= 1
    assert stats.workers > 4
    assert threads.left() == []


def damaged_lake(where: Path, victims: list[int]) -> dict[str, bytes]:
    files = {f"train/{at % 3}/{at:03d}": b"%03d unlike any other" % at * 9 for at in range(60)}
    with Lake.create(where) as lake, lake.writer(QUIET) as writer:
        for path, data in files.items():
            writer.put(path, data)
    (pack,) = (where / "packs").rglob("*.pack")
    content = pack.read_bytes()
    for victim in victims:
        content = content.replace(b"%03d unlike" % victim, b"%03d UNLIKE" % victim, 1)
    pack.write_bytes(content)
    return {path: data for path, data in files.items() if int(path[-3:]) not in victims}


@pytest.mark.parametrize("small_bytes", [0, 1 << 20], ids=["one by one", "by batch"])
@pytest.mark.parametrize("last", ["keep", "pad", "repeat"])
def test_damaged_samples_are_skipped_counted_and_named(
    tmp_path: Path, last: str, small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "_SMALL_BYTES", small_bytes)
    monkeypatch.setattr(assembly, "_WORTH_BYTES", 0)
    good = damaged_lake(tmp_path, [7, 8, 41])
    options = FeedOptions(16, last=last, labels="parent", on_corrupt="skip")  # type: ignore[arg-type]
    batches: list[Batch] = []
    with Lake.open(tmp_path) as lake, Feed(lake, "train", options) as feed:
        for batch in feed:
            batches.append(batch)
            assert batch.labels is not None
            for path, data, label in zip(batch.paths, batch.bytes(), batch.labels, strict=True):
                if label == NO_LABEL:
                    assert not data
                else:
                    assert (data, label) == (good[path], int(path[6]))
        stats = feed.stats()
    names = {name for batch in batches for name in batch.corrupt}
    assert names == {"train/1/007", "train/2/008", "train/2/041"}
    assert stats.corrupt_samples == sum(len(batch.corrupt) for batch in batches)
    if last == "keep":
        assert sum(map(len, batches)) == sum(batch.real for batch in batches) == len(good)
    else:
        assert {len(batch) for batch in batches} == {16}


def test_a_damaged_sample_stops_the_feed_unless_it_is_skipped(tmp_path: Path) -> None:
    damaged_lake(tmp_path, [41])
    with Feed(tmp_path, "train", FeedOptions(16)) as feed, pytest.raises(Corrupt, match="2/041"):
        list(feed)


@pytest.mark.parametrize("victim", [0, 3, 4, 133, 199])
def test_damage_in_the_index_comes_behind_the_batches_before_it(
    volume: MemoryVolume, victim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they would have been planned together with the one that it concerns."""
    usual = Indexed.rows

    def rows(selection: Indexed, numbers: np.ndarray) -> Rows:
        if victim in numbers:
            raise Corrupt("a group of the index")
        return usual(selection, numbers)

    monkeypatch.setattr(Indexed, "rows", rows)
    with Lake.open(volume) as lake, Feed(lake, "train", FeedOptions(4, None)) as feed:
        for _ in range(victim // 4):
            next(feed)
        with pytest.raises(Corrupt, match="a group of the index"):
            next(feed)


def test_an_empty_sample_with_a_checksum_of_something_is_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = MemoryVolume()
    with monkeypatch.context() as patch:
        patch.setattr("lakefeed.format.payload.crc32c", lambda data: crc32c(data) or 1)
        with lake_of(FILES, wrong):
            pass
    whole = {path: data for path, data in FILES.items() if data}
    with Lake.open(wrong) as lake:
        with Feed(lake, "train", FeedOptions(16, on_corrupt="skip")) as feed:
            assert served(feed) == whole
            assert feed.stats().corrupt_samples == len(FILES) - len(whole)
        with Feed(lake, "train", FeedOptions(16)) as feed, pytest.raises(Corrupt):
            list(feed)


@pytest.mark.parametrize("small_bytes", [0, 1 << 20], ids=["one by one", "by batch"])
def test_bytes_that_came_damaged_into_a_cache_are_read_once_more(
    tmp_path: Path, small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "_SMALL_BYTES", small_bytes)
    monkeypatch.setattr(assembly, "_WORTH_BYTES", 0)
    where = tmp_path / "lake"
    good = damaged_lake(where, [7, 41])
    cache = Cache(tmp_path / "cache", "64MiB")
    with Feed(where, "train", FeedOptions(16, on_corrupt="skip", cache=cache)) as feed:
        assert served(feed) == good
        assert feed.stats().corrupt_samples == 2
    (pack,) = (where / "packs").rglob("*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"UNLIKE", b"unlike"))
    for _ in range(2):
        with Feed(where, "train", FeedOptions(16, cache=cache)) as feed:
            assert len(served(feed)) == 60
            misses = feed.stats().cache_misses
    assert misses == 0  # what came the second time was kept


def test_every_batch_is_as_long_as_the_last_with_padding(volume: MemoryVolume) -> None:
    with Lake.open(volume) as lake:
        for last in ("pad", "repeat"):
            seen: list[str] = []
            for rank in range(3):
                options = FeedOptions(9, last=last, rank=rank, world_size=3)  # type: ignore[arg-type]
                with Feed(lake, "train", options) as feed:
                    assert len(feed) == 8
                    batches = list(feed)
                assert [len(batch) for batch in batches] == [9] * 8
                for batch in batches:
                    seen += batch.paths[: batch.real]
                    rest = batch.paths[batch.real :]
                    assert (set(rest) <= {""}) == (last == "pad" or not rest)
            assert Counter(seen) == dict.fromkeys(FILES, 1)


def test_a_batch_is_an_arrow_array_over_the_same_buffer(volume: MemoryVolume) -> None:
    with Lake.open(volume) as lake, Feed(lake, "train", FeedOptions(30)) as feed:
        batch = next(feed)
        array = batch.arrow()
        assert array.to_pylist() == batch.bytes()
        assert array.buffers()[2].address == batch.data.ctypes.data
        kept = array.slice(3, 2)
        expected = kept.to_pylist()
        batch.release()
        list(feed)
        assert kept.to_pylist() == expected
        with pytest.raises(Exception, match="released"):
            batch.views()


def test_buffers_come_from_the_allocator(volume: MemoryVolume) -> None:
    made: list[np.ndarray] = []

    def allocate(size_bytes: int) -> object:
        raw = np.empty(size_bytes + 64, np.uint8)
        made.append(raw)
        return raw[-raw.ctypes.data % 64 :]

    options = FeedOptions(30, None, allocate=allocate)
    with Lake.open(volume) as lake, Feed(lake, "train", options) as feed:
        for batch in feed:
            address = batch.data.ctypes.data
            assert any(a.ctypes.data <= address < a.ctypes.data + len(a) for a in made)
