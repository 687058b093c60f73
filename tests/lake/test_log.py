"""The log: what opens a lake when hints, checkpoints or the head are lost or damaged (I4)."""

from __future__ import annotations

import errno
import itertools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import Conflict, Corrupt, Invalid, NotFound, VolumeFailed
from lakefeed.format import envelope
from lakefeed.format.commit import Changes, State, decode_checkpoint
from lakefeed.lake import layout
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import (
    CATCHING_UP_MAX,
    CHECKPOINT_EVERY,
    CHECKPOINTS_GUESSED,
    Draft,
    Log,
)
from lakefeed.lake.scrub import scrub
from lakefeed.volume.base import read_file, write_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import contents, damage, new_lake, put_bytes, write
from tests.support.faulty import FaultyVolume

DRAFT = Draft("test", author="tester")


def nothing(state: State) -> Changes:
    return Changes()


def history_of(count: int) -> MemoryVolume:
    """A lake with so many commits."""
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        for _ in range(count):
            lake.log.commit(DRAFT, nothing)
    return volume


def test_a_new_log_is_empty_and_numbers_from_one() -> None:
    volume = history_of(0)
    assert Log(volume).head() == State()
    log = Log(volume)
    assert [log.commit(DRAFT, nothing).number for _ in range(3)] == [1, 2, 3]
    commits = list(Log(volume).history(3))
    assert [commit.number for commit in commits] == [3, 2, 1]
    assert [commit.parent for commit in commits] == [commits[1].id, commits[2].id, None]
    assert commits[0].time_ns > commits[1].time_ns > commits[2].time_ns


@pytest.mark.parametrize("lost", ["hint", "checkpoint", "both"])
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_the_head_is_found_without_hint_and_checkpoint(
    lost: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    count = CHECKPOINT_EVERY * 2 + 5
    volume = history_of(count)
    wanted = Log(volume).head()
    paths = {"hint": [layout.HEAD_HINT],
             "checkpoint": [layout.checkpoint_path(CHECKPOINT_EVERY * 2)]}  # fmt: skip
    for path in paths.get(lost) or [*paths["hint"], *paths["checkpoint"]]:
        if how == "gone":
            volume.unlink(path)
        else:
            damage(volume, path, 30)
    with caplog.at_level(logging.WARNING):
        assert Log(volume).head() == wanted
    # A damaged checkpoint is worth a line, a lost hint is not.
    assert bool(caplog.records) == (how == "damaged" and lost != "hint")


def test_a_hint_that_lags_or_lies_ahead_only_costs_time() -> None:
    volume = history_of(CHECKPOINT_EVERY + 3)
    wanted = Log(volume).head()
    other = history_of(CHECKPOINT_EVERY * 3)
    put_bytes(volume, layout.HEAD_HINT, read_file(other, layout.HEAD_HINT))
    assert Log(volume).head() == wanted


@pytest.mark.parametrize("lost", ["nothing", "hint", "checkpoints"])
def test_a_reader_that_was_away_for_long_goes_on_from_a_checkpoint(lost: str) -> None:
    volume = FaultyVolume(history_of(CHECKPOINT_EVERY * 10 + 5))
    log = Log(volume)
    log._remember(log.at(3))
    if lost == "hint":
        volume.unlink(layout.HEAD_HINT)
    for number in range(10 if lost == "checkpoints" else 0):
        volume.unlink(layout.checkpoint_path((number + 1) * CHECKPOINT_EVERY))
    wanted = Log(volume).head()
    before = volume.count("open")
    assert log.head() == wanted
    replayed = CATCHING_UP_MAX + 2 * CHECKPOINTS_GUESSED
    assert (volume.count("open") - before < replayed) == (lost != "checkpoints")


@pytest.mark.parametrize("number", [CHECKPOINT_EVERY * 1000, (1 << 63) - 1, 10**20 - 1])
def test_a_number_far_beyond_the_log_costs_a_listing_and_no_search(number: int) -> None:
    inner = history_of(CHECKPOINT_EVERY + 1)
    inner.unlink(layout.HEAD_HINT)
    if number < 1 << 63:
        hint = envelope.seal({"type": "hint", "number": number})
        write_file(inner, layout.HEAD_HINT, hint)
    else:
        write_file(inner, layout.commit_path(number), b"of somebody else")
    volume = FaultyVolume(inner)
    assert Log(volume).head().number == CHECKPOINT_EVERY + 1
    assert volume.count("open") < 2 * CHECKPOINTS_GUESSED
    assert volume.count("list") <= 2


def copy_that_ended_early() -> MemoryVolume:
    """A log copied in the order of names, up to a checkpoint: its own commit comes behind it."""
    volume = history_of(CHECKPOINT_EVERY + 1)
    for number in (CHECKPOINT_EVERY, CHECKPOINT_EVERY + 1):
        volume.unlink(layout.commit_path(number))
    return volume


def test_a_commit_is_never_hidden_by_the_checkpoint_of_one_that_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    volume = copy_that_ended_early()
    with caplog.at_level(logging.WARNING):
        assert Log(volume).head().number == CHECKPOINT_EVERY - 1
    assert layout.checkpoint_path(CHECKPOINT_EVERY) in caplog.text
    made = Log(volume).commit(DRAFT, nothing)
    assert made.number == CHECKPOINT_EVERY
    # Another process sees it, also by the checkpoint, which was replaced.
    assert Log(volume).head() == made
    path = layout.checkpoint_path(CHECKPOINT_EVERY)
    assert decode_checkpoint(read_file(volume, path), path) == made
    later = Log(volume).commit(DRAFT, nothing)
    assert Log(volume).head() == later


def test_a_checkpoint_of_another_commit_is_passed_over() -> None:
    volume = copy_that_ended_early()
    path = layout.checkpoint_path(CHECKPOINT_EVERY)
    stale = read_file(volume, path)
    Log(volume).commit(DRAFT, nothing)
    put_bytes(volume, path, stale)
    made = Log(volume).commit(DRAFT, nothing)
    assert made.number == CHECKPOINT_EVERY + 1
    assert Log(volume).head() == Log(volume).at(made.number) == made


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_checkpoint_stands_for_a_lost_commit_that_others_follow(how: str) -> None:
    volume = history_of(CHECKPOINT_EVERY + 1)
    wanted = Log(volume).head()
    if how == "gone":
        volume.unlink(layout.commit_path(CHECKPOINT_EVERY))
    else:
        damage(volume, layout.commit_path(CHECKPOINT_EVERY), 50)
    assert Log(volume).head() == wanted


def test_a_damaged_head_is_ignored_by_readers_and_stops_writers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
    damage(volume, layout.commit_path(2), 50)
    with caplog.at_level(logging.WARNING), Lake.open(volume) as lake:
        assert contents(lake.snapshot()) == {"a": b"1"}
        assert "damaged commit" in caplog.text
        with pytest.raises(Corrupt):
            write(lake, {"a": b"3"})
        assert contents(lake.snapshot()) == {"a": b"1"}


def test_a_damaged_commit_below_the_head_never_passes_for_the_head() -> None:
    volume = history_of(5)
    damage(volume, layout.commit_path(3), 50)
    with pytest.raises(Corrupt, match=layout.commit_path(3)):
        Log(volume).head()
    assert Log(volume).at(2).number == 2


def test_a_commit_moved_to_another_number_is_refused() -> None:
    volume = history_of(3)
    put_bytes(volume, layout.commit_path(3), read_file(volume, layout.commit_path(2)))
    with pytest.raises(Corrupt):
        Log(volume).head()


def test_any_state_of_the_past_can_be_had() -> None:
    volume = MemoryVolume()
    count = CHECKPOINT_EVERY + 3
    with new_lake(volume) as lake:
        for number in range(count):
            write(lake, {"a": str(number).encode()})
        for number in (0, 1, CHECKPOINT_EVERY, CHECKPOINT_EVERY + 1, count):
            state = Log(volume).at(number)
            assert (state.number, len(state.packs)) == (number, number)
        with pytest.raises(NotFound):
            Log(volume).at(count + 1)


def test_many_states_of_the_past_take_no_commit_that_one_alone_would_not() -> None:
    count = CHECKPOINT_EVERY * 2 + 5
    volume = history_of(count)
    numbers = [CHECKPOINT_EVERY - 2, CHECKPOINT_EVERY + 5, CHECKPOINT_EVERY + 9, count]
    wanted = [Log(volume).at(number) for number in numbers]
    damage(volume, layout.commit_path(CHECKPOINT_EVERY - 1), 30)  # a checkpoint stands behind it
    assert list(Log(volume).states(reversed(numbers))) == wanted
    volume.unlink(layout.checkpoint_path(CHECKPOINT_EVERY * 2))
    watched = FaultyVolume(volume)
    assert list(Log(watched).states(numbers[1:])) == wanted[1:]
    assert watched.count("open") < count


def test_before_finds_the_last_commit_at_or_before_a_time() -> None:
    volume = history_of(7)
    log = Log(volume)
    times = [log.read(number).time_ns for number in range(1, 8)]
    for number, time_ns in enumerate(times, 1):
        assert log.before(time_ns) == number
        assert log.before(time_ns - 1) == number - 1
    assert log.before(times[-1] + 10**12) == 7
    assert log.before(0) == 0


def test_a_lost_race_calls_the_plan_again_with_the_newer_state() -> None:
    volume = history_of(1)
    first, second = Log(volume), Log(volume)
    seen: list[int] = []

    def plan(state: State) -> Changes:
        seen.append(state.number)
        if len(seen) == 1:
            second.commit(DRAFT, nothing)
        return Changes()

    assert first.commit(DRAFT, plan).number == 3
    assert seen == [1, 2]


def test_a_plan_that_gives_up_publishes_nothing() -> None:
    volume = history_of(1)

    def plan(state: State) -> Changes:
        raise Conflict("inputs", found="gone")

    with pytest.raises(Conflict):
        Log(volume).commit(DRAFT, plan)
    assert Log(volume).head().number == 1
    assert list(volume.list(layout.TMP)) == []


def test_many_writers_make_one_total_history() -> None:
    volume = history_of(0)
    barrier = threading.Barrier(4)

    def work() -> None:
        log = Log(volume)
        barrier.wait()
        for _ in range(10):
            log.commit(DRAFT, nothing)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = Log(volume)
    assert log.head().number == 40
    commits = list(log.history(40))
    assert all(new.parent == old.id for new, old in itertools.pairwise(commits))
    assert len({commit.id for commit in commits}) == 40


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_link_without_an_answer_is_decided_by_the_commit_id(mode: str) -> None:
    volume = FaultyVolume(history_of(1), 1, mode, verbs=["link"])  # type: ignore[arg-type]
    assert Log(volume).commit(DRAFT, nothing).number == 2
    assert volume.fired
    assert Log(volume.inner).head().number == 2


def test_a_link_that_cannot_work_is_reported_as_unacknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(source: str, target: str) -> None:
        raise VolumeFailed(f"link {target}", found="not permitted", errno=errno.EPERM)

    volume = history_of(1)
    monkeypatch.setattr(volume, "link", refuse)
    with pytest.raises(VolumeFailed, match=r"publish commit 2 .* link .*not permitted") as caught:
        Log(volume).commit(DRAFT, nothing)
    assert "not acknowledged" in str(caught.value.hint)
    assert caught.value.errno == errno.EPERM
    assert Log(volume).head().number == 1


@pytest.mark.parametrize("commits", [0, 2, 4])
def test_a_lake_that_was_made_anew_takes_no_commit_of_a_writer_of_the_old_one(commits: int) -> None:
    volume = history_of(4)
    old = Log(volume)
    assert old.head().number == 4
    for number in range(1, 5):
        volume.unlink(layout.commit_path(number))
    new = Log(volume)
    for _ in range(commits):
        new.commit(DRAFT, nothing)
    with pytest.raises(Corrupt, match=r"commit 4 of .* as it was.*made anew"):
        old.commit(DRAFT, nothing)
    assert [new.commit(DRAFT, nothing).number for _ in range(6)][-1] == commits + 6


def test_a_lake_that_went_away_is_not_begun_anew_by_its_writer(tmp_path: Path) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake, lake.writer() as writer:
        writer.put("a", b"1").wait()
        where.rename(tmp_path / "elsewhere")
        with pytest.raises(NotFound, match="is the volume mounted"):
            writer.put("b", b"2").wait()
    assert not where.exists()


@pytest.mark.parametrize("work", [collect, scrub])
def test_a_lake_that_went_away_is_not_begun_anew_by_its_keeper(
    tmp_path: Path, work: Callable[[Lake], object]
) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        write(lake, {"a": b"1"})
        where.rename(tmp_path / "elsewhere")
        with pytest.raises(NotFound, match="is the volume mounted"):
            work(lake)
    assert not where.exists()


def test_a_volume_that_dies_at_the_link_is_reported_and_publishes_nothing() -> None:
    volume = FaultyVolume(history_of(1), 1, "before", dead=True, verbs=["link"])
    with pytest.raises(VolumeFailed, match="an injected fault"):
        Log(volume).commit(DRAFT, nothing)
    assert volume.fired
    assert Log(volume.inner).head().number == 1


def test_a_failed_checkpoint_does_not_fail_the_commit(caplog: pytest.LogCaptureFixture) -> None:
    inner = history_of(CHECKPOINT_EVERY - 1)
    volume = FaultyVolume(inner, 2, "before", verbs=["link"])
    with caplog.at_level(logging.WARNING):
        assert Log(volume).commit(DRAFT, nothing).number == CHECKPOINT_EVERY
    assert "no checkpoint" in caplog.text
    assert Log(inner).head().number == CHECKPOINT_EVERY


@pytest.mark.parametrize(
    "facts", [{"message": 7}, {"app": {"offset": 5}}, {"app": {5: "offset"}}, {"operation": None}]
)
def test_what_readers_would_refuse_is_never_drafted(facts: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="text"):
        Draft(**{"operation": "write", **facts})


def test_draft_facts_are_in_the_commit() -> None:
    volume = history_of(0)
    draft = Draft("import", "from a camera", {"offset": "17"}, "me")
    Log(volume).commit(draft, nothing)
    commit = Log(volume).read(1)
    assert (commit.operation, commit.message, commit.app, commit.author) == (
        "import", "from a camera", {"offset": "17"}, "me")  # fmt: skip
