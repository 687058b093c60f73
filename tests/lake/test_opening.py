"""Packs that are not merged are opened together, and who needs one that failed says why."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.format.pack import Meta, PackWriter
from lakefeed.format.payload import encode
from lakefeed.lake import catalogue, layout
from lakefeed.lake import opening as together
from lakefeed.lake import together as in_order
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import ReadableFile
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import contents, new_lake, small_groups, write
from tests.support.meeting import Meeting

PACKS, AT_ONCE = 28, 6
FILES = {f"{file}/{pack:02d}": bytes([pack]) for pack in range(PACKS) for file in "ab"}


def unmerged() -> MemoryVolume:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        for pack in range(PACKS):
            write(lake, {path: data for path, data in FILES.items() if data == bytes([pack])})
    return volume


def opening(
    monkeypatch: pytest.MonkeyPatch, volume: MemoryVolume, before: Callable[[], object],
    directory: str = layout.PACKS,
) -> None:  # fmt: skip
    """Have `before` called by whoever opens a pack, or a file of another directory."""
    plain = volume.open

    def open_file(path: str) -> ReadableFile:
        if path.startswith(f"{directory}/"):
            before()
        return plain(path)

    monkeypatch.setattr(volume, "open", open_file)


@pytest.mark.parametrize(
    "look",
    [
        lambda snapshot: snapshot.get_many([*FILES]),
        lambda snapshot: snapshot.stat("b/05"),
        lambda snapshot: snapshot.ls("a"),
        lambda snapshot: [*snapshot.scan()],
    ],
)
def test_packs_are_opened_together(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[Snapshot], object]
) -> None:
    volume = unmerged()
    # One after the other, the first would wait for the others in vain.
    meeting = threading.Barrier(AT_ONCE, timeout=60)
    places = threading.Semaphore(AT_ONCE)
    opening(monkeypatch, volume, lambda: places.acquire(blocking=False) and meeting.wait())
    with Lake.open(volume) as lake:
        look(lake.snapshot())
    assert not places.acquire(blocking=False)
    assert not meeting.broken


def test_who_needs_a_pack_that_failed_opens_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = unmerged()
    failures = [VolumeFailed("a pack", found="not now")]
    lock = threading.Lock()

    def fail() -> None:
        with lock:
            if failures:
                raise failures.pop()

    opening(monkeypatch, volume, fail)
    with Lake.open(volume) as lake:
        assert contents(lake.snapshot()) == FILES
    assert not failures


def test_a_volume_that_fails_is_not_asked_for_every_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "THREADS", 4)
    volume = unmerged()
    asked: list[int] = []

    def fail() -> None:
        asked.append(1)
        raise VolumeFailed("a pack", found="no answer in 600 seconds")

    opening(monkeypatch, volume, fail)
    with Lake.open(volume) as lake, pytest.raises(VolumeFailed, match="no answer"):
        lake.snapshot().ls("a")
    # Each thread once, and then whoever needs it.
    assert len(asked) <= 4 + 1


def test_more_packs_than_are_kept_open_are_not_opened_by_every_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (catalogue, together):
        monkeypatch.setattr(module, "READERS_MAX", 16)
    volume = unmerged()
    asked: list[int] = []
    with Lake.open(volume) as lake:
        snapshot = lake.snapshot()
        newest = f"a/{PACKS - 1:02d}"
        for _ in range(3):
            snapshot.stat(newest)
        monkeypatch.setattr(catalogue, "open_pack", lambda *_: asked.append(1))
        snapshot.stat(newest)
    assert not asked


def in_many_segments() -> tuple[MemoryVolume, list[str]]:
    """Return a lake of more segments than are opened one by one, and its paths."""
    volume = MemoryVolume()
    with small_groups(), new_lake(volume) as lake:
        for part in range(2 * AT_ONCE):
            write(lake, {f"{part:02d}/{name}": b"1" for name in "abcde"})
            lake.merge_index()
        assert len(lake.snapshot().sources) >= together.TOGETHER_MIN
        return volume, sorted(contents(lake.snapshot()))


def test_segments_that_hold_none_of_many_paths_are_not_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume, paths = in_many_segments()
    asked, plain = [], volume.open

    def open_file(path: str) -> ReadableFile:
        asked.append(path)
        return plain(path)

    with Lake.open(volume) as lake:
        snapshot = lake.snapshot()
        wanted = [*paths[:3], *paths[-3:]]
        holding = [source.path for source in snapshot.sources
                   if any(source.first <= path <= source.last for path in wanted)]  # fmt: skip
        monkeypatch.setattr(volume, "open", open_file)
        assert snapshot.locate(wanted)["path"].null_count == 0
    assert sorted(asked) == sorted(holding)
    assert len(holding) < together.TOGETHER_MIN


def test_segments_are_opened_together_for_many_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, paths = in_many_segments()
    meeting, plain = Meeting(AT_ONCE), volume.open

    def open_file(path: str) -> ReadableFile:
        meeting()
        return plain(path)

    with Lake.open(volume) as lake:
        snapshot = lake.snapshot()
        monkeypatch.setattr(volume, "open", open_file)
        assert snapshot.locate(paths)["path"].null_count == 0
    assert meeting.held


def holding(path: str) -> Callable[[PackWriter, int], None]:
    return lambda writer, time_ns: writer.add(path, encode(b"1"), Meta(time_ns))


def test_packs_are_looked_for_together_before_they_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        sealed = [new_pack(volume, 0, holding(f"{number}")) for number in range(2 * AT_ONCE)]
        meeting = Meeting(AT_ONCE)
        monkeypatch.setattr(in_order, "_processors", lambda: AT_ONCE)
        opening(monkeypatch, volume, meeting)
        lake.append(sealed, Draft("many"))
        assert meeting.held
        assert len(contents(lake.snapshot())) == len(sealed)


def test_commits_are_read_together_where_many_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        for number in range(2 * AT_ONCE):
            write(lake, {f"{number}": b"1"})
        meeting = Meeting(AT_ONCE)
        monkeypatch.setattr(in_order, "_processors", lambda: AT_ONCE)
        opening(monkeypatch, volume, meeting, layout.LOG)
        numbers = [commit.number for commit in lake.history(2 * AT_ONCE)]
        assert meeting.held
    assert numbers == [*range(2 * AT_ONCE, 0, -1)]
