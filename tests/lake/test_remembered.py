"""What another client did is seen by whoever asks for it, whatever his own client remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lakefeed.errors import NotFound
from lakefeed.format.commit import Changes, State
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.placing import place_over
from lakefeed.lake.refs import Tag
from lakefeed.volume.base import read_file, write_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import contents, write
from tests.support.remembering import RememberingVolume


@pytest.fixture
def server() -> MemoryVolume:
    server = MemoryVolume()
    with Lake.create(server) as lake:
        write(lake, {"a": b"1"})
    return server


def client(server: MemoryVolume) -> Lake:
    return Lake.open(RememberingVolume(server))


def test_a_lake_that_was_not_there_yet_can_be_opened() -> None:
    server = MemoryVolume()
    volume = RememberingVolume(server)
    with pytest.raises(NotFound):
        Lake.open(volume)
    Lake.create(server).close()
    Lake.open(volume).close()


def test_a_commit_is_in_the_next_snapshot(server: MemoryVolume) -> None:
    with client(server) as one, client(server) as other:
        assert one.snapshot().number == 1
        write(other, {"b": b"2"})
        assert contents(one.snapshot()) == {"a": b"1", "b": b"2"}


def test_who_lost_the_race_for_a_number_finds_the_winner_there(server: MemoryVolume) -> None:
    with client(server) as one, client(server) as other:
        seen: list[int] = []

        def plan(state: State) -> Changes:
            seen.append(state.number)
            if len(seen) == 1:
                write(other, {"b": b"2"})
            return Changes()

        assert one.log.commit(Draft("test"), plan).number == 3
        assert seen == [1, 2]


Ask = Callable[[Lake], Any]
REFS: dict[str, tuple[Callable[[Lake], object], Ask]] = {
    "a tag": (lambda lake: lake.tag("new"), lambda lake: lake.refs.tags()),
    "a moved tag": (lambda lake: lake.refs.set(Tag("old", 0), move=True),
                    lambda lake: lake.refs.read("old").snapshot),
    "a removed tag": (lambda lake: lake.refs.delete("old"), lambda lake: lake.refs.names()),
    "a pin": (lambda lake: lake.pin(holder="test", lifetime_seconds=60),
              lambda lake: [pin.snapshot for pin in lake.refs.pins()]),
    "a lease": (lambda lake: lake.leases.acquire("work", "test", 60),
                lambda lake: lake.leases.read("work")),
    "the name of a lease": (lambda lake: lake.leases.acquire("work", "test", 60),
                            lambda lake: lake.leases.names()),
}  # fmt: skip


@pytest.mark.parametrize("what", REFS)
def test_what_another_client_keeps_or_holds_is_seen(server: MemoryVolume, what: str) -> None:
    change, ask = REFS[what]
    with client(server) as one, client(server) as other:
        one.tag("old")
        before = ask(one)
        change(other)
        with client(server) as third:
            assert ask(one) == ask(third) != before


def test_a_replacement_whose_answer_was_lost_is_found_made(server: MemoryVolume) -> None:
    class Losing(RememberingVolume):
        tries = 0

        def replace(self, source: str, target: str) -> None:
            self.tries += 1
            MemoryVolume.replace(self, source, target)  # which the client does not know
            raise NotFound(source)

    volume = Losing(server)
    write_file(volume, "refs/a", b"old")
    assert read_file(volume, "refs/a") == b"old"
    place_over(volume, b"new", "refs/a")
    assert volume.tries == 1
