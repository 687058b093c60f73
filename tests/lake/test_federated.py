"""Which lake of a view answers: for packs, extents, directories and numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format.rows import table_from_rows
from lakefeed.lake import layout
from lakefeed.lake.federation import Federation
from lakefeed.lake.reader import extents_of
from tests.lake.test_federation import ALL, World
from tests.lake.tools import QUIET


@pytest.fixture
def lakes() -> Iterator[Federation]:
    with World().federation() as federation:
        yield federation


def test_a_pack_is_read_from_the_lake_that_has_it(lakes: Federation) -> None:
    snapshot = lakes.snapshot()
    for path, data in ALL.items():
        row = snapshot.stat(path)
        at = row.offset, row.length
        assert snapshot.read_pack(row.pack, lambda file, at=at: file.read_at(*at)) == data
        assert snapshot.has_open(row.pack)
    with pytest.raises(NotFound, match="all"):
        snapshot.read_pack(layout.new_id(), lambda file: file.size)


def test_an_extent_behind_its_pack_is_corrupt_whichever_lake_has_it(lakes: Federation) -> None:
    snapshot = lakes.snapshot()
    sound = [snapshot.stat(path) for path in ALL]
    snapshot.check_extents(extents_of(table_from_rows(sound)), str)
    for at, row in enumerate(sound):
        rows = [*sound[:at], row._replace(length=1 << 40), *sound[at + 1 :]]
        with pytest.raises(Corrupt, match=f"file {at}"):
            snapshot.check_extents(extents_of(table_from_rows(rows)), lambda at: f"file {at}")


@pytest.mark.parametrize("directory", ["cameras", "cameras/line1/day"])
def test_a_directory_has_no_bytes_and_is_named_as_the_view_names_it(
    lakes: Federation, directory: str
) -> None:
    with pytest.raises(Invalid, match=f"'{directory}'"):
        lakes.snapshot().read_range(directory, 0, 1)


def test_a_view_is_the_one_of_its_own_number_alone(lakes: Federation) -> None:
    view = lakes.snapshot()
    assert view.at(view.number) is view
    with lakes.writer(QUIET) as writer:
        writer.put("train/new", b"1")
    with pytest.raises(NotFound, match="stands for"):
        lakes.snapshot().at(view.number)
