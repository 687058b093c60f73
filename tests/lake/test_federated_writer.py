"""A writer over several lakes does what that of each lake does, and nothing once it is closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lakefeed.errors import Invalid
from lakefeed.lake.federation import Federation
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, checked
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, write


@pytest.fixture
def lakes() -> Iterator[Federation]:
    volumes = {"/one": MemoryVolume(), "/two": MemoryVolume()}
    for volume in volumes.values():
        with Lake.create(volume) as lake:
            write(lake, {"cat/1": b"cat", "dog": b"dog"})
    mounts = checked([Mount("one", "/one"), Mount("far/two", "/two")])
    with Federation("all", mounts, "/", volumes.__getitem__) as federation:
        yield federation


@pytest.mark.parametrize("how", ["closed", "left"])
@pytest.mark.parametrize("prefix", ["one", "far/two"])
def test_a_closed_writer_refuses_whatever_lake_it_is(
    lakes: Federation, how: str, prefix: str
) -> None:
    writer = lakes.writer(QUIET)
    writer.put("one/new", b"1")
    if how == "closed":
        writer.close()
    else:
        with pytest.raises(ZeroDivisionError), writer:
            raise ZeroDivisionError
    with pytest.raises(Invalid, match="closed"):
        writer.put(f"{prefix}/late", b"2")
    writer.close()
    assert lakes.snapshot().exists("one/new") == (how == "closed")
