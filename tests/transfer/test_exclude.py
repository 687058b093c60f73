"""Which paths a pattern leaves out."""

from __future__ import annotations

import pytest

from lakefeed.transfer.exclude import Exclude


@pytest.mark.parametrize(
    ("pattern", "files", "directories"),
    [
        ("cache/", "", "cache a/cache"),  # of files of this name nobody spoke
        ("cache", "cache a/cache", "cache a/cache"),
        ("/cache", "cache", "cache"),
        ("a/cache", "a/cache", "a/cache"),
        ("a/cache/", "", "a/cache"),
        ("ca*", "cache a/cache cachet", "cache a/cache cachet"),
        ("**/cache", "cache a/cache", "cache a/cache"),
    ],
)
def test_a_pattern_leaves_out_what_it_names(pattern: str, files: str, directories: str) -> None:
    paths = ("cache", "a/cache", "cachet", "a")
    for exclude in (Exclude([pattern]), Exclude(["else", pattern, "other/"])):
        found = [path for path in paths if exclude.matches(path, is_directory=False)]
        assert found == files.split()
        found = [path for path in paths if exclude.matches(path, is_directory=True)]
        assert sorted(found) == sorted(directories.split())


def test_no_pattern_leaves_nothing_out() -> None:
    assert not Exclude([])
    assert not Exclude([]).matches("a", is_directory=True)
    assert not Exclude(["a/"]).matches("a", is_directory=False)
    assert Exclude(["a/"])
