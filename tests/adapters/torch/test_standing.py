"""Which epoch workers begin: those made together the same, whoever was ended before."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from torch import multiprocessing
from torch.utils import data

from lakefeed.adapters.torch.standing import Standing, Turn


def turns(seed: int, workers: int = 3, first: int = 1) -> list[Turn]:
    """Workers of one DataLoader, made together, the first of them as their parent's `first`."""
    return [Turn(worker, workers, seed, first) for worker in range(workers)]


def begin(standing: Standing, these: list[Turn]) -> list[int]:
    return [standing.begin(turn)[0] for turn in these]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_workers_made_together_begin_the_same_epoch(order: tuple[int, ...]) -> None:
    standing = Standing()
    begin(standing, turns(11)[:1])  # abandoned: the others were ended before they began
    made = [turns(12)[worker] for worker in order]
    assert begin(standing, made) == [1, 1, 1]
    begin(standing, turns(13)[1:])
    assert begin(standing, [turns(14)[worker] for worker in order]) == [3, 3, 3]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_workers_of_an_epoch_that_is_seeded_as_the_one_before_begin_the_same_epoch(
    order: tuple[int, ...],
) -> None:
    standing = Standing()
    begin(standing, turns(11)[:1])  # abandoned: the others were ended before they began
    made = [turns(11, first=4)[worker] for worker in order]
    assert begin(standing, made) == [1, 1, 1]
    begin(standing, turns(11, first=7)[1:])
    made = [turns(11, first=10)[worker] for worker in order]
    assert begin(standing, [made[0], made[0], *made[1:]]) == [3, 4, 3, 3]


def test_workers_between_which_others_were_made_begin_the_same_epoch() -> None:
    standing = Standing()
    begin(standing, turns(11))
    one = turns(11, first=4)[0]
    assert begin(standing, [one, *turns(11, first=6)[1:]]) == [1, 1, 1]
    assert begin(standing, [one]) == [2]


@pytest.mark.parametrize("name", ["ForkProcess-7", "Process-2:7", "SpawnProcess-1:2:7"])
def test_a_worker_tells_which_of_its_parents_processes_the_first_is(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "name", name)
    monkeypatch.setattr(
        data, "get_worker_info", lambda: SimpleNamespace(id=2, num_workers=3, seed=13)
    )
    assert Turn.of_this_process() == Turn(2, 3, 11, 5)


def test_a_late_worker_begins_with_the_first_epoch_of_the_others() -> None:
    standing = Standing()
    begin(standing, turns(11))
    early, late, other = turns(12)
    assert begin(standing, [early, other]) == [1, 1]
    assert begin(standing, [early, other, early]) == [2, 2, 3]
    assert begin(standing, [late, late, late]) == [1, 2, 3]


def test_an_epoch_that_is_set_counts_for_kept_workers_and_new_ones() -> None:
    standing = Standing()
    begin(standing, turns(11))
    standing.set(7)
    early, late, other = turns(11)
    assert begin(standing, [early, early]) == [7, 8]
    assert begin(standing, [late, other]) == [7, 7]
    standing.set(2)
    assert begin(standing, turns(12)) == [2, 2, 2]


def test_loaders_of_other_numbers_of_workers_go_on_from_each_other() -> None:
    standing = Standing()
    here = Turn(0, 1)
    assert begin(standing, [here, here]) == [0, 1]
    assert begin(standing, turns(11)) == [2, 2, 2]
    assert begin(standing, turns(12, workers=2)) == [3, 3]
    assert begin(standing, turns(11)) == [4, 4, 4]
    assert begin(standing, [here]) == [5]


def begin_later(standing: Standing, go: Any, answers: Any) -> None:
    """What a process does with a standing that it was given, when it is told to."""
    go.wait()
    for _ in range(2):
        answers.put(standing.begin(Turn(0, 1)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_rank_begins_what_was_next_when_it_was_made_whatever_its_parent_began_since(
    start: str,
) -> None:
    context = multiprocessing.get_context(start)
    standing, go, answers = Standing(), context.Event(), context.SimpleQueue()
    standing.set(3, {"epoch": 3})
    child = context.Process(target=begin_later, args=(standing, go, answers), daemon=True)
    child.start()
    assert begin(standing, [Turn(0, 1)] * 2) == [3, 4]
    go.set()
    assert [answers.get() for _ in range(2)] == [(3, {"epoch": 3}), (4, None)]
    child.join()
