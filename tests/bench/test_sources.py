"""Every source gives every rank its share of the same bytes."""

from __future__ import annotations

import multiprocessing
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.bench import preparing
from lakefeed.bench.emulation import Delays, shared_state
from lakefeed.bench.opening import opened
from lakefeed.bench.preparing import Contents
from lakefeed.bench.reading_archives import ArchiveSource
from lakefeed.bench.reading_files import PlainSource, find_files, select_files
from lakefeed.bench.real import _payloads as payloads_of
from lakefeed.bench.sources import Reading, Spec
from lakefeed.errors import Corrupt, Invalid, NotFound


@pytest.fixture(scope="module")
def copies(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The lake's samples in every other format."""
    root = tmp_path_factory.mktemp("copies")
    made = {"lake": lake}
    with Lake.open(lake) as opened_lake:
        for kind in ("plain", "tfrecord", "webdataset"):
            made[kind] = root / kind
            made[kind].mkdir()
            preparing.copy_out(opened_lake.snapshot(), Spec(kind), made[kind], 1)
    return made


@pytest.fixture(scope="module")
def truth(lake: Path) -> list[bytes]:
    with Lake.open(lake) as opened_lake:
        snapshot = opened_lake.snapshot()
        paths = [path for table in snapshot.find() for path in table["path"].to_pylist()]
        return sorted(snapshot.get(path) for path in paths if path.endswith(".bin"))


def spec(kind: str, where: Path, **more: Any) -> Spec:
    return Spec(kind, str(where), batch_size=10, sample_bytes=3000, **more)


def epoch_of(kind: str, where: Path, rank: int, world_size: int) -> list[bytes]:
    # Several threads would take turns at shards of unlike lengths.
    reading = Reading(read_threads=1)
    with opened(spec(kind, where, world_size=world_size, reading=reading), rank) as source:
        batches = list(islice(source.batches(), 20 // world_size))
        assert all(batch.samples == 10 for batch in batches)
        samples = [bytes(data) for batch in batches for data in payloads_of(batch)]
        assert sum(batch.size_bytes for batch in batches) == sum(map(len, samples))
        assert source.read_bytes() >= sum(map(len, samples))
        assert source.reads() > 0
    return samples


@pytest.mark.parametrize("kind", ["lake", "plain", "webdataset"])
def test_an_epoch_is_every_sample_once(
    kind: str, copies: dict[str, Path], truth: list[bytes]
) -> None:
    assert sorted(epoch_of(kind, copies[kind], 0, 1)) == truth


def test_tfrecords_hold_every_sample(copies: dict[str, Path], truth: list[bytes]) -> None:
    records = epoch_of("tfrecord", copies["tfrecord"], 0, 1)
    assert len(records) == len(truth)
    for data in truth[:20]:
        assert sum(data in record for record in records) == 1


@pytest.mark.parametrize("kind", ["lake", "plain"])
def test_ranks_share_an_epoch(kind: str, copies: dict[str, Path], truth: list[bytes]) -> None:
    shares = [epoch_of(kind, copies[kind], rank, 2) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == truth


def test_plain_files_are_mixed_by_the_seed(copies: dict[str, Path]) -> None:
    orders = []
    for seed in (1, 1, 2):
        with opened(spec("plain", copies["plain"], reading=Reading(seed=seed)), 0) as source:
            orders.append(payloads_of(next(source.batches())))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("select", ["a", "a/*", "a/**", "**/*.bin", "[a]/?.bin"])
def test_plain_files_are_selected_as_a_lakes_are(select: str, tmp_path: Path) -> None:
    for name in ("a/1.bin", "a/2.bin", "b/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = select_files(str(tmp_path), select)
    assert [os.path.relpath(path, tmp_path) for path in found] == ["a/1.bin", "a/2.bin"]
    with pytest.raises(NotFound, match=r"x\*"):
        select_files(str(tmp_path), "x*")


def test_links_to_nothing_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "1.bin").write_bytes(b"1")
    (tmp_path / "2.bin").symlink_to("1.bin")
    (tmp_path / "3.bin").symlink_to("none")
    (tmp_path / "4.bin").symlink_to(".")
    assert find_files(str(tmp_path)) == [str(tmp_path / "1.bin"), str(tmp_path / "2.bin")]


@pytest.mark.parametrize("kind", ["plain", "webdataset"])
def test_as_many_batches_are_read_ahead_as_are_asked_for(
    kind: str, copies: dict[str, Path]
) -> None:
    seen = []
    for prefetch in (1, 8):
        reading = Reading(prefetch=prefetch, read_threads=1)
        with opened(spec(kind, copies[kind], reading=reading), 0) as source:
            next(source.batches())
            if kind == "plain":
                assert isinstance(source, PlainSource)
                seen.append(len(source._ahead))
            else:
                assert isinstance(source, ArchiveSource)
                seen.append(source.ready_max // 10)
    assert seen == [1, 8]


@pytest.mark.parametrize("kind", ["tfrecord", "webdataset"])
def test_small_data_has_a_shard_for_each_of_many_ranks(
    kind: str, lake: Path, tmp_path: Path
) -> None:
    with Lake.open(lake) as opened_lake:
        preparing.copy_out(opened_lake.snapshot(), Spec(kind), tmp_path, 8)
    assert len(list(tmp_path.iterdir())) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "tfrecord", "webdataset"])
@pytest.mark.parametrize("biggest", [1000, 1 << 20])
def test_each_sample_that_is_copied_may_take_its_time(
    kind: str, biggest: int, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Big samples are read in pieces, thousands of them in one part of an export."""
    monkeypatch.setattr("lakefeed.transfer.exporting.READ_BYTES", biggest)
    monkeypatch.setattr("lakefeed.lake.view.PIECE_BYTES", biggest)
    told: list[float] = []
    with Lake.open(lake) as opened_lake:
        snapshot = opened_lake.snapshot()
        preparing.copy_out(snapshot, Spec(kind), tmp_path, 8, lambda: told.append(0))
        total = preparing.contents(snapshot, "")
    assert len(told) >= max(total.samples, total.bytes // biggest)


def test_the_null_source_costs_no_reads() -> None:
    with opened(spec("null", Path()), 0) as source:
        batches = list(islice(source.batches(), 3))
        assert batches[0].data is batches[2].data
        assert batches[0].size_bytes == 30_000
        assert (source.read_bytes(), source.reads()) == (0, 0)


def test_bare_reads_count_in_batches(lake: Path) -> None:
    with opened(spec("bare", lake), 0) as source:
        batches = list(islice(source.batches(), 30))
        assert sum(batch.size_bytes for batch in batches) == 900_000
        assert source.read_bytes() >= 900_000


def test_a_damaged_record_is_refused(copies: dict[str, Path], tmp_path: Path) -> None:
    shard = next(copies["tfrecord"].iterdir())
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    (tmp_path / "x.tfrecord").write_bytes(data)
    with opened(spec("tfrecord", tmp_path), 0) as source, pytest.raises(Corrupt, match="checksum"):
        list(islice(source.batches(), 30))


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("a.tfrecord", b"", "a sample or more, found none"),
        ("a.tar", bytes(10240), "a sample or more, found none"),
        ("a.tar", b"", "a tar archive, found empty file"),
        ("a.tar", b"x" * 512, "a tar archive, found invalid header"),
    ],
)
def test_a_shard_without_samples_is_corrupt(
    name: str, data: bytes, found: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    kind = "webdataset" if name.endswith(".tar") else "tfrecord"
    with opened(spec(kind, tmp_path), 0) as source, pytest.raises(Corrupt, match=found):
        next(source.batches())


def test_what_cannot_be_shared_is_refused(copies: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="plain files"), opened(spec("plain", tmp_path), 0):
        pass
    for kind in ("webdataset", "plain"):
        many = spec(kind, copies[kind], world_size=99)
        with pytest.raises(Invalid, match="for each of 99 ranks"), opened(many, 0):
            pass
    with pytest.raises(Invalid, match="tfrecord"), opened(spec("nonsense", tmp_path), 0):
        pass


def test_a_lake_on_a_slow_volume_is_the_same_lake(lake: Path, truth: list[bytes]) -> None:
    shared = shared_state(multiprocessing.get_context("spawn"))
    delays = Delays("test", 0.0001, 1e5, 1e10)
    with opened(spec("lake", lake, delays=delays), 0, shared) as source:
        samples = [bytes(d) for b in islice(source.batches(), 20) for d in payloads_of(b)]
    assert sorted(samples) == truth


def test_generated_samples_follow_the_workload(lake: Path) -> None:
    with Lake.open(lake) as opened_lake:
        held = preparing.contents(opened_lake.snapshot(), "small/**")
        assert held.samples == 200
        assert held.sample_bytes == pytest.approx(3000, abs=200)
        assert preparing.contents(opened_lake.snapshot(), "none") == Contents(0, 0)
