"""A Grain pipeline over a lake: the files' own bytes, in Grain's threads and worker processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import grain
import pytest
from absl import flags

from lakefeed.adapters.grain import DataSource
from lakefeed.adapters.sql import where
from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.lake.lake import Lake
from lakefeed.metrics.loader import REGISTRY
from lakefeed.volume.memory import MemoryVolume
from tests.feed.lakes import PACKED, QUIET, lake_of, some_files
from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import kept_port

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

FILES = some_files(60)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("grain") / "lake"
    with Lake.create(where) as lake, lake.writer(QUIET) as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    return where


@pytest.fixture
def source(lake: Path) -> Iterator[DataSource]:
    source = DataSource(lake, "train/**")
    yield source
    source.close()


def test_it_is_a_source_as_grain_means_it(source: DataSource) -> None:
    assert isinstance(source, grain.sources.RandomAccessDataSource)
    assert len(source) == 60
    assert [source[at] for at in range(60)] == [FILES[path] for path in sorted(FILES)]
    with pytest.raises(IndexError, match="0 to 59"):
        source[60]
    with pytest.raises(IndexError):
        source[-1]


def test_a_pipeline_shuffles_maps_and_batches(source: DataSource) -> None:
    dataset = grain.MapDataset.source(source).shuffle(seed=3).map(len).batch(8)
    lengths = [int(length) for batch in dataset for length in batch]
    assert Counter(lengths) == Counter(map(len, FILES.values()))
    assert lengths != [len(FILES[path]) for path in sorted(FILES)]


def test_reading_threads_of_an_iterator_agree(source: DataSource) -> None:
    read = grain.ReadOptions(num_threads=8, prefetch_buffer_size=32)
    dataset = grain.MapDataset.source(source).seed(1).shuffle().to_iter_dataset(read)
    assert Counter(dataset) == Counter(FILES.values())


def test_a_checkpoint_of_grain_goes_on(lake: Path, source: DataSource) -> None:
    def pipeline(source: DataSource) -> Any:
        return iter(grain.MapDataset.source(source).shuffle(seed=5).to_iter_dataset())

    iterator = pipeline(source)
    begun = [next(iterator) for _ in range(23)]
    state = iterator.get_state()
    again = pipeline(DataSource(lake, "train/**"))
    again.set_state(state)
    assert Counter(begun + list(again)) == Counter(FILES.values())


def test_worker_processes_open_the_lake_themselves(source: DataSource) -> None:
    flags.FLAGS.mark_as_parsed()  # what absl's app.run does; Grain's worker processes insist on it
    dataset = grain.MapDataset.source(source).shuffle(seed=2).map(describe).to_iter_dataset()
    workers = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=2))
    seen = list(workers)
    assert Counter(length for _, length in seen) == Counter(map(len, FILES.values()))
    assert os.getpid() not in {pid for pid, _ in seen}
    assert len({pid for pid, _ in seen}) == 2


def describe(data: bytes) -> tuple[int, int]:
    return os.getpid(), len(data)


COUNTED = """
import sys, urllib.request
import grain
from absl import flags
from lakefeed.adapters.grain import DataSource

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    lake, port = sys.argv[1], int(sys.argv[2])
    source = DataSource(lake, "train/**", metrics_port=port)
    dataset = grain.MapDataset.source(source).shuffle(seed=2).map(len).to_iter_dataset()
    print(len(list(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=2)))))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        print(answer.read().decode())
"""


def test_what_worker_processes_read_is_on_the_page(lake: Path, tmp_path: Path) -> None:
    program, directory = tmp_path / "counted.py", tmp_path / "values"
    program.write_text(COUNTED)
    directory.mkdir()
    with kept_port() as port:
        done = subprocess.run([sys.executable, str(program), str(lake), str(port)], check=True,
                              env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
                              capture_output=True, text=True, timeout=PATIENCE_SECONDS)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == str(len(FILES))
    assert f"lakefeed_loader_samples_total {float(len(FILES))}" in lines
    assert f"lakefeed_loader_bytes_total {float(sum(map(len, FILES.values())))}" in lines
    assert f"lakefeed_io_reads_total {float(len(FILES))}" in lines


def test_what_is_read_is_counted_as_it_is_stored() -> None:
    def counted() -> list[float]:
        names = ("lakefeed_io_read_bytes_total", "lakefeed_loader_bytes_total")
        labels: tuple[dict[str, str], ...] = ({"tier": "volume"}, {})
        return [REGISTRY.get_sample_value(*each) or 0.0 for each in zip(names, labels, strict=True)]

    with Lake.create(MemoryVolume()) as lake, kept_port() as port:
        with lake.writer(PACKED) as writer:
            writer.put("zeros", bytes(100_000))
        source = DataSource(lake.snapshot(), metrics_port=port)
        before = counted()
        assert source[0] == bytes(100_000)
        read_bytes, sample_bytes = (now - then for now, then in zip(counted(), before, strict=True))
        assert read_bytes == lake.snapshot().stat("zeros").length < 1_000
        assert sample_bytes == 100_000


def test_grains_older_data_loader_checkpoints_by_the_sources_name(source: DataSource) -> None:
    sampler = grain.samplers.IndexSampler(60, shuffle=True, seed=1, num_epochs=1)
    loader = grain.DataLoader(data_source=source, sampler=sampler, worker_count=0)
    iterator = iter(loader)
    begun = [next(iterator) for _ in range(10)]
    state = iterator.get_state()
    again = iter(loader)
    again.set_state(state)
    assert Counter(begun + list(again)) == Counter(FILES.values())


def test_many_at_once_are_what_they_are_one_by_one(source: DataSource) -> None:
    numbers = [5, 59, 5, 0, 17]
    assert source._getitems(numbers) == [source[at] for at in numbers]
    assert source._getitems([]) == []
    whole = grain.MapDataset.source(source).shuffle(seed=1)
    assert whole._getitems(range(60)) == [whole[at] for at in range(60)]


def test_labels_and_paths_come_along(lake: Path) -> None:
    source = DataSource(lake, "train/**", labels="parent")
    assert source.class_names == ("class0", "class1", "class2")
    for path, element in zip(sorted(FILES), (source[at] for at in range(60)), strict=True):
        assert element == {"data": FILES[path], "label": int(path.split("/")[1][-1]), "path": path}
    source.close()
    named = DataSource(
        lake, "train/**", labels="parent", class_names=("class2", "class1", "class0")
    )
    assert named[0]["label"] == 2
    named.close()


def test_a_pickled_source_names_itself_alike_and_other_files_do_not(
    lake: Path, source: DataSource
) -> None:
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source)
    assert copy[7] == source[7]
    other = DataSource(lake, "train/class1")
    assert repr(other) != repr(source)
    for each in (copy, other):
        each.close()
        each.close()


def test_a_source_of_a_condition_has_one_name_in_all_processes(lake: Path) -> None:
    source = DataSource(lake, where("size > 17"))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(repr, source).result() == repr(source)
    source.close()


def test_the_snapshot_stays_what_it_was(tmp_path: Path) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        writer.put("a", b"old")
    source = DataSource(tmp_path)
    with Lake.open(tmp_path) as lake, lake.writer(QUIET) as writer:
        writer.put("a", b"new")
        writer.put("b", b"more")
    assert (len(source), source[0]) == (1, b"old")
    source.close()


def test_a_lake_in_memory_serves_here_and_is_refused_elsewhere() -> None:
    with lake_of(FILES) as lake:
        source = DataSource(lake, "train")
        assert Counter(source[at] for at in range(60)) == Counter(FILES.values())
        with pytest.raises(Invalid, match="path of the lake"):
            pickle.dumps(source)


def test_errors_of_the_lake_come_through(tmp_path: Path) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for at in range(8):
            writer.put(f"{at}.bin", f"payload number {at}.".encode())
    with pytest.raises(NotFound):
        len(DataSource(tmp_path, "nothing"))
    (pack,) = (tmp_path / "packs").rglob("*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"number 3.", b"NUMBER 3."))
    source = DataSource(tmp_path)
    with pytest.raises(Corrupt, match=r"3\.bin"):
        list(grain.MapDataset.source(source).shuffle(seed=1))
    source.close()
