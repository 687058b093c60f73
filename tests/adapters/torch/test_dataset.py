"""The dataset under torch's own DataLoader: one order, whatever the processes and their start."""

from __future__ import annotations

import copy
import gc
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import lakefeed.torch
from lakefeed.errors import Corrupt, Invalid
from lakefeed.feed.feed import FeedOptions, Mix
from lakefeed.lake.federation import Federation
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, Mounts
from lakefeed.volume.posix import PosixVolume
from tests.adapters.torch.lakes import (
    FILES,
    OPTIONS,
    check,
    expected,
    kept,
    make_lake,
    names,
    paths,
    sizes,
)
from tests.feed.lakes import lake_of, some_files
from tests.support.threads import Threads

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("torch") / "lake")


def loader_of(dataset: Any, workers: int = 0, **more: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=None, num_workers=workers, **more)


def test_batches_are_tensors_over_the_feeds_memory(lake: Path) -> None:
    dataset = lakefeed.torch.IterableDataset(lake, "train", OPTIONS)
    for batch in dataset:
        check(batch)
        assert batch.data.dtype == torch.uint8
        assert batch.labels.dtype == torch.int64
        assert {view.untyped_storage().data_ptr() for view in batch.views()} == {
            batch.data.untyped_storage().data_ptr()
        }
        jagged = batch.nested()
        assert [row.tolist() for row in jagged.unbind()] == [v.tolist() for v in batch.views()]
        for row, view in zip(batch.rows(), batch.views(), strict=True):
            assert row[: len(view)].equal(view)
            assert not row[len(view) :].any()
        with pytest.raises(Invalid, match="at most 1 bytes"):
            batch.rows(1)
    assert dataset.class_names == ("class0", "class1", "class2")
    assert len(dataset) == 11


@pytest.mark.parametrize(
    ("workers", "context", "persistent"),
    [
        (0, None, False),
        (1, "fork", False),
        (2, "fork", True),
        (3, "fork", False),
        (2, "spawn", True),
        (2, "forkserver", True),
    ],
)
def test_batches_their_order_and_epochs_do_not_depend_on_the_workers(
    lake: Path, workers: int, context: str | None, persistent: bool
) -> None:
    dataset = lakefeed.torch.IterableDataset(lake, "train", OPTIONS)
    loader = loader_of(
        dataset, workers, persistent_workers=persistent, multiprocessing_context=context
    )
    for epoch in range(2):
        batches = kept(loader)
        for batch in batches:
            check(batch)
        assert paths(batches) == expected(lake, epoch=epoch)
    dataset.set_epoch(7)
    assert paths(loader) == expected(lake, epoch=7)
    dataset.resume(batches[4].state)
    assert paths(loader) == expected(lake, epoch=1)[5:]
    assert paths(loader) == expected(lake, epoch=2)


def test_an_abandoned_iteration_was_an_epoch_too(lake: Path) -> None:
    dataset = lakefeed.torch.IterableDataset(lake, "train", OPTIONS)
    loader = loader_of(dataset, 2, persistent_workers=True)
    next(iter(loader))
    assert paths(loader) == expected(lake, epoch=1)


def test_a_transform_runs_where_the_batch_is_read(lake: Path) -> None:
    dataset = lakefeed.torch.IterableDataset(lake, "train", OPTIONS, transform=sizes)
    assert names(loader_of(dataset, 2)) == expected(lake)


def labels_and_paths(batch: lakefeed.torch.Batch) -> tuple[Any, list[str]]:
    return batch.labels, batch.paths


@pytest.mark.parametrize("workers", [0, 2])
def test_paths_that_a_transform_returns_are_a_list_for_whatever_comes_behind(
    lake: Path, workers: int
) -> None:
    dataset = lakefeed.torch.IterableDataset(lake, "train", OPTIONS, transform=labels_and_paths)
    assert [each for _, each in loader_of(dataset, workers)] == expected(lake)


def test_a_mix_comes_in_one_order_whatever_the_workers(lake: Path) -> None:
    mix = Mix.of({"train/class0": 3, "train/class2": 1})
    options = replace(OPTIONS, last="pad", class_names=("class0", "class1", "class2"))
    orders = []
    for workers in (0, 2):
        dataset = lakefeed.torch.IterableDataset(lake, mix, options)
        orders.append([path for batch in loader_of(dataset, workers) for path in batch.paths])
    assert orders[0] == orders[1]
    served = [path.split("/")[1] for path in orders[0] if path]
    assert Counter(served) == {"class0": 41, "class2": 14}
    assert len(orders[0]) == 56


def test_a_lake_in_memory_is_served_here_and_in_forked_workers() -> None:
    with lake_of(some_files(30)) as lake:
        dataset = lakefeed.torch.IterableDataset(lake, "train", FeedOptions(4))
        orders = []
        for workers in (0, 2, 2, 0, 1):
            seen = [path for batch in loader_of(dataset, workers) for path in batch.paths]
            assert Counter(seen) == dict.fromkeys(some_files(30), 1)
            orders.append(tuple(seen))
        assert len(set(orders)) == 5, "each was an epoch of its own"
        with pytest.raises(Invalid, match="by fork"):
            pickle.dumps(dataset)


def test_a_federation_is_served_here_and_in_workers(lake: Path) -> None:
    mounts = Mounts((Mount("one", str(lake)), Mount("two", str(lake))))
    with Federation("all", mounts, "/", PosixVolume) as lakes:
        for source in (lakes, lakes.snapshot()):
            dataset = lakefeed.torch.IterableDataset(
                source, "one/train", OPTIONS, transform=names_of
            )
            for epoch, workers in enumerate((0, 1)):
                there = [[f"one/{path}" for path in each] for each in expected(lake, epoch=epoch)]
                assert list(loader_of(dataset, workers)) == there
            there = [[f"one/{path}" for path in each] for each in expected(lake, epoch=2)]
            assert list(pickle.loads(pickle.dumps(dataset))) == there


def names_of(batch: Any) -> list[str]:
    return list(batch.paths)


def test_a_pickled_dataset_sees_the_snapshot_it_was_made_with(lake: Path, tmp_path: Path) -> None:
    where = make_lake(tmp_path / "grows")
    datasets = []
    with Lake.open(where) as lake_, lake_.writer() as writer:
        for source in (str(where), lake_, lake_.snapshot()):
            datasets.append(lakefeed.torch.IterableDataset(source, "train", OPTIONS))
        writer.put("train/class0/new.bin", b"later")
    for dataset in datasets:
        assert paths(pickle.loads(pickle.dumps(dataset))) == expected(lake)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_of_a_dataset_goes_through_epochs_with_its_workers(lake: Path, copied: Any) -> None:
    dataset = copied(lakefeed.torch.IterableDataset(lake, "train", OPTIONS))
    loader = loader_of(dataset, 1, multiprocessing_context="fork")
    assert [paths(loader) for _ in range(2)] == [expected(lake, epoch=epoch) for epoch in range(2)]
    dataset.set_epoch(7)
    assert paths(loader) == expected(lake, epoch=7)


def test_a_damaged_file_is_named_by_the_error_of_a_worker(tmp_path: Path) -> None:
    where = make_lake(tmp_path / "lake")
    victim = damage(where)
    dataset = lakefeed.torch.IterableDataset(where, "train", OPTIONS)
    for workers in (0, 2):
        iterator = iter(loader_of(dataset, workers))
        with pytest.raises(Corrupt, match=victim):
            list(iterator)
        if workers:
            iterator._shutdown_workers()  # torch takes ten seconds when the collector does it


def damage(where: Path) -> str:
    """Change a bit of a file in the middle of the lake; return its path."""
    path = sorted(path for path, content in FILES.items() if len(content) > 1000)[5]
    with Lake.open(where) as lake:
        row = lake.snapshot().stat(path)
    (pack,) = (where / "packs").rglob(f"{row.pack}.pack")
    data = bytearray(pack.read_bytes())
    data[row.offset] ^= 1
    pack.write_bytes(data)
    return path


def test_no_thread_outlives_its_iterator(lake: Path, threads: Threads) -> None:
    iterator = iter(lakefeed.torch.IterableDataset(lake, "train", OPTIONS))
    next(iterator)
    assert threads.running()
    del iterator
    gc.collect()
    assert threads.left() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_without_a_batch_is_refused(lake: Path, workers: int) -> None:
    options = FeedOptions(100, last="drop")
    dataset = lakefeed.torch.IterableDataset(lake, "train", options)
    with pytest.raises(Invalid, match="at least one batch"):
        list(loader_of(dataset, workers))


def test_states_of_other_files_and_epochs_of_its_own_are_refused(lake: Path) -> None:
    dataset = lakefeed.torch.IterableDataset(lake, "train", OPTIONS)
    state = next(iter(dataset)).state
    other = lakefeed.torch.IterableDataset(lake, "train/class0", OPTIONS)
    with pytest.raises(Invalid, match="selection"):
        other.resume(state)
    with pytest.raises(Invalid, match="epochs"):
        lakefeed.torch.IterableDataset(lake, "train", FeedOptions(8, epochs=3))
    with pytest.raises(Invalid, match="group"):
        lakefeed.torch.IterableDataset(lake, "train", OPTIONS, group="mine").options.rank
    with pytest.raises(Invalid, match=r"torch\.distributed"):
        lakefeed.torch.IterableDataset(lake, "train", OPTIONS, group=object()).options.rank


def test_the_shares_of_two_ranks_are_an_epoch(lake: Path) -> None:
    seen: list[str] = []
    for rank in range(2):
        options = FeedOptions(8, labels="parent", rank=rank, world_size=2)
        dataset = lakefeed.torch.IterableDataset(lake, "train", options)
        seen += [path for batch in loader_of(dataset, 2) for path in batch.paths]
    assert Counter(seen) == dict.fromkeys(FILES, 1)
