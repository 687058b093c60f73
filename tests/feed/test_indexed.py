"""A prefix of a merged lake is the same samples as the list of its paths, read when needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lakefeed.errors import Corrupt
from lakefeed.feed import indexed
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.indexed import Indexed
from lakefeed.feed.labels import Labelling
from lakefeed.feed.selection import Listed, Selection, Where, resolve
from lakefeed.format import columns
from lakefeed.lake import together
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.metered import Meter, MeteredVolume
from tests.feed.lakes import QUIET, lake_of, some_files
from tests.support.meeting import Meeting

FILES = {**some_files(900, classes=5), "other/x": b"x", "zoo/y": b"y"}
TRAIN = sorted(path for path in FILES if path.startswith("train/"))


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    """A lake whose one segment has groups of 64 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "GROUP_ROWS", 64)
        with lake_of(FILES) as lake:
            lake.merge_index(everything=True)
            yield lake


def everything(selection: Selection) -> np.ndarray:
    return np.arange(len(selection))


@pytest.mark.parametrize("select", ["", "train", "train/**", "**", "train/class3", "train/class3/"])
@pytest.mark.parametrize("labels", [None, "parent", "attrs.parity"])
def test_an_index_and_a_list_are_the_same_samples(
    lake: Lake, select: str, labels: str | None
) -> None:
    if labels == "parent" and select in ("", "**"):
        select = "train"
    snapshot, labelling = lake.snapshot(), Labelling(labels)
    one = resolve(snapshot, select, labelling)
    assert isinstance(one, Indexed)
    start = select.rstrip("*/")
    paths = sorted(path for path in FILES if path.startswith(start))
    other = resolve(snapshot, paths, labelling)
    assert isinstance(other, Listed)
    assert one.paths(everything(one)).to_pylist() == paths
    assert one.content() == other.content()
    assert one.class_names == other.class_names
    picked = np.random.default_rng(1).integers(0, len(one), 100)
    mine, theirs = one.rows(picked), other.rows(picked)
    for name in ("offset", "length", "size", "crc32c", "packed"):
        assert np.array_equal(getattr(mine, name), getattr(theirs, name))
    assert [mine.packs[at] for at in mine.pack] == [theirs.packs[at] for at in theirs.pack]
    assert one.paths(picked).to_pylist() == other.paths(picked).to_pylist()
    if labels is not None:
        assert np.array_equal(one.labels(picked), other.labels(picked))


def test_fixed_class_names_need_no_scan(lake: Lake) -> None:
    names = tuple(f"class{number}" for number in range(5))
    one = resolve(lake.snapshot(), "train", Labelling("parent", names))
    picked = np.array([5, 800, 5])
    one.rows(picked)
    labels = one.labels(picked)
    assert labels is not None
    assert [names[label] for label in labels] == [TRAIN[at].split("/")[1] for at in picked]


def test_only_the_groups_that_hold_samples_are_read() -> None:
    files = {f"train/{number:06d}": b"" for number in range(40_000)}
    volume = MemoryVolume()
    with Lake.create(volume) as lake, lake.writer(QUIET) as writer:
        for path, data in files.items():
            writer.put(path, data)
    with Lake.open(volume) as lake:
        lake.merge_index(everything=True)
    meter = Meter()
    with Lake.open(MeteredVolume(volume, meter)) as lake:
        selection = resolve(lake.snapshot(), "")
        assert len(selection) == 40_000
        before = meter.readings()["read"].transferred_bytes
        selection.rows(np.array([20_000, 20_001]))
        one = meter.readings()["read"].transferred_bytes - before
        selection.rows(np.array([20_005]))
        assert meter.readings()["read"].transferred_bytes == before + one
        selection.rows(np.arange(40_000))
        whole = meter.readings()["read"].transferred_bytes - before
    assert 0 < one < whole / 3


@pytest.mark.parametrize("change", ["mkdir", "symlink", "delete", "overwrite"])
def test_views_whose_rows_are_not_samples_are_listed(change: str) -> None:
    with lake_of(dict(list(FILES.items())[:50])) as lake:
        lake.merge_index(everything=True)
        victim = next(iter(FILES))
        with lake.writer(QUIET) as writer:
            {
                "mkdir": lambda: writer.mkdir("train/empty"),
                "symlink": lambda: writer.symlink("train/link", victim),
                "delete": lambda: writer.delete(victim),
                "overwrite": lambda: writer.put(victim, b"new"),
            }[change]()
        selection = resolve(lake.snapshot(), "train")
        assert isinstance(selection, Listed)
        assert len(selection) == 50 - (change == "delete")
        lake.merge_index(everything=True)
        merged = resolve(lake.snapshot(), "train")
        assert isinstance(merged, Listed if change in ("mkdir", "symlink") else Indexed)
        assert merged.content() == selection.content()


def test_packs_of_disjoint_paths_need_no_merge() -> None:
    with lake_of({"a/1": b"1", "a/2": b"2", "b/1": b"3"}) as lake:
        with lake.writer(QUIET) as writer:
            writer.put("c/1", b"4")
        selection = resolve(lake.snapshot(), "c")
        assert isinstance(selection, Indexed)
        assert selection.paths(np.array([0])).to_pylist() == ["c/1"]


def test_a_state_survives_a_merge_and_a_selection_another_opening(lake: Lake) -> None:
    volume = MemoryVolume()
    files = dict(list(FILES.items())[:60])
    with lake_of(files, volume) as lake, Feed(lake, "train", FeedOptions(8)) as feed:
        seen = next(feed).paths
        state = feed.state()
        selection = feed.selection
    with Lake.open(volume) as lake:
        lake.merge_index(everything=True)
        with Feed(lake, "train", FeedOptions(8)) as feed:
            assert isinstance(feed.selection, Indexed)
            feed.restore(state)
            seen += [path for batch in feed for path in batch.paths]
            selection = feed.selection
    assert sorted(seen) == sorted(path for path in files if path.startswith("train"))
    with Lake.open(volume) as lake, Feed(lake, selection, FeedOptions(8)) as feed:
        assert sum(map(len, feed)) == len(selection)


def test_a_condition_chooses_by_a_function_of_the_snapshot(lake: Lake) -> None:
    asked = []

    def evaluate(snapshot: object, condition: str) -> list[str]:
        asked.append(condition)
        return [path for path in reversed(TRAIN) if len(FILES[path]) > 500]

    where = Where("size > 500", evaluate)
    with Feed(lake, where, FeedOptions(50, None)) as feed:
        paths = [path for batch in feed for path in batch.paths]
    assert asked == ["size > 500"]
    assert paths == [path for path in TRAIN if len(FILES[path]) > 500]


def test_an_index_that_lies_about_its_kinds_is_refused(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lake_of({"a/1": b"1", "a/2": b"2"}) as lying:
        with lying.writer(QUIET) as writer:
            writer.mkdir("a/3")
        lying.merge_index(everything=True)
        monkeypatch.setattr(columns.ColumnsReader, "kinds", lambda self, number: {"file"})
        selection = resolve(lying.snapshot(), "")
        with pytest.raises(Corrupt, match="only files"):
            selection.rows(np.array([0]))


def test_the_paths_of_a_selection_in_two_feeds_are_kept_within_one_bound(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = resolve(lake.snapshot(), "train")
    assert isinstance(selection, Indexed)
    one, other = selection.through(lake.snapshot()), selection.through(lake.snapshot())
    group = selection.paths(np.arange(64)).nbytes
    monkeypatch.setattr(indexed, "_PATHS_BYTES", 3 * group)
    for start in range(0, 832, 64):
        for each in (one, other):
            assert each.paths(np.arange(start, start + 64)).to_pylist() == TRAIN[start : start + 64]
    assert 0 < len(selection._paths._groups) <= 3


def test_scattered_groups_are_read_at_the_same_time(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_processors", lambda: 3)
    selection = resolve(lake.snapshot(), "train", Labelling())
    picked = np.arange(0, len(selection), 130)  # in every other group
    for method, ask in (("read_extents", selection.rows), ("read_columns", selection.paths)):
        meet, plain = Meeting(3), getattr(Snapshot, method)

        def read(*given: object, meet: Meeting = meet, plain: Any = plain) -> object:
            meet()
            return plain(*given)

        monkeypatch.setattr(Snapshot, method, read)
        assert len(ask(picked)) == len(picked)
        assert meet.held


@pytest.mark.parametrize(("select", "looked_into"), [("", 0), ("train", 2), ("other", 1)])
def test_only_groups_that_others_share_are_looked_into(
    lake: Lake, select: str, looked_into: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, plain = [], Snapshot.read_columns

    def read(*given: Any) -> object:
        looks.append(given[-1])
        return plain(*given)

    monkeypatch.setattr(Snapshot, "read_columns", read)
    assert isinstance(resolve(lake.snapshot(), select, Labelling()), Indexed)
    assert looks == [["path"]] * looked_into
