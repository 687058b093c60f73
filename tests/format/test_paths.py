"""A path is accepted exactly if the rules say so, and the order is that of its bytes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.format.paths import check_path, check_prefix, parents, subtree_range

COMPONENT = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["", ".", "..", "...", ".a", "a\n", "ä" * 127, "ä" * 128, "a" * 255, "a" * 256]
    ),
    st.characters(codec=None).map(str),
)
PATHS = st.lists(COMPONENT, max_size=6).map("/".join)
GOOD = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)
    .filter(lambda component: component not in (".", "..")),
    min_size=1,
    max_size=5,
).map("/".join)  # fmt: skip


def accepted(path: str) -> bool:
    """The rules as FORMAT.md states them, one by one."""
    try:
        data = path.encode()
    except UnicodeEncodeError:
        return False
    components = data.split(b"/")
    return (
        len(data) <= 4096
        and b"\0" not in data
        and all(0 < len(component) <= 255 for component in components)
        and not {b".", b".."} & set(components)
    )


@pytest.mark.slow
@given(PATHS)
@example("")
@example("/a")
@example("a/")
@example("a//b")
@example("a\0")
@example("\ud800")
@example("a/..")
@example("..a/b..")
@example("\n")
@example("/".join(["a" * 255] * 16))
@example("/".join(["a" * 255] * 16) + "a")
@example("/".join(["a" * 255] * 15 + ["a" * 254, "b"]))
def test_a_path_is_accepted_exactly_by_the_rules(path: str) -> None:
    if accepted(path):
        assert check_path(path) == path
        assert check_prefix(path + "/") == path
    else:
        with pytest.raises(Invalid, match="path"):
            check_path(path)


@pytest.mark.slow
@given(st.lists(GOOD))
def test_the_order_is_that_of_the_bytes(paths: list[str]) -> None:
    assert [path.encode() for path in sorted(paths)] == sorted(path.encode() for path in paths)


@pytest.mark.slow
@given(GOOD, GOOD)
def test_a_subtree_is_a_range(directory: str, path: str) -> None:
    low, high = subtree_range(directory)
    assert high is not None
    for candidate in (path, f"{directory}/{path}", directory + path, directory):
        assert (low <= candidate < high) == candidate.startswith(directory + "/")
    assert subtree_range("") == ("", None)


@pytest.mark.slow
@given(GOOD)
def test_parents_are_the_directories_above(path: str) -> None:
    above = parents(path)
    assert above == sorted(above)
    assert len(above) == path.count("/")
    assert all(path.startswith(f"{directory}/") for directory in above)


def test_a_message_names_the_path_and_the_rule() -> None:
    with pytest.raises(Invalid, match=r"path 'a/\.\./b', expected no empty, '\.' or '\.\.'"):
        check_path("a/../b")
    with pytest.raises(Invalid, match="…', expected at most 4096 bytes") as failure:
        check_path("a" * 5000)
    assert len(str(failure.value)) < 400


def test_the_root_prefix_has_several_spellings() -> None:
    assert check_prefix("") == check_prefix("/") == check_prefix("//") == ""
    with pytest.raises(Invalid):
        check_prefix("/a")
