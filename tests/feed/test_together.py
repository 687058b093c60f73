"""Reads of several packs go to the kernel together; what is in the way of that loses nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lakefeed.errors import NotFound, VolumeFailed
from lakefeed.feed import window
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.lists import QUEUES, ReadList
from lakefeed.volume.posix import PosixReadableFile, PosixVolume
from tests.feed.lakes import lake_of

# Too big for two to share a read because they are near.
FILES = {f"{at:03}": random.Random(at).randbytes(20_000) for at in range(120)}
# At most so many reads are done one by one, to see what they cost, before many are done at a time.
FIRST_READS = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake")
    with lake_of(FILES, PosixVolume(root)):
        return root


@pytest.fixture
def by_pack(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many reads each call for a single pack did."""
    counts: list[int] = []
    usual = PosixReadableFile.read_list

    def noted(file: PosixReadableFile, reads: ReadList, start: int, end: int) -> None:
        counts.append(end - start)
        usual(file, reads, start, end)

    monkeypatch.setattr(PosixReadableFile, "read_list", noted)
    return counts


def serve(root: Path, *, epochs: int = 2) -> None:
    """Check that each epoch serves all files."""
    with Lake.open(root) as lake, Feed(lake, "", FeedOptions(30, epochs=epochs)) as feed:
        served = [pair for b in feed for pair in zip(b.paths, b.bytes(), strict=True)]
    assert len(served) == epochs * len(FILES)
    assert dict(served) == FILES


def test_once_packs_are_open_none_has_a_call_of_its_own(root: Path, by_pack: list[int]) -> None:
    serve(root, epochs=5)
    assert sum(by_pack) <= FIRST_READS


@pytest.mark.parametrize("lent", [1, 2, 16])
def test_what_did_not_come_together_is_read_by_pack(
    lent: int, root: Path, by_pack: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reluctant:
        def read(self, reads: ReadList, start: int, end: int) -> int:
            return QUEUES.read(reads, start, min(start + 1, end))

    monkeypatch.setattr(window, "QUEUES", Reluctant())
    monkeypatch.setattr(window, "_LENT_PACKS", lent)
    serve(root)
    assert sum(by_pack) > 2 * FIRST_READS


@pytest.mark.parametrize("error", [NotFound("pack"), VolumeFailed("pack")])
def test_a_pack_that_cannot_be_had_now_is_asked_for_by_itself(
    error: Exception, root: Path, by_pack: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fail(_snapshot: Snapshot, pack: str) -> Callable[[], None]:
        asked.append(pack)
        raise error

    monkeypatch.setattr(Snapshot, "use_pack", fail)
    serve(root)
    assert asked
    assert sum(by_pack) > 2 * FIRST_READS


def test_a_handle_that_went_stale_is_opened_anew(
    root: Path, by_pack: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses its reads; by itself the file says so, and is looked up again."""
    monkeypatch.setattr(PosixReadableFile, "descriptor", property(lambda _file: -1))
    serve(root)
    assert sum(by_pack) > 2 * FIRST_READS
