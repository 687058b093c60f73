"""torchdata's StatefulDataLoader: what it saves goes on exactly, also with other workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

import lakefeed.torch
from lakefeed.errors import Invalid
from tests.adapters.torch.lakes import OPTIONS, expected, make_lake, paths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("torch") / "lake")


def loader_of(lake: Path, workers: int, **more: Any) -> StatefulDataLoader[Any]:
    dataset = lakefeed.torch.IterableDataset(lake, "train", OPTIONS)
    return StatefulDataLoader(dataset, batch_size=None, num_workers=workers, **more)


def taken(loader: StatefulDataLoader[Any], count: int) -> list[list[str]]:
    iterator = iter(loader)
    return paths(next(iterator) for _ in range(count))


def saved(loader: StatefulDataLoader[Any]) -> Any:
    """The state as it comes back from a file."""
    return json.loads(json.dumps(loader.state_dict()))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("stop", [0, 1, 4, 10, 11])
def test_nothing_is_repeated_or_missed(lake: Path, workers: int, stop: int) -> None:
    loader = loader_of(lake, workers)
    assert taken(loader, stop) == expected(lake)[:stop]
    state = saved(loader)
    again = loader_of(lake, workers)
    again.load_state_dict(state)
    assert paths(again) == expected(lake)[stop:]
    assert paths(again) == expected(lake, epoch=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finished_epoch_goes_on_with_the_next(lake: Path, workers: int) -> None:
    loader = loader_of(lake, workers, persistent_workers=workers > 0)
    assert paths(loader) == expected(lake)
    assert paths(loader) == expected(lake, epoch=1)
    state = saved(loader)
    again = loader_of(lake, workers)
    again.load_state_dict(state)
    assert paths(again) == expected(lake, epoch=2)


@pytest.mark.parametrize(("before", "after"), [(0, 3), (3, 0), (2, 3), (3, 1)])
@pytest.mark.parametrize("stop", [1, 2, 7, 11])
def test_another_number_of_workers_goes_on_from_the_position(
    lake: Path, before: int, after: int, stop: int
) -> None:
    loader = loader_of(lake, before)
    taken(loader, stop)
    state = lakefeed.torch.position(saved(loader))
    assert state is not None
    again = loader_of(lake, after)
    again.dataset.resume(state)
    rest = expected(lake)[stop:] or expected(lake, epoch=1)
    assert paths(again) == rest


def test_a_position_before_the_first_batch_is_none(lake: Path) -> None:
    state = lakefeed.torch.position(saved(loader_of(lake, 2)))
    assert state is None
    again = loader_of(lake, 0)
    again.dataset.resume(state)
    assert paths(again) == expected(lake)


def test_a_state_between_two_snapshots_goes_on_but_has_no_position(lake: Path) -> None:
    loader = loader_of(lake, 2, snapshot_every_n_steps=4)
    taken(loader, 6)
    state = saved(loader)
    with pytest.raises(Invalid, match="snapshot_every_n_steps=1"):
        lakefeed.torch.position(state)
    again = loader_of(lake, 2, snapshot_every_n_steps=4)
    again.load_state_dict(state)
    assert paths(again) == expected(lake)[6:]
