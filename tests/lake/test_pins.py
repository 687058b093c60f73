"""A held snapshot outlives its retention, and a hold that lapsed says so."""

from __future__ import annotations

import errno
import threading

import pytest

from lakefeed.errors import SnapshotExpired, VolumeFailed
from lakefeed.format.commit import Changes
from lakefeed.lake import garbage, layout, pins
from lakefeed.lake.garbage import Facts, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.refs import Pin
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.metered import Meter, MeteredVolume
from tests.lake.test_garbage import AT_ONCE, timed_lake
from tests.lake.tools import contents, new_lake, write
from tests.support.threads import Threads


def drop(lake: Lake, seq: int) -> None:
    (gone,) = [id_ for id_, info in lake.snapshot().state.packs.items() if info.seq == seq]
    lake.log.commit(Draft("test"), lambda state: Changes(remove_packs=(gone,)))


def test_i3_a_held_snapshot_stays_whole_until_it_is_given_up() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        with lake.hold(holder="test") as hold:
            write(lake, {"b": b"2"})
            drop(lake, 1)
            collect(lake, AT_ONCE)
            hold.check()
            assert contents(lake.snapshot(hold.number)) == {"a": b"1"}
        assert collect(lake, AT_ONCE).deleted == 1
        assert not list(lake.volume.list(layout.PINS))


def test_i9_leaving_the_block_ends_the_heartbeat(threads: Threads) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        hold = lake.hold(holder="test")
        with hold:
            assert [thread.name for thread in threads.running()] == ["lakefeed-pin"]
        hold.close()
        assert threads.running() == []


def test_a_pin_is_renewed_before_it_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Semaphore(0)
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        renew = lake.renew

        def counting(*args: object) -> object:
            pin = renew(*args)  # type: ignore[arg-type]
            renewed.release()
            return pin

        monkeypatch.setattr(lake, "renew", counting)
        with lake.hold(holder="test", lifetime_seconds=0.05):
            for _ in range(3):
                assert renewed.acquire(timeout=60)


def test_a_hold_that_lapsed_says_so() -> None:
    lapsed = threading.Event()

    class Lapsing:
        def renew(self, pin: object, lifetime_seconds: float) -> pins.Pin:
            lapsed.set()
            raise SnapshotExpired("snapshot 1 of test")

    volume = MemoryVolume()
    with Lake.create(volume) as lake:
        write(lake, {"a": b"1"})
        pin = lake.pin(holder="test", lifetime_seconds=60)
        hold = pins.Hold(Lapsing(), pin, lake.refs.unpin, 0.01)
        with hold:
            assert lapsed.wait(60)
            hold._thread.join(60)
            with pytest.raises(SnapshotExpired):
                hold.check()


def test_a_beat_that_failed_is_followed_by_others() -> None:
    renewed = threading.Event()

    class Ailing:
        failed = False

        def renew(self, pin: pins.Pin, lifetime_seconds: float) -> pins.Pin:
            if not self.failed:
                self.failed = True
                raise VolumeFailed("pin", errno=errno.EIO)
            renewed.set()
            return pin

    with new_lake() as lake:
        write(lake, {"a": b"1"})
        pin = lake.pin(holder="test", lifetime_seconds=60)
        with pins.Hold(Ailing(), pin, lake.refs.unpin, 0.01) as hold:
            assert renewed.wait(60)
            hold.check()


def test_a_pin_and_its_renewal_read_no_tags_where_the_snapshot_is_kept_for_its_age() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        for number in range(20):
            lake.tag(f"t{number:02}", 0)
        meter = Meter()
        with Lake.open(MeteredVolume(lake.volume, meter)) as other:
            other.renew(other.pin(holder="test", lifetime_seconds=60), 60)
        assert meter.readings()["open"].calls < 20


def test_a_tagged_snapshot_can_be_pinned_while_collection_gives_up_its_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        lake.tag("kept", 1)
        drop(lake, 1)
        renew = lake.refs.renew

        def collect_then_renew(*args: object) -> pins.Pin:
            monkeypatch.setattr(lake.refs, "renew", renew)
            lake.log.commit(Draft("gc"), lambda state: Changes(horizon=state.number))
            return renew(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(lake.refs, "renew", collect_then_renew)
        pin = lake.pin(1, holder="test", lifetime_seconds=60)
        assert lake.snapshot().state.horizon == 2
        assert lake.refs.pins() == [pin]


def test_a_pin_that_could_not_be_confirmed_while_collection_began_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
        renew = lake.refs.renew

        def collect_then_renew(*args: object) -> pins.Pin:
            lake.log.commit(Draft("gc"), lambda state: Changes(horizon=state.number))
            return renew(*args)  # type: ignore[arg-type]

        def sick(number: int) -> bool:
            raise VolumeFailed("refs", hint=f"of {number}")

        monkeypatch.setattr(lake.refs, "renew", collect_then_renew)
        monkeypatch.setattr(lake.refs, "is_tagged", sick)
        with pytest.raises(VolumeFailed):
            lake.pin(1, holder="test", lifetime_seconds=60)
        assert lake.refs.pins() == []


def test_i3_a_pin_counts_where_the_clock_was_ahead_as_collection_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        drop(lake, 1)
        gather = garbage._gather

        def gather_then_pin(*args: object) -> Facts:
            facts = gather(*args)  # type: ignore[arg-type]
            clock.pass_days(-0.25)  # the server's clock is set right
            lake.pin(1, holder="in time", lifetime_seconds=3600)
            return facts

        monkeypatch.setattr(garbage, "_gather", gather_then_pin)
        assert collect(lake, AT_ONCE).deleted == 0
        assert contents(lake.snapshot(1)) == {"a": b"1"}


def test_i3_a_pin_counts_that_is_renewed_just_after_the_clock_was_set_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        drop(lake, 1)
        gather, needed, pins = garbage._gather, garbage._needed, list[Pin]()

        def gather_then_pin(*args: object) -> Facts:
            facts = gather(*args)  # type: ignore[arg-type]
            pins.append(lake.pin(1, holder="in time", lifetime_seconds=3600))
            return facts

        def renew_and_look(*args: object) -> set[str]:
            clock.pass_days(-0.25)
            lake.renew(pins[0], 3600)
            return needed(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(garbage, "_gather", gather_then_pin)
        monkeypatch.setattr(garbage, "_needed", renew_and_look)
        assert collect(lake, AT_ONCE).deleted == 0
        assert contents(lake.snapshot(1)) == {"a": b"1"}
