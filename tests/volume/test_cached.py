"""The cache keeps every promise of a volume, trusts nothing it holds, and stays in its bound."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed.errors import Invalid, VolumeFailed
from lakefeed.format.checksum import crc32c
from lakefeed.volume import cached as cached_module
from lakefeed.volume import fetches as fetches_module
from lakefeed.volume.base import Volume, write_file
from lakefeed.volume.cached import PIECE_BYTES, BlockCache, CachedVolume
from lakefeed.volume.fetches import Fetches
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.metered import Meter, MeteredReadableFile, MeteredVolume
from lakefeed.volume.posix import PosixVolume
from tests.volume.conformance import VolumePromises

BLOCK = 4 * PIECE_BYTES


def cache_at(where: Path, blocks: int = 64) -> BlockCache:
    return BlockCache(where, blocks * BLOCK, BLOCK, crc32c)


class TestCachedMemory(VolumePromises):
    @pytest.fixture
    def volume(self, tmp_path: Path) -> Volume:
        return CachedVolume(MemoryVolume(), cache_at(tmp_path), lambda path: True)


class Rig:
    """A file of two and a half blocks behind a meter and a cache."""

    def __init__(self, where: Path, blocks: int = 64) -> None:
        self.meter = Meter()
        self.data = os.urandom(2 * BLOCK + BLOCK // 2 + 7)
        self.inner = MemoryVolume()
        write_file(self.inner, "packs/a", self.data)
        self.where = where
        self.cache = cache_at(where, blocks)
        metered = MeteredVolume(self.inner, self.meter)
        self.volume = CachedVolume(metered, self.cache, lambda path: path.startswith("packs/"))

    def read(self, offset: int, *lengths: int) -> bytes:
        parts = [memoryview(bytearray(length)) for length in lengths]
        with self.volume.open("packs/a") as file:
            assert file.read_into(offset, parts) == sum(lengths)
            assert file.read_at(offset, sum(lengths)) == b"".join(parts)
        return b"".join(parts)

    def fetched_bytes(self) -> int:
        readings = self.meter.readings()
        return readings["read"].transferred_bytes if "read" in readings else 0

    def blocks(self) -> list[Path]:
        return sorted(path for path in self.where.rglob("*") if path.is_file())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.mark.parametrize(
    ("offset", "lengths"),
    [(0, (1,)), (0, (2 * BLOCK + BLOCK // 2 + 7,)), (PIECE_BYTES - 1, (2,)),
     (BLOCK - 5, (3, 9, 70_000)), (2 * BLOCK + BLOCK // 2, (7,)), (BLOCK, (BLOCK,)), (9, (0,))],
)  # fmt: skip
def test_bytes_are_the_volumes_whatever_is_asked(
    rig: Rig, offset: int, lengths: tuple[int, ...]
) -> None:
    expected = rig.data[offset : offset + sum(lengths)]
    assert rig.read(offset, *lengths) == expected
    fetched = rig.fetched_bytes()
    assert rig.read(offset, *lengths) == expected
    assert rig.fetched_bytes() == fetched
    again = cache_at(rig.where)
    rig.volume = CachedVolume(MeteredVolume(rig.inner, rig.meter), again, lambda path: True)
    assert rig.read(offset, *lengths) == expected
    assert rig.fetched_bytes() == fetched
    assert again.counts()[1] == 0


def test_only_chosen_files_are_kept(rig: Rig) -> None:
    write_file(rig.inner, "log/1", b"x" * 100)
    with rig.volume.open("log/1") as file:
        assert file.read_at(0, 100) == b"x" * 100
    assert rig.blocks() == []


@pytest.mark.parametrize("at", [0, 5, 13, 17, 40, -1])
def test_a_damaged_block_is_fetched_anew(rig: Rig, at: int) -> None:
    rig.read(0, BLOCK)
    (block,) = rig.blocks()
    content = bytearray(block.read_bytes())
    content[at] ^= 1
    block.write_bytes(content)
    assert rig.read(0, BLOCK) == rig.data[:BLOCK]
    assert rig.fetched_bytes() == 2 * BLOCK
    assert rig.cache.failures == 1
    assert rig.read(0, BLOCK) == rig.data[:BLOCK]
    assert rig.fetched_bytes() == 2 * BLOCK


def test_distrusted_bytes_are_fetched_anew_and_no_others(rig: Rig) -> None:
    rig.read(0, len(rig.data))
    fetched = rig.fetched_bytes()
    with rig.volume.open("packs/a") as file:
        assert file.distrust(BLOCK - 1, 2)
        assert len(rig.blocks()) == 1
        assert file.read_at(0, len(rig.data)) == rig.data
    assert rig.fetched_bytes() == fetched + 2 * BLOCK


@pytest.mark.parametrize("length", [0, 3, 16, 100, BLOCK])
def test_a_block_cut_by_a_power_cut_is_fetched_anew(rig: Rig, length: int) -> None:
    rig.read(0, BLOCK)
    (block,) = rig.blocks()
    block.write_bytes(block.read_bytes()[:length])
    assert rig.read(0, BLOCK) == rig.data[:BLOCK]


def test_what_a_killed_writer_left_harms_nothing(rig: Rig) -> None:
    rig.read(0, BLOCK)
    (block,) = rig.blocks()
    block.rename(block.with_name(block.name + ".0123.tmp"))
    assert rig.read(0, BLOCK) == rig.data[:BLOCK]


def test_a_local_disk_that_refuses_costs_no_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a directory")
    rig = Rig(tmp_path / "file")
    assert rig.read(3, BLOCK) == rig.data[3 : BLOCK + 3]
    assert rig.cache.failures > 0
    assert rig.cache.refused == 4  # two blocks, read twice


def test_a_block_that_cannot_be_read_is_fetched_anew(rig: Rig) -> None:
    rig.read(0, BLOCK)
    (block,) = rig.blocks()
    block.unlink()
    block.symlink_to(block)
    assert rig.read(0, BLOCK) == rig.data[:BLOCK]
    assert rig.fetched_bytes() == 2 * BLOCK
    assert (rig.cache.failures, rig.cache.refused) == (1, 0)


def test_a_process_without_descriptors_removes_no_sound_block(rig: Rig) -> None:
    rig.read(0, BLOCK)
    held = rig.blocks()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        assert rig.read(0, BLOCK) == rig.data[:BLOCK]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert rig.blocks() == held
    fetched = rig.fetched_bytes()
    assert rig.read(0, BLOCK) == rig.data[:BLOCK]
    assert rig.fetched_bytes() == fetched


@pytest.mark.parametrize("mode", [None, 0o755])
def test_nobody_else_reads_what_a_cache_keeps_unless_its_directory_was_made_so(
    tmp_path: Path, mode: int | None
) -> None:
    where = tmp_path / "above/cache"
    if mode is not None:
        where.mkdir(parents=True)
        where.chmod(mode)
    cache = cache_at(where)
    cache.keep("packs/a", 0, memoryview(b"x" * BLOCK))
    assert cache.find("packs/a", 0, BLOCK, memoryview(bytearray(BLOCK)), 0)
    assert stat.S_IMODE(where.stat().st_mode) == (mode or 0o700)


def test_the_cache_stays_in_its_bound(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, 32)
    volume = MemoryVolume()
    write_file(volume, "packs/big", os.urandom(BLOCK * 48))
    cached = CachedVolume(volume, cache, lambda path: True)
    with cached.open("packs/big") as file:
        for block in range(48):
            file.read_at(block * BLOCK, 10)
            assert cache.held_bytes() <= 32 * BLOCK
        assert cache.held_bytes() > 20 * BLOCK
        before = cache.counts()[0]
        for block in range(48):
            file.read_at(block * BLOCK, 10)
        # An epoch in the same order again: an order of age would have kept nothing of use.
        assert cache.counts()[0] - before > 5


def test_a_cache_counts_its_blocks_now_and_then_and_overshoots_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it wrote so much; the first time at once, for others may have filled it."""
    monkeypatch.setattr(cached_module, "_RECOUNT_SHARE", 4)
    cache, usual, counts = cache_at(tmp_path, 32), BlockCache._names, []

    def names(cache: BlockCache) -> Iterator[str]:
        counts.append(written)
        return usual(cache)

    monkeypatch.setattr(BlockCache, "_names", names)
    for written in range(1, 49):
        cache.keep("packs/a", written, memoryview(bytes(BLOCK)))
        assert sum(1 for _ in usual(cache)) <= 32 + 8
    assert counts == [1, 9, 17, 25, 33, 41]


def test_a_cache_that_was_full_once_does_not_look_half_empty_for_having_made_room(
    tmp_path: Path,
) -> None:
    cache = cache_at(tmp_path, 16)
    for block in range(15):
        cache.keep("packs/a", block, memoryview(bytes(BLOCK)))
    assert cache.held_bytes() < 14 * BLOCK < cache.filled_bytes
    cache.keep("packs/a", 15, memoryview(bytes(BLOCK)))
    assert cache.held_bytes() < 15 * BLOCK < cache.filled_bytes


def test_caches_of_different_blocks_in_one_directory_leave_each_other_theirs(
    tmp_path: Path,
) -> None:
    caches = [BlockCache(tmp_path, 64 * BLOCK, size, crc32c) for size in (BLOCK, 4 * BLOCK)]
    for cache in caches:
        cache.keep("packs/a", 0, memoryview(bytes(cache.block_bytes)))
    for cache in caches * 2:
        assert cache.find("packs/a", 0, cache.block_bytes, memoryview(bytearray(9)), 0)
        assert cache.failures == 0
    for cache in reversed(caches):
        for block in range(128 * BLOCK // cache.block_bytes):
            cache.keep("packs/a", block, memoryview(bytes(cache.block_bytes)))
    assert 32 * BLOCK < caches[0].held_bytes() < 64 * BLOCK


def test_a_cache_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="block_bytes"):
        BlockCache(tmp_path, 1 << 30, 1000, crc32c)
    with pytest.raises(Invalid, match="16 blocks"):
        BlockCache(tmp_path, BLOCK, BLOCK, crc32c)


def test_a_block_that_somebody_takes_to_make_room_was_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, usual = cache_at(tmp_path), PosixVolume.replace

    def replace(disk: PosixVolume, source: str, target: str) -> None:
        disk.unlink(source)
        usual(disk, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(PosixVolume, "replace", replace)
        cache.keep("packs/a", 0, memoryview(bytes(BLOCK)))
    assert (cache.refused, cache.failures, cache.filled_bytes) == (0, 0, 0)
    cache.keep("packs/a", 0, memoryview(bytes(BLOCK)))
    assert BLOCK < cache.filled_bytes < 2 * BLOCK


class SideBySide:
    """Two readers of one block; the volume answers the first one only when the second waits."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rig = rig
        self.asked, self.answer = threading.Event(), threading.Event()
        self.failing = False
        usual, wait = MeteredReadableFile.read_into, Fetches.wait

        def slowly(file: MeteredReadableFile, *args: Any) -> int:
            if not self.asked.is_set():
                self.asked.set()
                assert self.answer.wait(60)
                if self.failing:
                    raise VolumeFailed("read")
            return usual(file, *args)

        def waiting(fetches: Fetches, *args: Any) -> None:
            if fetches_module.PATIENCE_SECONDS:
                self.answer.set()
            wait(fetches, *args)

        monkeypatch.setattr(MeteredReadableFile, "read_into", slowly)
        monkeypatch.setattr(Fetches, "wait", waiting)
        monkeypatch.setattr(fetches_module, "PATIENCE_SECONDS", 60.0)

    def read(self) -> tuple[Future[bytes], bytes]:
        """Return what the first reader gets, and the second one's bytes."""
        with ThreadPoolExecutor(1) as pool:
            try:
                first = pool.submit(self.rig.read, 5, 10)
                assert self.asked.wait(60)
                return first, self.rig.read(BLOCK - 5, 10)
            finally:
                self.answer.set()


def test_readers_side_by_side_fetch_a_block_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SideBySide(rig, monkeypatch).read()
    assert (first.result(), second) == (rig.data[5:15], rig.data[BLOCK - 5 : BLOCK + 5])
    assert rig.fetched_bytes() == 2 * BLOCK


def test_a_reader_fetches_what_another_one_could_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = SideBySide(rig, monkeypatch)
    both.failing = True
    first, second = both.read()
    assert second == rig.data[BLOCK - 5 : BLOCK + 5]
    with pytest.raises(VolumeFailed):
        first.result()


def test_a_fetch_that_hangs_keeps_nobody_waiting(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    both = SideBySide(rig, monkeypatch)
    monkeypatch.setattr(fetches_module, "PATIENCE_SECONDS", 0.0)
    first, second = both.read()
    assert (first.result(), second) == (rig.data[5:15], rig.data[BLOCK - 5 : BLOCK + 5])


class Late(threading.Event):
    """The end of a fetch that does not come: a wait takes all its time, by a clock of its own."""

    now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass."""
        assert timeout is not None
        Late.now += timeout
        return False


def test_all_that_others_fetch_is_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "now", 0.0)
    monkeypatch.setattr(fetches_module, "time", SimpleNamespace(monotonic=lambda: Late.now))
    fetches = Fetches()
    for block in range(64):
        assert fetches.begin("packs/a", block) is None
    fetches.wait("packs/a", {block: Late() for block in range(64)})
    assert Late.now == fetches_module.PATIENCE_SECONDS
    assert all(fetches.of("packs/a", block) is None for block in range(64))


def test_what_others_could_not_fetch_is_one_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fetches = rig.cache.fetches
    for block in (0, 1, 2):
        assert fetches.begin("packs/a", block) is None
    monkeypatch.setattr(fetches_module, "PATIENCE_SECONDS", 0.0)
    with rig.volume.open("packs/a") as file:
        assert file.read_at(0, len(rig.data)) == rig.data
    assert rig.meter.readings()["read"].calls == 1


def test_a_forked_child_waits_for_no_fetch_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    fetches = Fetches()
    assert fetches.begin("packs/a", 0) is None
    monkeypatch.setattr(fetches_module, "os", SimpleNamespace(getpid=lambda: -1))
    assert fetches.of("packs/a", 0) is None
    assert fetches.begin("packs/a", 0) is None
    assert fetches.begin("packs/a", 0) is not None
