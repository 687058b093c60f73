"""What in an inbox is complete, and what a walk over it finds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import Invalid
from lakefeed.service.waiting import Bad, Rules, Walk, judge
from tests.service.tools import drop, service, waiting


def test_a_file_still_being_written_waits(tmp_path: Path) -> None:
    with service(tmp_path, quiet_seconds=3600.0) as made:
        drop(made.root, "done", b"1")
        (made.root / "fresh").write_bytes(b"2")
        (made.root / "big.part").write_bytes(b"3")
        (made.root / ".hidden").write_bytes(b"4")
        assert made.take() == 1
        assert waiting(made.root) == ["big.part", "fresh"]


def test_a_file_that_nfs_is_about_to_make_waits(tmp_path: Path) -> None:
    # Between CREATE and SETATTR of O_EXCL it is empty, and its mtime is the client's verifier.
    with service(tmp_path, quiet_seconds=3600.0) as made:
        (made.root / "a.jpg").touch()
        os.utime(made.root / "a.jpg", (0, 0))
        assert made.take() == 0
        assert waiting(made.root) == ["a.jpg"]


@pytest.mark.parametrize("name", ["a.jpg.part", "A.TMP"])
def test_a_file_seen_under_a_temporary_name_is_complete_once_it_is_renamed(
    tmp_path: Path, name: str
) -> None:
    with service(tmp_path, quiet_seconds=3600.0) as made:
        part = made.root / name
        part.write_bytes(b"1")
        inbox = made.inbox()

        async def story() -> tuple[int, int]:
            before = await inbox.run(everything=True)
            part.rename(made.root / "a.jpg")
            return before, await inbox.run(everything=True)

        assert asyncio.run(story()) == (0, 1)
        inbox.close()
        assert made.files() == {"a.jpg": b"1"}


def facts(mtime_ns: int, ctime_ns: int) -> os.stat_result:
    """What the file server says of a file with inode 1."""
    numbers = [0o100644, 1, 1, 1, 0, 0, 10, 0, 0, 0]
    return os.stat_result(
        numbers, {"st_mtime_ns": mtime_ns, "st_ctime_ns": ctime_ns, "st_atime_ns": 0}
    )


def test_a_time_in_the_future_does_not_make_a_file_wait_for_ever() -> None:
    now_ns = time.time_ns()
    rules = Rules(now_ns, 5 * 10**9, "", frozenset())
    hour = 3600 * 10**9
    for mtime_ns, ctime_ns, complete in (
        (now_ns - hour, now_ns, True),
        (now_ns - 10**9, now_ns, False),
        (now_ns + hour, now_ns - 10**9, False),
        (now_ns + hour, now_ns - hour, True),
    ):
        verdict = judge("a", facts(mtime_ns, ctime_ns), rules)
        assert not isinstance(verdict, Bad)
        assert verdict[1] is complete


def test_a_new_file_with_the_inode_number_of_a_temporary_one_is_not_complete() -> None:
    now_ns = time.time_ns()
    rules = Rules(now_ns, 5 * 10**9, "", frozenset({1}))
    for ctime_ns, complete in ((now_ns - 1000, False), (now_ns, True)):
        verdict = judge("a", facts(now_ns - 1000, ctime_ns), rules)
        assert not isinstance(verdict, Bad)
        assert verdict[1] is complete


def test_a_time_that_no_lake_can_hold_is_a_bad_name_and_one_before_1970_is_not() -> None:
    rules = Rules(time.time_ns(), 5 * 10**9, "", frozenset())
    verdict = judge("a", facts(1 << 63, 0), rules)
    assert isinstance(verdict, Bad)
    assert "1677 to 2262" in verdict.reason
    assert not isinstance(judge("a", facts(-1 << 63, 0), rules), Bad)


def test_a_lake_in_an_inbox_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with service(tmp_path, quiet_seconds=0.0) as made:
        drop(made.root, "good", b"1")
        drop(made.root, "lake.json", b"{}")
        with Lake.create(made.root / "deep" / "lake") as inner, inner.writer() as writer:
            writer.put("a", b"precious")
        assert made.take() == 2
        assert made.files() == {"good": b"1", "lake.json": b"{}"}
        assert "'deep/lake': a lake" in caplog.text
        with Lake.open(made.root / "deep" / "lake") as inner:
            assert inner.snapshot().get("a") == b"precious"
            made.root = made.root / "deep" / "lake"
            with pytest.raises(Invalid, match="found a lake"):
                made.take()
            assert inner.snapshot().get("a") == b"precious"
        assert not (made.root / ".lakefeed").exists()


@pytest.mark.slow
def test_a_walk_hands_out_slices_and_follows_no_link(tmp_path: Path) -> None:
    for number in range(2500):
        (tmp_path / f"{number}").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    rules = Rules(time.time_ns() + 10**12, 0, "", frozenset())
    walk = Walk(str(tmp_path), rules, tidy=False)
    sizes = []
    while (seen := walk.next_slice()) is not None:
        sizes.append(len(seen.complete) + len(seen.bad))
    assert max(sizes) <= 1024
    assert sum(sizes) == 2501


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("pack_files", [2, 100])
def test_a_name_that_a_listing_repeats_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool, pack_files: int
) -> None:
    scandir = os.scandir

    @contextmanager
    def twice(path: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield [*entries] * 2

    with service(tmp_path, keep=keep) as one:
        names = {"a": b"1", "b": b"2", "d/c": b"3"}
        for name, data in names.items():
            drop(one.root, name, data)
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", twice)
            one.take(pack_files=pack_files)
        assert one.files() == names
        assert waiting(one.root) == (sorted(names) if keep else [])
