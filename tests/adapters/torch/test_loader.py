"""The ready loader: in order, resumable, the user's function here, in threads or in processes."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import lakefeed.torch
from lakefeed.errors import Corrupt, Invalid
from lakefeed.feed.ahead import Ahead
from lakefeed.feed.batch import Batch as FeedBatch
from lakefeed.feed.slots import Slots
from lakefeed.torch import Loader, LoaderOptions
from tests.adapters.torch.lakes import (
    OPTIONS,
    check,
    expected,
    kept,
    make_lake,
    names,
    paths,
    sizes,
)
from tests.adapters.torch.test_dataset import damage
from tests.support.patience import PATIENCE_SECONDS
from tests.support.threads import Threads

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

WAYS = {
    "here": LoaderOptions(transform=sizes),
    "threads": LoaderOptions(transform=sizes, threads=2),
    "processes": LoaderOptions(transform=sizes, processes=2, context="fork"),
    "new processes": LoaderOptions(transform=sizes, processes=3, context="fork", persistent=False),
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("torch") / "lake")


@pytest.fixture(autouse=True)
def nothing_left(threads: Threads) -> Iterator[None]:
    yield
    assert threads.left() == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("way", WAYS)
def test_epochs_come_one_after_the_other(lake: Path, way: str) -> None:
    with Loader(lake, "train", OPTIONS, WAYS[way]) as loader:
        assert len(loader) == 11
        assert loader.class_names == ("class0", "class1", "class2")
        for epoch in range(3):
            assert names(loader) == expected(lake, epoch=epoch)
        loader.set_epoch(1)
        assert names(loader) == expected(lake, epoch=1)


@pytest.mark.parametrize("way", WAYS)
def test_a_state_means_consumed_and_goes_on_any_other_way(lake: Path, way: str) -> None:
    for stop, other in zip((0, 1, 5, 11), WAYS, strict=True):
        with Loader(lake, "train", OPTIONS, WAYS[way]) as loader:
            for _, _ in zip(loader, range(stop), strict=False):
                pass
            consumed = min(stop + 1, 11) if stop < 11 else 11
            text = json.dumps(loader.state_dict())
        assert len(text) < 200
        with Loader(lake, "train", OPTIONS, WAYS[other]) as loader:
            loader.load_state_dict(json.loads(text))
            assert loader.state_dict() == json.loads(text)
            rest = expected(lake)[consumed:] or expected(lake, epoch=1)
            assert names(loader) == rest
            assert names(loader) == expected(lake, epoch=1 if consumed < 11 else 2)


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_that_is_set_takes_the_place_of_a_restored_one(lake: Path, way: str) -> None:
    with Loader(lake, "train", OPTIONS, WAYS[way]) as loader:
        next(iter(loader))
        state = loader.state_dict()
        for epoch in (0, 1):  # the state's own epoch, and the one that would follow it
            loader.load_state_dict(state)
            loader.set_epoch(epoch)
            assert names(loader) == expected(lake, epoch=epoch)
        assert names(loader) == expected(lake, epoch=2)


def test_an_iteration_that_ends_before_its_processes_begin_shifts_no_epoch(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(workers: object) -> None:
        raise KeyboardInterrupt

    with Loader(lake, "train", OPTIONS, WAYS["new processes"]) as loader:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("lakefeed.adapters.torch.loader._results", interrupt)
            next(iter(loader))
        assert names(loader) == expected(lake, epoch=1)


def test_a_state_within_an_epoch_is_of_the_batch_in_hand(lake: Path) -> None:
    with Loader(lake, "train", OPTIONS, LoaderOptions(prefetch=8, device="cpu")) as loader:
        begin = loader.state_dict()
        assert (begin["epoch"], begin["position"]) == (0, 0)
        for at, batch in enumerate(loader, 1):
            assert loader.state_dict() == batch.state
            assert batch.state["position"] == (8 * at if at < 11 else 0)
        assert loader.state_dict()["epoch"] == 1


def test_without_a_transform_batches_come_as_they_are(lake: Path) -> None:
    for options in (LoaderOptions(), LoaderOptions(processes=2, context="fork")):
        with Loader(lake, "train", OPTIONS, options) as loader:
            batches = kept(loader)
        for batch in batches:
            check(batch)
        assert paths(batches) == expected(lake)


def rows_and_labels(batch: lakefeed.torch.Batch) -> dict[str, Any]:
    return {"rows": batch.rows(4000), "rest": (batch.labels, batch.paths)}


@pytest.mark.parametrize("number", [0, 2])
def test_tensors_wherever_they_are_go_to_the_device(lake: Path, number: int) -> None:
    options = LoaderOptions(transform=rows_and_labels, threads=number, device="meta")
    with Loader(lake, "train", OPTIONS, options) as loader:
        items = list(loader)
    assert [item["rest"][1] for item in items] == expected(lake)
    assert {item["rows"].device.type for item in items} == {"meta"}
    assert {item["rest"][0].device.type for item in items} == {"meta"}


def test_a_whole_batch_goes_to_the_device(lake: Path) -> None:
    with Loader(lake, "train", OPTIONS, LoaderOptions(device="meta")) as loader:
        assert {batch.data.device.type for batch in loader} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_batches_on_a_cuda_device_hold_the_files_bytes(lake: Path) -> None:
    with Loader(lake, "train", OPTIONS, LoaderOptions(device="cuda")) as loader:
        for batch in loader:
            assert batch.data.is_cuda
            check(batch.to("cpu"))
    with Loader(lake, "train", OPTIONS, LoaderOptions(pin_memory=True)) as loader:
        for batch in loader:
            assert batch.data.is_pinned()
            check(batch)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_what_wants_a_gpu_is_refused_without_one() -> None:
    with pytest.raises(Invalid, match="pin_memory, expected a GPU"):
        LoaderOptions(pin_memory=True)
    for device in ("cuda:0", 0):
        with pytest.raises(Invalid, match="device, expected a GPU"):
            LoaderOptions(device=device)
    assert LoaderOptions(device="cpu").device == "cpu"


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_comes_out_behind_the_batches_before_it(
    lake: Path, tmp_path: Path, way: str
) -> None:
    where = make_lake(tmp_path / "lake")
    victim = damage(where)
    before = next(at for at, batch in enumerate(expected(lake)) if victim in batch)
    seen = []
    with Loader(where, "train", OPTIONS, WAYS[way]) as loader:
        with pytest.raises(Corrupt) as caught:
            for item in loader:
                seen.append(item)
        assert victim in caught.value.subject
        # A window is read together, so an error may come before batches of its own window.
        assert names(seen) == expected(lake)[: len(seen)]
        assert len(seen) <= before


def refuse(batch: lakefeed.torch.Batch) -> None:
    raise LookupError(f"cannot use {len(batch)} samples")


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_the_function_reaches_the_loop(lake: Path, way: str) -> None:
    chosen = WAYS[way]
    options = LoaderOptions(
        transform=refuse,
        threads=chosen.threads,
        processes=chosen.processes,
        context=chosen.context,
        device="cpu",
    )
    with (
        Loader(lake, "train", OPTIONS, options) as loader,
        pytest.raises(LookupError, match="cannot use 8 samples"),
    ):
        next(iter(loader))


def give_up(batch: lakefeed.torch.Batch) -> None:
    next(iter(()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_iteration_that_broke_off_is_not_at_its_end(
    lake: Path, error: type[BaseException]
) -> None:
    calls = count()

    def transform(batch: lakefeed.torch.Batch) -> list[str]:
        if next(calls) == 3:
            raise error
        return batch.paths

    with Loader(lake, "train", OPTIONS, LoaderOptions(transform=transform)) as loader:
        batches, seen = iter(loader), []
        with pytest.raises(error):
            for paths in batches:
                seen.append(paths)
        for _ in range(2):
            with pytest.raises(Invalid, match=error.__name__):
                next(batches)
        loader.load_state_dict(loader.state_dict())
        assert seen + list(loader) == expected(lake)


@pytest.mark.parametrize("way", WAYS)
def test_a_function_that_lets_out_a_stop_iteration_does_not_end_the_epoch(
    lake: Path, way: str
) -> None:
    options = replace(WAYS[way], transform=give_up)
    with (
        Loader(lake, "train", OPTIONS, options) as loader,
        pytest.raises(RuntimeError, match="the transform raised StopIteration"),
    ):
        list(loader)


@pytest.mark.parametrize("way", WAYS)
def test_leaving_a_loop_early_and_closing_leaves_nothing(lake: Path, way: str) -> None:
    with Loader(lake, "train", OPTIONS, WAYS[way]) as loader:
        for _ in loader:
            break
        first = iter(loader)
        next(first)
        assert names(loader) == expected(lake, epoch=2)
        assert list(first) == []
    loader.close()


@pytest.mark.parametrize("way", WAYS)
def test_an_iteration_that_a_newer_one_ended_before_it_began_changes_nothing(
    lake: Path, way: str
) -> None:
    with Loader(lake, "train", OPTIONS, WAYS[way]) as loader:
        ended, batches = iter(loader), iter(loader)
        first = next(batches)
        assert list(ended) == []
        assert names([first, *batches]) == expected(lake)
        assert list(ended) == []
        assert names(loader) == expected(lake, epoch=1)


@pytest.mark.parametrize("way", WAYS)
def test_an_iteration_that_is_asked_for_nothing_takes_no_restored_epoch(
    lake: Path, way: str
) -> None:
    with Loader(lake, "train", OPTIONS, WAYS[way]) as loader:
        next(iter(loader))
        state = loader.state_dict()
        iter(loader)  # as Lightning does before it begins
        assert loader.state_dict() == state
        loader.load_state_dict(state)
        iter(loader)
        assert names(loader) == expected(lake)[1:]
        assert names(loader) == expected(lake, epoch=1)


LEAVING = """
import sys
import lakefeed.torch
from lakefeed import FeedOptions
options = lakefeed.torch.LoaderOptions(transform=len, threads=2)
batches = iter(lakefeed.torch.Loader(sys.argv[1], "train", FeedOptions(8), options))
next(batches)
"""


def test_a_program_that_ends_amid_an_epoch_ends_without_a_word(lake: Path) -> None:
    leaving = [sys.executable, "-c", LEAVING, str(lake)]
    done = subprocess.run(
        leaving, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_iteration_that_is_collected_in_a_thread_of_its_feed_ends(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector runs wherever it pleases: here in a reader that holds the lock of all, while
    the thread behind it waits for the next batch."""
    usual_next, usual_fewer = Ahead.next, Slots.fewer_than
    waiting, begun, ended = threading.Event(), threading.Event(), threading.Event()
    taken: list[FeedBatch | None] = []

    def following(ahead: Ahead) -> FeedBatch | None:
        if taken:
            assert standing.wait(60)
        waiting.set()
        try:
            taken.append(usual_next(ahead))
            return taken[-1]
        finally:
            waiting.clear()

    def collect(slots: Slots, ahead_bytes: int) -> bool:
        if not standing.is_set():
            return not slots and usual_fewer(slots, ahead_bytes)
        here = threading.current_thread().name == "lakefeed-feed"
        if here and not begun.is_set() and waiting.wait(60):
            begun.set()
            batches.close()
            ended.set()
        return usual_fewer(slots, ahead_bytes)

    # Until the first batch is here nobody asks for a second one, and one window is read.
    standing = threading.Event()
    monkeypatch.setattr(Ahead, "next", following)
    monkeypatch.setattr(Slots, "fewer_than", collect)
    options = LoaderOptions(transform=sizes, threads=2, prefetch=1000)
    small = replace(OPTIONS, batch_size=1, memory_bytes=1 << 16)
    with Loader(lake, "train", small, options) as it:
        batches: Any = iter(it)
        next(batches)
        standing.set()
        assert ended.wait(60)


def test_options_that_cannot_be_are_refused(lake: Path) -> None:
    with pytest.raises(Invalid, match="one of them"):
        LoaderOptions(transform=sizes, threads=1, processes=1)
    with pytest.raises(Invalid, match="transform"):
        LoaderOptions(threads=1)
    with pytest.raises(Invalid, match="prefetch"):
        LoaderOptions(prefetch=0)
    counting = LoaderOptions(processes=1, metrics_port=9466)
    with pytest.raises(Invalid, match="PROMETHEUS_MULTIPROC_DIR"):  # its page would show zeros
        Loader(lake, "train", OPTIONS, counting)
    with Loader(lake, "train", OPTIONS) as loader:
        state = loader.state_dict()
    with Loader(lake, "train/class0", OPTIONS) as loader, pytest.raises(Invalid, match="selection"):
        loader.load_state_dict(state)


def an_epoch_of(loader: Loader, answers: Any) -> None:
    """What a forked process does with a loader that its parent has been using."""
    with loader:
        answers.put(list(loader))


def test_a_loader_in_use_serves_a_forked_process_with_processes_of_its_own(tmp_path: Path) -> None:
    options = LoaderOptions(transform=sizes, processes=1, context="fork")
    with Loader(make_lake(tmp_path / "lake"), "train", OPTIONS, options) as loader:
        list(loader)
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=an_epoch_of, args=(loader, answers))
        child.start()
        found = answers.get()
        child.join()
        assert child.exitcode == 0
        assert list(loader) == found
