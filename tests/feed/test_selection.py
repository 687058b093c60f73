"""A selection names the files a user meant, with the labels a user meant, or says what is wrong."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakefeed.errors import Invalid, NotFound, VolumeFailed
from lakefeed.feed import fetching
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.labels import Labelling
from lakefeed.feed.selection import Selection, resolve
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.volume.base import ReadableFile
from lakefeed.volume.memory import MemoryVolume
from tests.feed.lakes import QUIET, lake_of, some_files
from tests.lake.tools import compact
from tests.support.faulty import FaultyVolume

FILES = {**some_files(20), "val/class1/x.bin": b"x", "top.bin": b"top", "train/deep/a/b.bin": b"d"}


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        with lake.writer(QUIET) as writer:
            writer.mkdir("train/empty")
            writer.symlink("train/link", "top.bin")
        yield lake


def chosen(lake: Lake, select: str | list[str], labelling: Labelling | None = None) -> Selection:
    return resolve(lake.snapshot(), select, labelling or Labelling())


def all_of(selection: Selection) -> np.ndarray:
    return np.arange(len(selection))


def paths_of(selection: Selection) -> list[str]:
    return selection.paths(all_of(selection)).to_pylist()


def labels_of(selection: Selection) -> np.ndarray:
    selection.rows(all_of(selection))
    labels = selection.labels(all_of(selection))
    assert labels is not None
    assert labels.dtype == np.int32
    return labels


@pytest.mark.parametrize(
    ("select", "start"),
    [("", ""), ("train", "train/"), ("train/**", "train/"), ("train/class1", "train/class1/"),
     ("train/class1/*", "train/class1/"), ("**/class1/*.bin", None)],
)  # fmt: skip
def test_a_prefix_and_a_glob_select_files_sorted_by_path(
    lake: Lake, select: str, start: str | None
) -> None:
    wanted = [p for p in FILES if (p.startswith(start) if start is not None else "/class1/" in p)]
    assert paths_of(chosen(lake, select)) == sorted(wanted)


def test_a_list_keeps_its_order_and_repetitions(lake: Lake) -> None:
    wanted = ["val/class1/x.bin", "top.bin", "val/class1/x.bin"]
    selection = chosen(lake, wanted)
    assert paths_of(selection) == wanted
    assert selection.paths(np.array([2, 1])).to_pylist() == wanted[:0:-1]


def test_paths_of_any_kind_that_have_an_order_are_a_list(lake: Lake) -> None:
    paths = ["val/class1/x.bin", "top.bin"]
    ways = (tuple(paths), np.array(paths), np.array(paths, object), pa.array(paths),
            pa.chunked_array([paths]), [Path(path) for path in paths])  # fmt: skip
    for way in ways:
        with Feed(lake, way, FeedOptions(1)) as feed:  # type: ignore[arg-type]
            assert paths_of(feed.selection) == paths
    with Feed(lake, Path("val"), FeedOptions(1)) as feed:  # type: ignore[arg-type]
        assert paths_of(feed.selection) == paths[:1]
        ready = feed.selection
    with Feed(lake, ready, FeedOptions(1)) as feed:
        assert paths_of(feed.selection) == paths[:1]


@pytest.mark.parametrize("other", [{"top.bin"}, None, 7, b"top.bin", [None], [["top.bin"]]])
def test_what_is_no_selection_is_refused(lake: Lake, other: Any) -> None:
    with Feed(lake, other) as feed, pytest.raises(Invalid, match="paths in an order"):
        next(feed)


def test_nothing_found_is_an_error_not_an_empty_feed(lake: Lake) -> None:
    for select in ("tset", "train/*.png", []):
        with pytest.raises(NotFound, match="matching"):
            chosen(lake, select)


def test_a_listed_path_must_be_a_file(lake: Lake) -> None:
    with pytest.raises(NotFound, match=r"gone\.bin"):
        chosen(lake, ["top.bin", "gone.bin"])
    with pytest.raises(Invalid, match="train/class1"):
        chosen(lake, ["train/class1"])
    with pytest.raises(Invalid, match="train/link"):
        chosen(lake, ["train/link"])


def test_the_parent_directory_is_the_class(lake: Lake) -> None:
    selection = chosen(lake, "train", Labelling("parent"))
    assert selection.class_names == ("a", "class0", "class1", "class2")
    labels = labels_of(selection)
    for path, label in zip(paths_of(selection), labels.tolist(), strict=True):
        assert selection.class_names[label] == path.split("/")[-2]


def test_an_attribute_is_the_class(lake: Lake) -> None:
    selection = chosen(lake, "train", Labelling("attrs.parity"))
    assert selection.class_names == ("0", "1")
    labels = labels_of(selection)
    assert labels.tolist() == [len(FILES[path]) % 2 for path in paths_of(selection)]


def test_class_names_make_two_selections_agree(lake: Lake) -> None:
    names = ("class2", "class1", "class0", "a")
    for select, label in (("val", 1), ("train/class1", 1), ("train/class0", 2)):
        labels = labels_of(chosen(lake, select, Labelling("parent", names)))
        assert set(labels.tolist()) == {label}


def test_a_class_outside_of_class_names_is_refused(lake: Lake) -> None:
    with pytest.raises(Invalid, match=r"'a', expected one of class0"):
        chosen(lake, "train", Labelling("parent", ("class0", "class1", "class2")))


def test_a_file_without_a_label_is_named(lake: Lake) -> None:
    with pytest.raises(Invalid, match=r"top\.bin"):
        chosen(lake, "", Labelling("parent"))
    with pytest.raises(Invalid, match=r"attrs\.missing"):
        chosen(lake, "train", Labelling("attrs.missing"))


@pytest.mark.parametrize("source", ["", "Parent", "attrs", "attrs.", "label"])
def test_an_unknown_source_of_labels_is_refused(source: str) -> None:
    with pytest.raises(Invalid, match="labels"):
        Labelling(source)
    with pytest.raises(Invalid, match="class_names"):
        Labelling("parent", ("a", "a"))


def test_the_content_tells_other_bytes_and_other_paths_apart() -> None:
    files = some_files(9)
    path = next(path for path, data in files.items() if data)
    with lake_of(files) as lake:
        before = chosen(lake, "train").content()
        with lake.writer(QUIET) as writer:
            writer.put("elsewhere", b"")
        lake.merge_index()
        assert chosen(lake, "train").content() == before
        with lake.writer(QUIET) as writer:
            writer.put(path, b"changed")
        changed = chosen(lake, "train").content()
        with lake.writer(QUIET) as writer:
            writer.put(path, files[path])
            writer.rename(sorted(files)[0], "train/class0/renamed")
        renamed = chosen(lake, "train").content()
        assert len({before, changed, renamed}) == 3


@pytest.mark.parametrize("select", ["train", "train/**/*.bin", ["train/class0/00000.bin"]])
def test_what_a_feed_serves_is_looked_up_with_patience(
    select: str | list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot, the selection and, for a state of another snapshot, that one's as well."""
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 0.001)
    files, inner = some_files(24), MemoryVolume()
    with lake_of(files, inner) as lake:
        lake.merge_index(everything=True)
        with Feed(lake, select) as feed:
            state, number = feed.state(), feed.snapshot.number
        with lake.writer(QUIET) as writer:
            writer.put("train/class0/00000.bin", files["train/class0/00000.bin"])
        compact(lake)
    for later in itertools.count(1):
        volume = FaultyVolume(inner, verbs={"read", "open"})
        with Lake.open(volume) as lake, Feed(lake, select) as feed:
            volume.fail_at = volume.count("read", "open") + later
            assert len(feed.selection) in (24, 1)
            feed.restore(state)
            assert feed.snapshot.number > number
        if not volume.fired:
            break
    assert later > 5


@pytest.mark.parametrize("fails", [True, False])
def test_a_look_up_ends_with_the_feed(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried again behind `close`, and no file is opened that would stay open."""
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 600)
    volume = MemoryVolume()
    with lake_of(FILES, volume) as lake:
        lake.merge_index(everything=True)
    usual = volume.open

    def closing(path: str) -> ReadableFile:
        feed.close()  # as another thread may, in the middle of a call
        if fails:
            raise VolumeFailed(path, errno=errno.EIO)
        return usual(path)

    monkeypatch.setattr(volume, "open", closing)
    watched = FaultyVolume(volume)
    feed = Feed(watched, "train")  # type: ignore[arg-type]
    for look in (next, len, Feed.state):
        with pytest.raises(Invalid, match="a closed one"):
            look(feed)
    opened = [call.path for call in watched.calls if call.verb == "open"]
    assert opened == ["lake.json"] if fails else not any(map(layout.is_pack, opened))
