"""Commits of a mount, also some that fail: what was removed goes, all else stays."""

from __future__ import annotations

import errno

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse import publishing  # noqa: E402
from lakefeed.adapters.fuse.nodes import ROOT  # noqa: E402
from lakefeed.adapters.fuse.publishing import Publishing  # noqa: E402
from lakefeed.errors import NotFound, VolumeFailed  # noqa: E402
from lakefeed.volume.memory import MemoryVolume  # noqa: E402
from tests.fuse.scenes import Gate, Here, played  # noqa: E402

MIB = 1 << 20


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_removed_while_it_is_committed_is_held_no_longer(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, publish = Gate(), Publishing.publish

    def failing(*_: object) -> None:
        raise VolumeFailed("read of a segment")

    async def scene(here: Here) -> None:
        await here.write("short", b"lived")
        with monkeypatch.context() as patched:
            patched.setattr(Publishing, "publish", gate.before(failing if fails else publish))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.commit_or_fail)
                await gate.reached()
                await here.operations.unlink(ROOT, b"short", None)
                gate.open()
        assert here.pending.held_bytes == 0
        await here.pending.commit()
        assert here.pending.count == 0

    with pytest.raises(NotFound):
        played(scene).snapshot().get("short")


def test_a_file_that_finds_no_lake_to_go_to_is_kept_and_committed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytes(range(256)) * 8192

    def nowhere(*_: object) -> None:
        raise NotFound("tmp/")

    async def scene(here: Here) -> None:
        await here.write("big", data)
        with monkeypatch.context() as patched, pytest.raises(NotFound):
            patched.setattr(publishing, "streamed", nowhere)
            await here.pending.commit()
        await here.pending.commit()

    assert played(scene, big_bytes=100_000).snapshot().get("big") == data


def test_a_spool_that_a_commit_reads_stays_though_its_file_is_changed_and_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, data = Gate(), b"1" * (2 << 20)

    async def scene(here: Here) -> None:
        await here.write("big", data)
        with monkeypatch.context() as patched:
            patched.setattr(Publishing, "publish", gate.before(Publishing.publish))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.pending.commit)
                await gate.reached()
                await here.set_mode(await here.find("big"))
                await here.operations.unlink(ROOT, b"big", None)
                gate.open()
        assert here.lake.snapshot().get("big") == data
        assert here.pending.held_bytes == 0
        await here.pending.commit()

    assert not played(scene).snapshot().exists("big")


def test_what_is_removed_is_committed_though_nobody_waits() -> None:
    async def scene(here: Here) -> None:
        await here.operations.unlink(ROOT, b"a", None)
        await here.commits()

    assert not played(scene, age_seconds=0.0).snapshot().exists("a")


def test_tries_that_find_no_room_leave_nothing_that_takes_the_last_of_it() -> None:
    volume = MemoryVolume(capacity_bytes=4 * MIB)

    async def scene(here: Here) -> None:
        room_bytes = volume.space().free_bytes
        for name, size in (("big", 2 * MIB), ("bigger", 8 * MIB)):
            await here.write(name, bytes(size))
        # Not without the new bytes: the old ones are to go in the same commit.
        await here.rename("bigger", "a")
        for _ in range(3):
            await here.commit_or_fail()
            assert volume.space().free_bytes == room_bytes
        assert here.lake.snapshot().get("a") == b"bytes of a"
        await here.operations.unlink(ROOT, b"a", None)
        await here.pending.commit()
        assert len(here.lake.snapshot().get("big")) == 2 * MIB

    played(scene, volume, big_bytes=100_000)


async def without_room(here: Here, volume: MemoryVolume) -> None:
    """Make a big file for which there is no room until `filler` goes."""
    with volume.create("filler") as file:
        file.write([bytes(volume.space().free_bytes - MIB)])
    await here.write("big", bytes(3 * MIB))


def test_a_file_without_room_keeps_no_other_from_its_fsync_and_is_taken_when_it_fits() -> None:
    volume = MemoryVolume(capacity_bytes=5 * MIB)

    async def scene(here: Here) -> None:
        await without_room(here, volume)
        small = await here.create("small", b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.commit_or_fail)
            await here.operations.fsync(small, False)
        assert here.lake.snapshot().get("small") == b"x"
        await here.operations.write(small, 1, b"y")
        await here.operations.fsync(small, False)
        assert here.lake.snapshot().get("small") == b"xy"
        big = await here.open("big")
        for _ in range(2):
            with pytest.raises(pyfuse3.FUSEError) as refused:
                await here.operations.fsync(big, False)
            assert refused.value.errno == errno.ENOSPC
        volume.unlink("filler")
        await here.operations.fsync(big, False)
        assert len(here.lake.snapshot().get("big")) == 3 * MIB
        await here.operations.release(big)
        await here.operations.release(small)
        assert (here.pending.count, here.pending.held_bytes) == (0, 0)

    played(scene, volume, big_bytes=100_000)


def test_a_file_without_room_is_left_out_of_commits_that_nobody_waits_for() -> None:
    volume = MemoryVolume(capacity_bytes=5 * MIB)

    async def scene(here: Here) -> None:
        await without_room(here, volume)
        await here.write("small", b"x")
        await here.commits()
        assert here.lake.snapshot().get("small") == b"x"
        assert here.pending.count == 1
        volume.unlink("filler")
        await here.commits()
        assert len(here.lake.snapshot().get("big")) == 3 * MIB

    played(scene, volume, big_bytes=100_000, bytes=MIB, age_seconds=0.01)


def test_what_is_committed_as_a_whole_is_committed_without_what_has_no_room() -> None:
    volume = MemoryVolume(capacity_bytes=5 * MIB)

    async def scene(here: Here) -> None:
        await without_room(here, volume)
        await here.write("small", b"x")
        with pytest.raises(VolumeFailed, match="full"):
            await here.pending.commit()
        assert here.lake.snapshot().get("small") == b"x"
        await here.operations.unlink(ROOT, b"big", None)
        await here.pending.commit()
        assert (here.pending.count, here.pending.held_bytes) == (0, 0)

    played(scene, volume, big_bytes=100_000)


@pytest.mark.parametrize("waits", [True, False])
def test_a_new_mode_of_an_open_file_without_room_keeps_nobody_waiting(waits: bool) -> None:
    volume = MemoryVolume(capacity_bytes=9 * MIB)

    async def scene(here: Here) -> None:
        big = await here.create("big", bytes(3 * MIB))
        await here.operations.fsync(big, False)
        with volume.create("filler") as file:
            file.write([bytes(volume.space().free_bytes - MIB)])
        await here.set_mode(here.inode(big))
        if waits:
            with pytest.raises(pyfuse3.FUSEError) as refused:
                await here.operations.fsync(big, False)
            assert refused.value.errno == errno.ENOSPC
        small = await here.create("small", b"x")
        await here.operations.fsync(small, False)
        volume.unlink("filler")
        await here.operations.fsync(big, False)

    assert played(scene, volume, big_bytes=100_000).snapshot().stat("big").mode == 0o600


def test_a_file_without_room_that_is_removed_meanwhile_fails_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, volume = Gate(), MemoryVolume(capacity_bytes=5 * MIB)

    async def scene(here: Here) -> None:
        await without_room(here, volume)
        small = await here.create("small", b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.operations.fsync, small, False)
            nursery.start_soon(here.pending.commit)
            await gate.reached()
            await here.operations.unlink(ROOT, b"big", None)
            gate.open()
        assert here.pending.count == 0

    monkeypatch.setattr(publishing, "streamed", gate.before(publishing.streamed))
    assert played(scene, volume, big_bytes=100_000).snapshot().get("small") == b"x"


def test_all_files_without_room_are_found_in_one_try() -> None:
    volume = MemoryVolume(capacity_bytes=5 * MIB)

    async def scene(here: Here) -> None:
        await without_room(here, volume)
        await here.write("bigger", bytes(4 * MIB))
        await here.write("smaller", bytes(MIB // 2))
        with pytest.raises(VolumeFailed, match="full"):
            await here.pending.commit()
        assert [path.path for path in here.lake.snapshot().ls()] == ["a", "b", "d", "smaller"]
        assert (here.pending.count, here.pending.failed_commits) == (2, 1)

    played(scene, volume, big_bytes=100_000)
