"""Small files are placed once, also when the volume answers to a call that it made twice.

That is what an NFSv3 client does when the first answer is lost: the server has made the change, the
repeated call finds it made, and the caller is told "it exists" or "no such file".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from lakefeed.errors import Conflict, NotFound, VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, Mounts, load, save
from lakefeed.lake.placing import move_over, place_new, place_over
from lakefeed.lake.refs import Refs
from lakefeed.volume.base import Volume, read_file, write_file
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from tests.support.faulty import FaultyVolume


class TwiceVolume(PosixVolume):
    """Every change of a name is sent twice; the answer is that to the second."""

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        super().link(source, target)

    def replace(self, source: str, target: str) -> None:
        super().replace(source, target)
        super().replace(source, target)

    def unlink(self, path: str) -> None:
        super().unlink(path)
        super().unlink(path)


@pytest.fixture
def twice(tmp_path: Path) -> TwiceVolume:
    volume = TwiceVolume(tmp_path / "lake")
    volume.make_directory(layout.TMP)
    return volume


def left_in_tmp(volume: PosixVolume) -> list[str]:
    return [entry.name for entry in volume.list(layout.TMP)]


def test_a_new_file_is_placed_although_the_answer_says_it_exists(twice: TwiceVolume) -> None:
    place_new(twice, b"mine", "name")
    assert read_file(twice, "name") == b"mine"
    assert left_in_tmp(twice) == []


def test_a_taken_name_is_a_conflict_whoever_answers(twice: TwiceVolume) -> None:
    write_file(twice, "name", b"theirs")
    with pytest.raises(Conflict):
        place_new(twice, b"mine", "name")
    assert read_file(twice, "name") == b"theirs"
    assert left_in_tmp(twice) == []


def test_a_file_is_replaced_although_the_answer_says_there_is_none(twice: TwiceVolume) -> None:
    write_file(twice, "name", b"old")
    place_over(twice, b"new", "name")
    assert read_file(twice, "name") == b"new"
    assert left_in_tmp(twice) == []


def test_a_file_is_moved_although_the_answer_says_there_is_none(twice: TwiceVolume) -> None:
    write_file(twice, "tmp/mine", b"new")
    write_file(twice, "name", b"was there")
    move_over(twice, "tmp/mine", "name")
    assert read_file(twice, "name") == b"new"
    assert left_in_tmp(twice) == []


def test_a_file_that_somebody_took_away_is_not_moved() -> None:
    volume = MemoryVolume()
    write_file(volume, "name", b"was there")
    with pytest.raises(NotFound):
        move_over(volume, "mine", "name")
    write_file(volume, "mine", b"new")
    taken = Mock(wraps=volume)
    taken.replace.side_effect = NotFound("mine")
    for target in ("name", "nothing"):
        with pytest.raises(NotFound):
            move_over(taken, "mine", target)
    assert read_file(volume, "name") == b"was there"


def test_a_federation_is_written_although_the_answer_says_there_is_none(twice: TwiceVolume) -> None:
    mounts = Mounts((Mount("a", "../lake"),))
    save(twice, "all.json", mounts)
    assert load(twice, "all.json") == mounts
    assert [entry.name for entry in twice.list("") if entry.name.startswith(".")] == []


def test_replacing_in_a_directory_that_is_not_there_is_not_found() -> None:
    volume = MemoryVolume()
    with pytest.raises(NotFound):
        place_over(volume, b"new", "no/name")


def test_a_file_that_was_taken_away_before_it_could_replace_is_written_anew() -> None:
    class Tidied(MemoryVolume):
        tries = 0

        def replace(self, source: str, target: str) -> None:
            self.tries += 1
            if self.tries == 1:
                self.unlink(source)
            super().replace(source, target)

    volume = Tidied()
    place_over(volume, b"new", "name")
    assert read_file(volume, "name") == b"new"
    assert volume.tries == 2


def test_a_failed_link_that_was_made_is_made() -> None:
    volume = FaultyVolume(MemoryVolume(), 1, "after", verbs=["link"])
    place_new(volume, b"mine", "name")
    assert read_file(volume, "name") == b"mine"


def test_a_failed_link_that_was_not_made_is_reported() -> None:
    volume = FaultyVolume(MemoryVolume(), 1, "before", verbs=["link"])
    with pytest.raises(VolumeFailed):
        place_new(volume, b"mine", "name")
    with pytest.raises(NotFound):
        volume.inner.open("name")


@pytest.mark.parametrize("place", [place_new, place_over])
@pytest.mark.parametrize("verb", ["write", "sync", "link", "replace"])
def test_a_file_that_cannot_be_placed_leaves_nothing(
    place: Callable[[Volume, bytes, str], None], verb: str
) -> None:
    volume = FaultyVolume(MemoryVolume(), 1, verbs=[verb])
    with suppress(VolumeFailed):
        place(volume, b"mine", "name")
    assert [*volume.inner.list(layout.TMP)] == []


def test_asking_for_the_time_leaves_nothing() -> None:
    volume = FaultyVolume(MemoryVolume(), 1, verbs=["fstat"])
    volume.inner.make_directory(layout.LOG)
    with pytest.raises(VolumeFailed):
        Refs(volume).server_time_ns()
    assert [*volume.inner.list(layout.TMP)] == []


def test_a_lake_lives_on_a_volume_that_repeats_itself(tmp_path: Path) -> None:
    with Lake.create(TwiceVolume(tmp_path)) as lake:
        with lake.writer() as writer:
            number = writer.put("path", b"bytes").wait()
        lake.tag("first")
        lake.tag("first", number, move=True)
        lake.log.write_checkpoint(number)
        assert [commit.number for commit in lake.history()] == [1]
        assert [(tag.name, tag.snapshot) for tag in lake.refs.tags()] == [("first", 1)]
        assert lake.refs.pins() == []
        lake.refs.delete("first")
        assert lake.refs.tags() == []
        assert lake.snapshot().get("path") == b"bytes"
