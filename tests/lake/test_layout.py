"""Every file name of a lake is made and parsed in one place, and parsing undoes making."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.lake import layout

IDS = st.uuids().map(lambda value: value.hex)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)


def base(path: str) -> str:
    return path.rpartition("/")[2]


@given(st.integers(0, 10**20 - 1))
def test_a_commit_name_parses_to_its_number(number: int) -> None:
    assert layout.parse_commit(base(layout.commit_path(number))) == number
    assert layout.parse_commit(base(layout.checkpoint_path(number))) is None


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_commit_names_sort_as_their_numbers(one: int, other: int) -> None:
    paths = layout.commit_path(one), layout.commit_path(other)
    assert (paths[0] < paths[1]) == (one < other)


@given(IDS)
def test_pack_and_segment_names_parse_to_their_ids(id_: str) -> None:
    assert layout.parse_pack(base(layout.pack_path(id_))) == id_
    assert layout.parse_segment(base(layout.segment_path(id_))) == id_
    assert layout.parse_pack(base(layout.segment_path(id_))) is None
    assert layout.parse_segment(base(layout.pack_path(id_))) is None
    assert layout.pack_path(id_).startswith(f"{layout.pack_directory(id_)}/")
    assert layout.parse_json(base(layout.pin_path(id_))) == id_


@given(TAGS.filter(lambda tag: not tag.isdigit()))
def test_tag_names_parse_to_their_tags(tag: str) -> None:
    assert layout.parse_json(base(layout.ref_path(tag))) == tag


@pytest.mark.parametrize("tag", ["", ".", "..", "a/b", "../a", "12", "-x", ".x", "a b", "a" * 129,
                                 "é", "a\n", "a\0"])  # fmt: skip
def test_a_name_that_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(Invalid):
        layout.ref_path(tag)


@given(st.text(max_size=60))
def test_parsing_takes_any_name(name: str) -> None:
    for parse in (layout.parse_commit, layout.parse_pack, layout.parse_segment):
        parse(name)
    layout.parse_json(name)


def test_new_ids_differ() -> None:
    assert len({layout.new_id() for _ in range(1000)}) == 1000
