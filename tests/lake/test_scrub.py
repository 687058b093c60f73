"""Verification goes on where it ended, names what is damaged, and remembers it."""

from __future__ import annotations

import errno
import random

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.format import columns
from lakefeed.lake import check_payloads, layout, reaching
from lakefeed.lake import scrub as scrub_module
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.scrub import Damaged, ScrubOptions, known_damage, read_state, scrub
from lakefeed.lake.throttle import Throttle
from lakefeed.volume.base import read_file
from tests.lake.tools import QUIET, damage, new_lake, small_groups, write
from tests.support.faulty import FaultyVolume
from tests.support.threads import Threads

SOON = ScrubOptions(max_seconds=0)


def spoil(lake: Lake, path: str) -> str:
    """Change one byte of a file's payload; return its pack."""
    row = lake.snapshot().stat(path)
    damage(lake.volume, layout.pack_path(row.pack), row.offset)
    return row.pack


def named(found: tuple[Damaged, ...]) -> list[str]:
    return [one.path for one in found]


def test_a_round_reads_every_payload_once() -> None:
    with new_lake() as lake:
        for number in range(3):
            write(lake, {f"{number}/a": b"x" * 100, f"{number}/b": b"y" * 10})
        done = scrub(lake)
        assert (done.complete, done.packs, done.payloads, done.verified_bytes) == (True, 3, 6, 330)
        assert done.damaged == ()
        assert read_state(lake.volume).round == 2


def test_short_runs_add_up_to_a_round_oldest_first() -> None:
    with new_lake() as lake:
        for number in range(4):
            write(lake, {f"{number}": b"x"})
        seqs = []
        for _ in range(4):
            done = scrub(lake, SOON)
            seqs.append(done.state.seq)
            assert done.payloads == 1
        assert seqs == [1, 2, 3, 0]
        assert done.complete


def test_no_more_is_read_at_once_than_the_rate_lets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    monkeypatch.setattr(Throttle, "take", lambda self, amount: passed.append(amount))
    monkeypatch.setattr(check_payloads, "PIECE_BYTES", 1000)
    monkeypatch.setattr(check_payloads, "_STREAM_BYTES", 1000)
    with new_lake() as lake:
        write(lake, {f"{number}": random.randbytes(400) for number in range(10)})
        write(lake, {"big": random.randbytes(5000)})
        steps: list[int] = []
        done = scrub(lake, ScrubOptions(rate_bytes=1e6), lambda *_: steps.append(len(passed)))
    assert done.verified_bytes == sum(passed) == 9000
    assert max(passed) == 1000
    assert len(steps) > 5  # who is asked to end need not wait for the rest of a pack


@pytest.mark.parametrize("sizes", [(5000,), (400,) * 30])
def test_who_asks_a_slow_run_to_end_waits_for_no_file_and_no_thread(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, threads: Threads
) -> None:
    monkeypatch.setattr(check_payloads, "PIECE_BYTES", 1000)
    monkeypatch.setattr(check_payloads, "_STREAM_BYTES", 1000)
    monkeypatch.setattr(check_payloads, "_ASK_SECONDS", 0.01)

    def stop(*_: int) -> None:
        raise InterruptedError

    with new_lake() as lake:
        write(lake, {f"{number}": random.randbytes(size) for number, size in enumerate(sizes)})
        with pytest.raises(InterruptedError):
            scrub(lake, ScrubOptions(rate_bytes=0.01), stop)  # a piece alone takes hours
        assert threads.running() == []


def test_a_run_goes_on_inside_a_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "GROUP_ROWS", 3)
    with new_lake() as lake:
        write(lake, {f"{number:02d}": b"%d" % number for number in range(10)})
        pack = spoil(lake, "01")
        spoil(lake, "08")
        first = scrub(lake, SOON)
        assert (first.state.pack, first.state.group, first.payloads) == (pack, 1, 3)
        assert named(first.damaged) == ["01"]
        runs = 1
        while not (done := scrub(lake, SOON)).complete:
            runs += 1
        assert runs == 3
        assert named(done.damaged) == ["01", "08"]


def test_what_another_run_finds_in_newer_packs_meanwhile_stays_noted() -> None:
    with new_lake() as lake, Lake.open(lake.volume) as other:
        write(lake, {"a": b"1"})

        def meanwhile(*_: int) -> None:
            if lake.log.head().number > 1:
                return
            write(other, {"b": b"2" * 50})
            spoil(other, "b")
            assert named(scrub(other).damaged) == ["b"]

        assert named(scrub(lake, progress=meanwhile).damaged) == ["b"]
        assert named(known_damage(other)) == ["b"]


def test_findings_stay_until_the_pack_is_sound_or_gone() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1" * 50, "b": b"2"})
        write(lake, {"c": b"3"})
        pack = spoil(lake, "a")
        sound = bytearray(read_file(lake.volume, layout.pack_path(pack)))
        assert named(scrub(lake).damaged) == ["a"]
        with Lake.open(lake.volume) as other:
            assert named(known_damage(other)) == ["a"]
        offset = lake.snapshot().stat("a").offset
        damage(lake.volume, layout.pack_path(pack), offset)
        assert read_file(lake.volume, layout.pack_path(pack)) != bytes(sound)
        assert scrub(lake).damaged == ()
        spoil(lake, "a")
        assert named(scrub(lake).damaged) == ["a"]
        write(lake, {"a": b"new", "b": b"new"})
        compact(lake)
        collect(lake, Retention(0, 0))
        assert known_damage(lake) == ()
        assert scrub(lake).damaged == ()
        noted = [entry.name for entry in lake.volume.list(layout.SCRUB)]
        assert noted == ["state.json"]


def test_a_run_that_ends_inside_a_pack_forgets_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "GROUP_ROWS", 3)
    with new_lake() as lake:
        write(lake, {f"{number:02d}": b"%d" % number for number in range(10)})
        for path in ("01", "04", "08"):
            spoil(lake, path)
        assert named(scrub(lake).damaged) == ["01", "04", "08"]
        spoil(lake, "04")  # it was read wrong once, or came back from a backup
        for complete in (False, False, False, True):
            wanted = ["01", "08"] if complete else ["01", "04", "08"]
            done = scrub(lake, SOON)
            assert (done.complete, named(done.damaged)) == (complete, wanted)


def test_a_damaged_note_is_damage_until_its_pack_was_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "GROUP_ROWS", 3)
    with new_lake() as lake:
        write(lake, {f"{number:02d}": b"%d" % number for number in range(10)})
        pack = spoil(lake, "01")
        assert named(scrub(lake, SOON).damaged) == ["01"]
        damage(lake.volume, layout.findings_path(pack), 60)
        assert named(known_damage(lake)) == [layout.findings_path(pack)]
        # The run was inside the pack: what it had found there is to be found once more.
        assert named(scrub(lake).damaged) == ["01"]
        damage(lake.volume, layout.findings_path(pack), 60)
        spoil(lake, "01")  # it came back from a backup
        assert scrub(lake).damaged == ()


def test_a_damaged_note_is_damage_while_its_pack_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "GROUP_ROWS", 3)
    with new_lake() as lake:
        write(lake, {f"{number:02d}": b"%d" % number for number in range(10)})
        pack = spoil(lake, "08")
        scrub(lake)
        note = layout.findings_path(pack)
        damage(lake.volume, note, 60)
        found = [named(scrub(lake, SOON).damaged) for _ in range(4)]
        assert found == [[note], [note], ["08", note], ["08"]]


def test_payloads_that_only_a_tag_or_a_pin_reaches_are_verified_too() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1" * 50})
        pack = spoil(lake, "a")
        write(lake, {"a": b"2"})
        assert scrub(lake).damaged == ()  # it is only young
        lake.tag("kept", at=1)
        (found,) = known_damage(lake)
        assert (found.pack, found.path) == (pack, "a")
        lake.refs.delete("kept")
        assert known_damage(lake) == ()
        with lake.hold(at=1, holder="reader"):
            assert named(known_damage(lake)) == ["a"]


def test_damage_that_was_put_anew_or_deleted_is_known_no_more() -> None:
    """Its pack is mostly live, so it is never rewritten."""
    with new_lake() as lake:
        write(lake, {"a": b"1" * 50, "b": b"2" * 50, "live": b"3" * 5000})
        pack = spoil(lake, "a")
        spoil(lake, "b")
        assert named(scrub(lake).damaged) == ["a", "b"]
        write(lake, {"a": b"1" * 50})
        assert named(known_damage(lake)) == ["b"]
        write(lake, {}, delete=["b"])
        collect(lake, Retention(0, 0))
        assert pack in lake.snapshot().state.packs
        assert known_damage(lake) == ()
        assert scrub(lake).damaged == ()
        lake.merge_index(everything=True)
        assert known_damage(lake) == ()


def test_damage_is_known_under_the_path_that_still_has_it() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1" * 50, "b": b"2" * 50, "live": b"3" * 5000})
        for path in ("a", "b"):
            spoil(lake, path)
        with lake.writer(QUIET) as writer:
            writer.rename("a", "renamed")
            writer.copy("b", "copied")
            writer.copy("b", "again")
        assert named(scrub(lake).damaged) == ["b", "renamed"]
        write(lake, {"b": b"new", "again": b"new"})
        assert named(known_damage(lake)) == ["copied", "renamed"]
        lake.merge_index(everything=True)
        assert named(known_damage(lake)) == ["copied", "renamed"]
        write(lake, {}, delete=["copied", "renamed"])
        assert known_damage(lake) == ()


def test_damage_stays_known_where_nobody_can_tell_who_needs_it() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1" * 50, "live": b"3" * 5000})
        spoil(lake, "a")
        assert named(scrub(lake).damaged) == ["a"]
        write(lake, {"a": b"new"})
        (segment,) = lake.merge_index(everything=True).state.segments
        assert known_damage(lake) == ()
        damage(lake.volume, layout.segment_path(segment), -1)
        with Lake.open(lake.volume) as other:
            assert named(known_damage(other)) == ["a"]


def test_damage_is_told_where_its_pack_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1" * 50})
        spoil(lake, "a")
        assert named(scrub(lake).damaged) == ["a"]

        def fails(*args: object) -> None:
            raise VolumeFailed("read of a pack", errno=errno.EIO)

        monkeypatch.setattr(reaching, "locate", fails)
        assert named(known_damage(lake)) == ["a"]


def test_a_full_note_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had no room for is nowhere."""
    monkeypatch.setattr(scrub_module, "FINDINGS_MAX", 2)
    with new_lake() as lake:
        write(lake, {**{name: name.encode() * 50 for name in "abc"}, "live": b"3" * 5000})
        for path in "abc":
            spoil(lake, path)
        assert named(scrub(lake).damaged) == ["a", "b"]
        write(lake, {"a": b"new", "b": b"new"})
        assert named(known_damage(lake)) == ["a", "b"]


def test_a_pack_that_is_no_pack_is_a_finding() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        (pack,) = lake.snapshot().state.packs
        damage(lake.volume, layout.pack_path(pack), -1)
        (found,) = scrub(lake).damaged
        assert found.path == layout.pack_path(pack)


def test_damaged_rows_of_a_pack_are_a_finding_and_its_other_rows_are_verified() -> None:
    with small_groups(), new_lake() as lake:
        write(lake, {f"{number}": b"x" for number in range(10)})
        spoil(lake, "9")
        ((pack, info),) = lake.snapshot().state.packs.items()
        path = layout.pack_path(pack)
        damage(lake.volume, path, info.sealed.payload_end + 8)
    with Lake.open(lake.volume) as lake:
        found = scrub(lake).damaged
        assert named(found) == ["9", f"{path}, row group 0"]
        assert known_damage(lake) == found


def test_a_volume_that_fails_is_no_damage() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1" * 50})
        faulty = FaultyVolume(lake.volume, fail_at=12)
        with Lake.open(faulty) as other, pytest.raises(VolumeFailed):
            scrub(other)
        assert known_damage(lake) == ()


def test_a_new_round_can_be_asked_for() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"b": b"2"})
        scrub(lake, SOON)
        done = scrub(lake, ScrubOptions(restart=True))
        assert (done.payloads, done.state.round) == (2, 3)
