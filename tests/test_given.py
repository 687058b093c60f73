"""What is given to the library is of the type that its annotation says, or refused by its name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lakefeed import (
    Cache,
    Federation,
    Feed,
    FeedOptions,
    Invalid,
    Lake,
    Mix,
    Query,
    Snapshot,
    Where,
    WriterOptions,
)
from lakefeed.adapters.decode import Decode, decoded
from lakefeed.adapters.grain import DataSource
from lakefeed.feed.stats import Observer
from lakefeed.format.rows import Codec, Kind
from lakefeed.given import check
from lakefeed.metrics.exporter import metered
from lakefeed.volume.memory import MemoryVolume

Given = Any  # of whatever type, the wrong one


def _lake() -> Lake:
    lake = Lake.create(MemoryVolume())
    with lake.writer() as writer:
        writer.put("a/1", b"one")
        writer.put("a/2", b"two")
    return lake


_OPTIONS: list[tuple[Callable[[Given], object], Given, str, str]] = [
    (lambda it: FeedOptions(batch_size=it), "3", "batch_size", "a whole number"),
    (lambda it: FeedOptions(epochs=it), 1.5, "epochs", "a whole number or None"),
    (lambda it: FeedOptions(cache=it), "/ssd", "cache", "Cache or None"),
    (lambda it: FeedOptions(observer=it), 3, "observer", "Observer or None"),
    (lambda it: FeedOptions(allocate=it), 3, "allocate", "a function or None"),
    (lambda it: FeedOptions(on_corrupt=it), ["skip"], "on_corrupt", '"raise" or "skip"'),
    (lambda it: Cache(it), None, "cache directory", "text or a path"),
    (lambda it: Where("size > 1", it), "sql", "evaluate", "a function"),
    (lambda it: Query(glob=it), 3, "glob", "text or None"),
    (lambda it: Query(kinds=it), "file", "kinds", "frozenset of Kind"),
    (lambda it: Decode((8, 8), area=it), (1, 2, 3), "area", "(a number, a number)"),
    (lambda it: Decode((8, 8), flip=it), "no", "flip", "True or False"),
    (lambda it: WriterOptions(flush_bytes=it), "64MiB", "flush_bytes", "a whole number"),
    (lambda it: WriterOptions(codec=it), "zstd", "codec", "Codec"),
]


@pytest.mark.parametrize(("make", "given", "name", "expected"), _OPTIONS)
def test_an_option_of_another_type_is_named_when_it_is_given(
    make: Callable[[Given], object], given: Given, name: str, expected: str
) -> None:
    with pytest.raises(Invalid) as refused:
        make(given)
    assert (refused.value.subject, refused.value.expected) == (name, expected)
    assert refused.value.found == repr(given)


def test_what_is_as_good_as_the_type_is_taken() -> None:
    options = FeedOptions(np.int64(3), seed=True, prefetch=np.uint8(2))  # type: ignore[arg-type]
    assert [type(each) for each in (options.batch_size, options.seed, options.prefetch)] == [
        int
    ] * 3
    decode = Decode([np.int64(8), 8], area=(np.float32(0.5), 1))  # type: ignore[arg-type]
    assert decode.size == [8, 8]
    assert Query(kinds={Kind.FILE, 1}).glob is None  # type: ignore[arg-type]
    assert Query(kinds=[Kind.FILE]).kinds == [Kind.FILE]  # type: ignore[arg-type, comparison-overlap]
    assert WriterOptions(codec=1).codec is Codec.ZSTD  # type: ignore[arg-type]
    check("observer", pickle.loads(pickle.dumps(FeedOptions())).observer, Observer | None)


_CALLS: list[tuple[Callable[[Lake, Snapshot], object], str]] = [
    (lambda lake, _: Feed(lake, "a", {"batch_size": 3}), "options"),  # type: ignore[arg-type]
    (lambda *_: Feed(3, "a"), "source"),  # type: ignore[arg-type]
    (lambda *_: DataSource(None), "source"),  # type: ignore[arg-type]
    (lambda *_: DataSource(MemoryVolume()), "source"),  # type: ignore[arg-type]
    (lambda lake, _: decoded(lake.snapshot(), Decode((8, 8))), "feed"),  # type: ignore[arg-type]
    (lambda lake, _: decoded(Feed(lake), {"size": 8}), "options"),  # type: ignore[arg-type]
    (lambda *_: metered(FeedOptions(), "9466"), "metrics_port"),  # type: ignore[arg-type]
    (lambda *_: Mix({"a/**": 3}), "mix"),  # type: ignore[arg-type]
    (lambda *_: Lake.open(b"/lake"), "lake"),  # type: ignore[arg-type]
    (lambda lake, _: Lake.open(lake), "lake"),  # type: ignore[arg-type]
    (lambda *_: Lake.create(None), "lake"),  # type: ignore[arg-type]
    (lambda *_: Lake("/mnt/lake"), "volume"),  # type: ignore[arg-type]
    (lambda *_: Federation.open(3), "federation"),  # type: ignore[arg-type]
    (lambda lake, snapshot: lake.snapshot(snapshot), "snapshot"),  # type: ignore[arg-type]
    (lambda lake, _: lake.snapshot(time_ns="noon"), "time_ns"),  # type: ignore[arg-type]
    (lambda lake, _: lake.tag(3), "tag"),  # type: ignore[arg-type]
    (lambda lake, _: lake.writer({}), "options"),  # type: ignore[arg-type]
    (lambda _, snapshot: snapshot.get(Path("a/1")), "path"),  # type: ignore[arg-type]
    (lambda _, snapshot: snapshot.stat(b"a/1"), "path"),  # type: ignore[arg-type]
    (lambda _, snapshot: snapshot.ls(None), "path"),  # type: ignore[arg-type]
    (lambda _, snapshot: list(snapshot.find(3)), "query"),  # type: ignore[arg-type]
    (lambda _, snapshot: snapshot.get_many("a/1"), "paths"),
    (lambda _, snapshot: snapshot.get_many(3), "paths"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "name"), _CALLS)
def test_an_argument_of_another_type_is_named(
    call: Callable[[Lake, Snapshot], object], name: str
) -> None:
    with _lake() as lake, pytest.raises(Invalid) as refused:
        call(lake, lake.snapshot())
    assert refused.value.subject == name


@pytest.mark.parametrize(
    ("given", "subject"),
    [
        ({"path": Path("b")}, "path"),
        ({"path": b"b"}, "path"),
        ({"data": "text"}, "data of a file"),
        ({"mtime_ns": "now"}, "time of 'b'"),
        ({"mode": "0644"}, "mode of 'b'"),
        ({"attrs": ["split"]}, "attributes of 'b'"),
    ],
)
def test_a_put_of_another_type_is_refused_and_the_others_are_kept(
    given: dict[str, Any], subject: str
) -> None:
    with _lake() as lake:
        with lake.writer() as writer:
            writer.put("a/3", b"three")
            with pytest.raises(Invalid) as refused:
                writer.put(**{"path": "b", "data": b"", **given})
        assert refused.value.subject == subject
        assert lake.snapshot().get_many(f"a/{number}" for number in "13") == [b"one", b"three"]  # type: ignore[arg-type]
        assert not lake.snapshot().exists("b")


def test_what_was_found_is_shown_in_a_few_lines() -> None:
    with pytest.raises(Invalid) as refused:
        check("labels", "x" * 10_000, int)
    assert len(str(refused.value)) < 300


def test_class_names_that_name_nothing_are_refused() -> None:
    with pytest.raises(Invalid, match=r'class_names, expected labels="parent" or "attrs.KEY"'):
        FeedOptions(class_names=("cat", "dog"))
    assert FeedOptions(class_names=()).labels is None  # as a feed without labels gives them
