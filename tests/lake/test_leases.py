"""A lease has one holder at a time, its token only grows, and only the server's clock counts."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from lakefeed.errors import Conflict, Invalid
from lakefeed.lake import layout, leases
from lakefeed.lake.lake import Lake
from lakefeed.lake.leases import Lease
from lakefeed.volume.base import Volume, write_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import damage


class Clock:
    """The server's time, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lake(clock: Clock) -> Lake:
    return Lake.create(MemoryVolume(clock_ns=clock))


def test_a_second_holder_is_told_who_has_it(lake: Lake) -> None:
    assert lake.leases.read("work") is None
    first = lake.leases.acquire("work", "a", 30)
    assert (first.token, first.holder) == (1, "a")
    with pytest.raises(Conflict) as told:
        lake.leases.acquire("work", "b", 30)
    assert told.value.found == "a has it"
    assert lake.leases.read("work") == first


def test_a_lease_that_ran_out_is_taken_with_a_higher_token_and_the_old_holder_hears_of_it(
    lake: Lake, clock: Clock
) -> None:
    first = lake.leases.acquire("work", "a", 30)
    clock.now_ns += 30 * 10**9
    second = lake.leases.acquire("work", "b", 30)
    assert (second.token, second.holder) == (2, "b")
    with pytest.raises(Conflict):
        lake.leases.renew(first, 30)
    lake.leases.release(first)
    assert lake.leases.read("work") == second
    claims = [entry.name for entry in lake.volume.list(layout.LEASES)]
    assert sorted(claims) == ["work.00000000000000000002.json", "work.json"]


def test_who_lost_a_lease_and_gives_it_up_late_takes_no_time_from_the_next_holder(
    lake: Lake, clock: Clock
) -> None:
    first = lake.leases.acquire("work", "a", 30)
    clock.now_ns += 30 * 10**9
    second = lake.leases.renew(lake.leases.acquire("work", "b", 30), 300)
    lake.leases.release(first)
    assert lake.leases.read("work") == second


def test_renewing_keeps_it_and_releasing_gives_it_away_at_once(lake: Lake, clock: Clock) -> None:
    lease = lake.leases.acquire("work", "a", 30)
    clock.now_ns += 20 * 10**9
    lease = lake.leases.renew(lease, 30)
    clock.now_ns += 20 * 10**9
    with pytest.raises(Conflict):
        lake.leases.acquire("work", "b", 30)
    lake.leases.release(lease)
    assert lake.leases.acquire("work", "b", 30).token == 2


def test_the_same_holder_gets_its_lease_again(lake: Lake) -> None:
    lake.leases.acquire("work", "a", 30)
    assert lake.leases.acquire("work", "a", 30).token == 1


def test_claims_whose_makers_died_before_their_entries_count(lake: Lake, clock: Clock) -> None:
    lake.leases.acquire("work", "a", 30)
    for token, holder in (2, "b"), (3, "c"):
        clock.now_ns += 30 * 10**9
        dies = patch.object(type(lake.leases), "_write", side_effect=KeyboardInterrupt)
        with dies, pytest.raises(KeyboardInterrupt):
            lake.leases.acquire("work", holder, 30)
        found = lake.leases.read("work")
        assert found is not None
        assert (found.token, found.holder) == (token, holder)
        with pytest.raises(Conflict):
            lake.leases.acquire("work", "d", 30)
    clock.now_ns += 30 * 10**9
    assert lake.leases.acquire("work", "d", 30).token == 4


def test_claims_of_holders_that_died_are_removed_by_the_next_one(lake: Lake, clock: Clock) -> None:
    unlink = lake.volume.unlink

    def dies(path: str) -> None:
        if path.startswith(layout.LEASES):
            raise KeyboardInterrupt
        unlink(path)

    for holder in "abc":
        with suppress(KeyboardInterrupt), patch.object(lake.volume, "unlink", dies):
            lake.leases.acquire("work", holder, 30)
        lake.leases.acquire(f"work-{holder}", holder, 30)
        clock.now_ns += 30 * 10**9
    token = lake.leases.acquire("work", "d", 30).token
    claims = [entry.name for entry in lake.volume.list(layout.LEASES)]
    assert [name for name in claims if name.startswith("work.")] == [
        layout.claim_path("work", token).rpartition("/")[2], "work.json"]  # fmt: skip
    assert all(lake.leases.read(f"work-{holder}") is not None for holder in "abc")


def test_an_entry_put_back_by_a_late_holder_does_not_bring_its_token_back(
    lake: Lake, clock: Clock
) -> None:
    first = lake.leases.acquire("work", "a", 30)
    clock.now_ns += 30 * 10**9
    second = lake.leases.acquire("work", "b", 30)
    lake.leases._write(Lease("work", "a", first.token, clock.now_ns + 10**12))
    with pytest.raises(Conflict):
        lake.leases.renew(first, 30)
    assert lake.leases.renew(second, 30).token == 2


def test_of_many_who_want_it_at_once_exactly_one_gets_each_token(lake: Lake, clock: Clock) -> None:
    won: list[Lease] = []

    def want(number: int) -> None:
        try:
            won.append(lake.leases.acquire("work", f"h{number}", 30))
        except Conflict:
            return

    for _ in range(10):
        threads = [threading.Thread(target=want, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.now_ns += 31 * 10**9
    assert [lease.token for lease in won] == [*range(1, 11)]


def test_who_claims_in_the_same_moment_and_comes_second_does_not_hold_it(
    lake: Lake, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = leases._sealed

    def beaten(lease: Lease) -> bytes:
        monkeypatch.setattr(leases, "_sealed", seal)
        assert lake.leases.acquire("work", "faster", 30).token == 1
        return seal(lease)

    monkeypatch.setattr(leases, "_sealed", beaten)
    with pytest.raises(Conflict) as told:
        lake.leases.acquire("work", "slower", 30)
    assert told.value.found == "faster has it"


def test_who_is_beaten_each_time_does_not_hold_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(volume: Volume, data: bytes, path: str) -> None:
        raise Conflict(path)

    monkeypatch.setattr(leases, "place_new", taken)
    with pytest.raises(Conflict) as told:
        lake.leases.acquire("work", "slow", 30)
    assert told.value.found == f"{leases.ROUNDS_MAX} others were faster"


def test_a_claim_that_somebody_removed_already_is_no_failure(
    lake: Lake, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = lake.volume.unlink

    def twice(path: str) -> None:
        unlink(path)
        if path.startswith(layout.LEASES):
            unlink(path)  # the answer to the first was lost

    lake.leases.acquire("work", "a", 30)
    clock.now_ns += 30 * 10**9
    monkeypatch.setattr(lake.volume, "unlink", twice)
    assert lake.leases.acquire("work", "b", 30).token == 2
    assert [entry.name for entry in lake.volume.list(layout.LEASES)].count("work.json") == 1


def test_a_token_is_not_given_again_after_a_power_cut(clock: Clock) -> None:
    volume = MemoryVolume(clock_ns=clock)
    with Lake.create(volume) as lake:
        lake.leases.acquire("work", "a", 30)
        clock.now_ns += 30 * 10**9
        second = lake.leases.acquire("work", "b", 30)
    with Lake.open(volume.power_cut()) as lake:
        assert lake.leases.read("work") == second


def test_the_clock_of_the_client_does_not_matter(lake: Lake) -> None:
    with patch.object(time, "time_ns", lambda: 0), patch.object(time, "time", lambda: 0.0):
        lake.leases.acquire("work", "a", 30)
    later = time.time() + 6 * 3600
    with patch.object(time, "time", lambda: later), pytest.raises(Conflict):
        lake.leases.acquire("work", "b", 30)


def test_a_token_of_somebody_else_is_not_held(lake: Lake) -> None:
    held = lake.leases.acquire("work", "a", 30)
    other = replace(held, holder="b")  # as a lake that was restored makes them
    with pytest.raises(Conflict):
        lake.leases.renew(other, 30)
    lake.leases.release(other)
    assert lake.leases.read("work") == held


def test_a_lease_that_a_restored_lake_knows_nothing_of_is_held_on_to(lake: Lake) -> None:
    held = lake.leases.acquire("work", "a", 30)
    for entry in [*lake.volume.list(layout.LEASES)]:
        lake.volume.unlink(f"{layout.LEASES}/{entry.name}")
    assert lake.leases.read("work") is None
    lake.leases.release(held)
    assert lake.leases.read("work") is None
    assert lake.leases.renew(held, 60) == lake.leases.read("work")


def test_leases_are_listed_and_taken_where_a_copy_left_their_empty_directory_out(
    tmp_path: Path,
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        (tmp_path / "lake" / layout.LEASES).rmdir()
        assert lake.leases.names() == []
        for name in ("work", "play", "play"):
            lake.leases.acquire(name, "a", 0)
        assert lake.leases.names() == ["play", "work"]


def test_foreign_files_beside_leases_are_left_alone(lake: Lake, clock: Clock) -> None:
    foreign = {f"{layout.LEASES}/{name}" for name in ("README", ".hidden", "work.old.json")}
    for path in foreign:
        write_file(lake.volume, path, b"mine")
    for token in (1, 2):
        assert lake.leases.acquire("work", "a", 30).token == token
        clock.now_ns += 30 * 10**9
    there = {f"{layout.LEASES}/{entry.name}" for entry in lake.volume.list(layout.LEASES)}
    assert there >= foreign


def test_bad_names_are_reported(lake: Lake) -> None:
    with pytest.raises(Invalid):
        lake.leases.acquire("../work", "a", 30)


@pytest.mark.parametrize("claim_too", [False, True])
def test_a_damaged_lease_is_its_holders_by_its_claim_and_mended_by_the_next_one(
    lake: Lake, clock: Clock, claim_too: bool
) -> None:
    lake.leases.acquire("work", "a", 0)
    held = lake.leases.acquire("work", "b", 30)
    for _ in range(3):
        lake.leases.acquire("workshop", "c", 0)  # another one, with a higher token
    clock.now_ns += 10**9
    damage(lake.volume, layout.lease_path("work"), 60)
    if claim_too:
        damage(lake.volume, layout.claim_path("work", held.token), 60)
        assert lake.leases.acquire("work", "c", 30).token == 3
        with pytest.raises(Conflict):
            lake.leases.renew(held, 30)
    else:
        assert lake.leases.read("work") == held
        with pytest.raises(Conflict):
            lake.leases.acquire("work", "c", 30)
        held = lake.leases.renew(held, 30)
    found = lake.leases.read("work")
    assert found is not None
    assert found.expires_ns == clock.now_ns + 30 * 10**9
