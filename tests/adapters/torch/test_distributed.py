"""Ranks come from torch.distributed: a real process group of two, over gloo."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import distributed, multiprocessing
from torch.utils.data import DataLoader

import lakefeed.torch
from lakefeed.errors import Invalid
from lakefeed.feed.feed import FeedOptions
from lakefeed.torch import Loader, LoaderOptions
from tests.adapters.torch.lakes import FILES, expected, make_lake, names, paths, sizes

pytestmark = pytest.mark.slow

TOGETHER = FeedOptions(16, labels="parent", seed=3)
EACH = FeedOptions(8, labels="parent", seed=3)


def rank_of_two(rank: int, lake: Path, out: Path) -> None:
    """What each rank does; its answers go to a file."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2
    )
    answers: dict[str, Any] = {}
    with Loader(lake, "train", EACH) as loader:
        answers["length"] = len(loader)
        for at, batch in enumerate(loader):
            answers.setdefault("first", []).append(list(batch.paths))
            if at == 2:
                break
        answers["state"] = loader.state_dict()
    dataset = lakefeed.torch.IterableDataset(lake, "train", EACH)
    forked = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    answers["forked"] = paths(forked)
    options = LoaderOptions(transform=sizes, processes=1, context="spawn")
    with Loader(lake, "train", EACH, options) as loader:
        answers["spawned"] = names(loader)
    answers["alone"] = paths(lakefeed.torch.IterableDataset(lake, "train", EACH, group=None))
    # All ranks make all groups, in the same order.
    groups = [distributed.new_group([number]) for number in range(2)]
    mine, other = groups[rank], groups[1 - rank]
    answers["group"] = paths(lakefeed.torch.IterableDataset(lake, "train", EACH, group=mine))
    outside = lakefeed.torch.IterableDataset(lake, "train", EACH, group=other)
    with pytest.raises(Invalid, match="belongs"):
        len(outside)
    (out / f"{rank}.json").write_text(json.dumps(answers))
    distributed.destroy_process_group()


def test_two_ranks_share_an_epoch_and_one_goes_on_for_both(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    multiprocessing.spawn(rank_of_two, (lake, tmp_path), nprocs=2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [rank["length"] for rank in ranks] == [6, 6]
    for way in ("forked", "spawned"):
        seen = [path for rank in ranks for batch in rank[way] for path in batch]
        assert Counter(seen) == dict.fromkeys(FILES, 1)
        assert [rank[way][:3] for rank in ranks] == [rank["first"] for rank in ranks]
    for rank in ranks:
        assert rank["alone"] == rank["group"] == expected(lake, EACH)
    # Three steps of two ranks, then one rank with the same number of samples a step.
    seen = [path for rank in ranks for batch in rank["first"] for path in batch]
    for rank in ranks:
        with Loader(lake, "train", TOGETHER) as loader:
            loader.load_state_dict(rank["state"])
            rest = [path for batch in paths(loader) for path in batch]
        assert Counter(seen + rest) == dict.fromkeys(FILES, 1)


def given_a_dataset(rank: int, dataset: lakefeed.torch.IterableDataset, out: Path) -> None:
    """What each rank does with a dataset that was made before there were ranks."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2
    )
    answers = []
    for workers in (0, 1):
        context = "fork" if workers else None
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=None, num_workers=workers, multiprocessing_context=context
        )
        for _ in range(2):
            answers.append(paths(loader))
            distributed.barrier()
    (out / f"{rank}.json").write_text(json.dumps(answers))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_ranks_that_are_given_a_dataset_share_its_epochs(tmp_path: Path, start: str) -> None:
    dataset = lakefeed.torch.IterableDataset(make_lake(tmp_path / "lake"), "train", EACH)
    ranks: Any = multiprocessing.start_processes(
        given_a_dataset, (dataset, tmp_path), nprocs=2, join=False, start_method=start
    )
    while not ranks.join(timeout=200):
        pass  # one of the two has ended
    answers = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for epoch, (one, other) in enumerate(zip(*answers, strict=True)):
        steps = [[*mine, *its] for mine, its in zip(one, other, strict=True)]
        assert steps == expected(tmp_path / "lake", TOGETHER, epoch)
