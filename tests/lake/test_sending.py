"""What of a lake another process gets: its place, a number, and errors with their first use."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.feed.feed import Cache, Feed, FeedOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.federation import Federation
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, Mounts
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from tests.lake.compacting import AT_ONCE
from tests.lake.tools import QUIET

FILES = {f"train/{at}.bin": f"payload number {at}".encode() for at in range(30)}


@pytest.fixture
def where(tmp_path: Path) -> Path:
    with Lake.create(tmp_path / "lake") as lake, lake.writer(QUIET) as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    return tmp_path / "lake"


def sent(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def bytes_of(view: Any, path: str) -> Any:
    if isinstance(view, Lake | Federation):
        view = view.snapshot()
    return view.get(path)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_what_was_sent_to_them(where: Path, start: str) -> None:
    context = multiprocessing.get_context(start)
    with (
        Lake.open(where) as lake,
        Federation("all", Mounts((Mount("", str(where)),)), "/", PosixVolume) as lakes,
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        views = [lake, lake.snapshot(), lakes, lakes.snapshot()]
        answers = [pool.submit(bytes_of, view, path) for view in views for path in FILES]
        assert [answer.result() for answer in answers] == [*FILES.values()] * len(views)


def test_a_snapshot_stays_the_one_that_was_sent(where: Path) -> None:
    with Lake.open(where) as lake:
        old = lake.snapshot()
        pickled = pickle.dumps((lake, old))
        with lake.writer(QUIET) as writer:
            writer.put("train/0.bin", b"later")
        there, then = pickle.loads(pickled)
        with there:
            assert (then.number, then.state) == (old.number, old.state)
            assert then.get("train/0.bin") == FILES["train/0.bin"]
            assert there.snapshot().get("train/0.bin") == b"later"
            assert copy.deepcopy(then).get("train/1.bin") == FILES["train/1.bin"]


def test_a_view_of_many_lakes_is_sent_with_the_snapshot_of_each(where: Path) -> None:
    mounts = Mounts((Mount("a", str(where)), Mount("b", str(where), at="1")))
    with Federation("all", mounts, "/", PosixVolume) as lakes:
        view = lakes.snapshot()
        pickled = pickle.dumps((lakes, view))
        with lakes.writer(QUIET) as writer:
            writer.put("a/train/0.bin", b"later")
        there, then = pickle.loads(pickled)
        with there:
            assert then.number == view.number
            assert then.get("a/train/0.bin") == FILES["train/0.bin"]
            assert there.snapshot().get("a/train/0.bin") == b"later"
            assert sent(then).get("b/train/7.bin") == FILES["train/7.bin"]


def test_what_is_gone_is_told_when_it_is_used(where: Path) -> None:
    # A pool's worker ends by an error in what it is sent, and its task is never heard of again.
    with Lake.open(where) as lake:
        pickled = pickle.dumps((lake, lake.snapshot()))
    shutil.rmtree(where)
    there, then = pickle.loads(pickled)
    with pytest.raises(NotFound, match=str(where)):
        there.snapshot()
    with pytest.raises(NotFound, match=str(where)):
        then.get("train/0.bin")


def test_a_snapshot_of_a_lake_made_anew_or_collected_is_expired(where: Path) -> None:
    with Lake.open(where) as lake:
        pickled = pickle.dumps(lake.snapshot())
        with lake.writer(QUIET) as writer:
            writer.delete("train/0.bin")
        compact(lake)
        collect(lake, AT_ONCE)
    with pytest.raises(SnapshotExpired, match="tag the snapshots"):
        pickle.loads(pickled).get("train/0.bin")
    shutil.rmtree(where)
    with Lake.create(where) as lake, lake.writer(QUIET) as writer:
        writer.put("train/0.bin", b"of another lake")
    with pytest.raises(SnapshotExpired, match="made anew"):
        pickle.loads(pickled).get("train/0.bin")


def test_what_works_in_one_process_alone_says_what_to_send_instead(where: Path) -> None:
    with (
        Lake.open(where) as lake,
        Feed(where) as feed,
        lake.writer() as writer,
        lake.hold(holder="test") as hold,
    ):
        for thing in (feed, writer, hold):
            with pytest.raises(Invalid, match="make one there"):
                pickle.dumps(thing)
    with Lake.create(MemoryVolume("in memory")) as lake:
        for kept in (lake, lake.snapshot()):
            with pytest.raises(Invalid, match="give the path of the lake"):
                pickle.dumps(kept)


def test_a_batch_is_sent_with_its_paths_and_a_snapshot_with_its_cache(
    where: Path, tmp_path: Path
) -> None:
    options = FeedOptions(8, last="pad", cache=Cache(tmp_path / "cache", "64MiB"))
    with Feed(where, "train", options) as feed:
        copies = [sent(sent(batch)) for batch in feed]
        view = sent(feed.snapshot)
    samples = {path: data for each in copies
               for path, data in zip(each.paths, each.bytes(), strict=True)}  # fmt: skip
    assert samples == {**FILES, "": b""}
    assert copies[-1].names.blank.tolist() == [False] * 6 + [True] * 2
    assert view.get("train/3.bin") == FILES["train/3.bin"]
