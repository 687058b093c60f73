"""What a check found, in words."""

from __future__ import annotations

from lakefeed.errors import Corrupt, VolumeFailed
from lakefeed.lake.findings import Collector


def test_a_finding_of_an_error_says_what_was_expected_and_found() -> None:
    found = Collector()
    found.add_error("payload", Corrupt("a", expected="2 bytes", found="1"))
    found.add_error("payload", VolumeFailed("b"), "look at the disk")
    assert [str(finding) for finding in found.report(1, deep=True).findings] == [
        "payload: a: expected 2 bytes, found 1",
        "payload: b: expected to be readable, found VolumeFailed; look at the disk",
    ]
