"""Federation files: what they say, what they refuse, and the order of mounts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Conflict, Invalid, LakefeedError, NotFound
from lakefeed.lake.mounts import Mount, Mounts, directory_of, load, parse, render, save
from lakefeed.volume.memory import MemoryVolume

PREFIXES = st.lists(st.sampled_from(["a", "a!", "a0", "b", "é"]), min_size=1, max_size=3).map(
    "/".join
)


def build(prefixes: list[str]) -> Mounts:
    """Return mounts at those prefixes that are possible together."""
    mounts = Mounts()
    for number, prefix in enumerate(prefixes):
        try:
            mounts = mounts.adding(Mount(prefix, f"/lake{number}"))
        except LakefeedError:
            continue
    return mounts


@given(st.lists(PREFIXES, max_size=8), PREFIXES)
def test_a_path_belongs_to_the_one_mount_that_holds_it(prefixes: list[str], path: str) -> None:
    mounts = build(prefixes)
    holding = [mount for mount in mounts.mounts if mount.holds(path)]
    assert len(holding) <= 1
    assert mounts.of(path) == (holding[0] if holding else None)
    for mount in mounts.mounts:
        assert mounts.of(mount.outside(path)) == mount
        assert mount.inside(mount.outside(path)) == path
    below = [one for one in mounts.mounts if one.prefix == path or
             one.prefix.startswith(f"{path}/")]  # fmt: skip
    assert mounts.below(path) == below


@given(st.lists(PREFIXES, max_size=8))
def test_mounts_come_in_the_order_of_the_paths_below_them(prefixes: list[str]) -> None:
    mounts = build(prefixes).mounts
    paths = [mount.outside("x") for mount in mounts]
    assert paths == sorted(paths)


def test_the_root_may_be_a_mount_alone() -> None:
    mounts = Mounts().adding(Mount("", "/lake"))
    assert mounts.of("!any/where") == mounts.mounts[0]
    assert mounts.of("") == mounts.mounts[0]
    with pytest.raises(Invalid):
        mounts.adding(Mount("a", "/other"))


def test_no_mount_lies_in_another() -> None:
    mounts = build(["a/b"])
    for prefix in ("a", "a/b/c"):
        with pytest.raises(Invalid):
            mounts.adding(Mount(prefix, "/x"))
    assert len(mounts.adding(Mount("a/b!", "/x")).mounts) == 2


def test_a_taken_prefix_is_a_conflict_unless_it_may_move() -> None:
    mounts = build(["a"])
    with pytest.raises(Conflict):
        mounts.adding(Mount("a/", "/other"))
    assert mounts.adding(Mount("a", "/other"), move=True).mounts == (Mount("a", "/other"),)
    with pytest.raises(NotFound):
        mounts.removing("b")
    assert mounts.removing("a/") == Mounts()


@given(st.lists(PREFIXES, max_size=6), st.none() | st.sampled_from(["v1", "17"]))
def test_what_is_written_is_read_again(prefixes: list[str], at: str | None) -> None:
    mounts = Mounts(tuple(Mount(one.prefix, one.lake, at) for one in build(prefixes).mounts))
    assert parse(render(mounts), "f") == mounts


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", '"x"', "{}", '{"federation": 2, "mounts": []}',
        '{"federation": 1}', '{"federation": 1, "mounts": {}}',
        '{"federation": 1, "mounts": [1]}', '{"federation": 1, "mounts": [{"prefix": "a"}]}',
        '{"federation": 1, "mounts": [{"prefix": "a", "lake": ""}]}',
        '{"federation": 1, "mounts": [{"prefix": "../a", "lake": "/x"}]}',
        '{"federation": 1, "mounts": [{"prefix": "a", "lake": "/x\\u0000"}]}',
        '{"federation": 1, "mounts": [{"prefix": "a", "lake": "/x", "at": 7}]}',
        '{"federation": 1, "mounts": [{"prefix": "a", "lake": "/x"}, {"prefix": "a/b", "lake": '
        '"/y"}]}', "[" * 100_000, "\xff",
    ],
)  # fmt: skip
def test_a_file_that_is_no_federation_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse(text.encode("latin-1"), "f")


@given(st.binary(max_size=80) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["federation", "mounts", "prefix", "lake", "at"]), inner),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_mounts_or_invalid(data: bytes) -> None:
    try:
        parse(data, "f")
    except Invalid as error:
        assert error.subject.startswith(("federation", "path"))


def test_a_file_appears_whole_and_leaves_nothing_beside_it() -> None:
    volume = MemoryVolume()
    save(volume, "all.json", build(["a"]))
    save(volume, "all.json", build(["a", "b"]))
    assert load(volume, "all.json") == build(["a", "b"])
    assert [entry.name for entry in volume.list("")] == ["all.json"]
    with pytest.raises(NotFound):
        load(volume, "other.json")


def test_a_relative_lake_lies_beside_the_file() -> None:
    assert directory_of(Mount("a", "../lake"), "/mnt/x") == "/mnt/lake"
    assert directory_of(Mount("a", "/lake"), "/mnt/x") == "/lake"
