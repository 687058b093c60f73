"""What all tests of adapters share."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.adapters._kept import OpenedFeed
from lakefeed.adapters.fsspec import LakeFileSystem


@pytest.fixture(autouse=True)
def feeds_end_with_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a framework keeps of an iteration that the test left in the middle.

    TensorFlow lets go of such an iterator when it pleases; until then its feed would read beside
    the tests behind it.
    """
    opened: weakref.WeakSet[OpenedFeed] = weakref.WeakSet()
    begin = OpenedFeed.__init__

    def noting(self: OpenedFeed, *arguments: Any) -> None:
        begin(self, *arguments)
        opened.add(self)

    monkeypatch.setattr(OpenedFeed, "__init__", noting)
    yield
    for feed in list(opened):
        feed.close()


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[LakeFileSystem]:
    """A filesystem of one empty lake."""
    Lake.create(tmp_path / "lake").close()
    fs = LakeFileSystem(lake=f"{tmp_path}/lake", skip_instance_cache=True)
    yield fs
    fs.close()
