"""How many packs stay open."""

from __future__ import annotations

import resource

import pytest

from lakefeed.lake.files import open_files_max


@pytest.mark.parametrize(
    ("soft", "expected"),
    [(256, 256), (1024, 256), (65_536, 4096), (1 << 20, 8192), (resource.RLIM_INFINITY, 8192)],
)
def test_more_packs_stay_open_where_the_process_may_have_more(
    monkeypatch: pytest.MonkeyPatch, soft: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert open_files_max() == expected
