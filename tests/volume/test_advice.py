"""How much one piece of advice brings, by the kind of mount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakefeed.volume import advice

MOUNTS = """\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 25 0:53 / /mnt/nas rw - nfs4 filer:/ rw,vers=4.2,rsize=1048576
41 25 0:54 / /mnt/juice rw shared:9 master:3 - fuse.juicefs JuiceFS:x rw
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place that says what /proc and /sys say of these mounts."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    for folder in ("54", "0:54"):
        (tmp_path / folder).mkdir()
    (tmp_path / "0:54/read_ahead_kb").write_text("256\n")
    (tmp_path / "54/max_background").write_text("100\n")
    monkeypatch.setattr(advice, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(advice, "_CONNECTIONS", tmp_path)
    monkeypatch.setattr(advice, "_DEVICES", tmp_path)
    advice.advice_bytes.cache_clear()
    yield tmp_path
    advice.advice_bytes.cache_clear()


@pytest.mark.parametrize("device", [(254, 0), (0, 53), (9, 9)])
def test_a_disk_and_a_filer_take_a_mebibyte(system: Path, device: tuple[int, int]) -> None:
    assert advice.advice_bytes(os.makedev(*device)) == 1 << 20


def test_fuse_takes_its_read_ahead(system: Path) -> None:
    assert advice.advice_bytes(os.makedev(0, 54)) == 256 << 10


@pytest.mark.parametrize("found", ["12\n", "", None])
def test_fuse_with_few_requests_is_left_to_threads(system: Path, found: str | None) -> None:
    where = system / "54/max_background"
    where.unlink() if found is None else where.write_text(found)
    assert advice.advice_bytes(os.makedev(0, 54)) == 0


def test_this_machine_says_something(tmp_path: Path) -> None:
    assert advice.advice_bytes(tmp_path.stat().st_dev) in range((1 << 20) + 1)


def kernel_tells(fd: int) -> bool:
    """Linux 6.5 and newer, unless a sandbox forbids it, tells what the page cache holds."""
    return advice.cached_share(fd, [(0, 1)]) is not None


def test_what_is_cached_and_what_is_not(tmp_path: Path) -> None:
    where = tmp_path / "pack"
    where.write_bytes(os.urandom(1 << 20))
    with where.open("rb") as file:
        fd = file.fileno()
        if not kernel_tells(fd):
            pytest.skip("this kernel does not tell what it caches")
        os.fsync(fd)
        assert advice.cached_share(fd, [(0, 1 << 20)]) == 1
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if advice.cached_share(fd, [(0, 1 << 20)]) == 1:
            pytest.skip("a filesystem in memory forgets nothing")
        assert advice.cached_share(fd, [(0, 10), (500_000, 10)]) == 0
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # one page, no read-ahead
        os.pread(fd, 1, 0)
        assert advice.cached_share(fd, [(0, 10), (500_000, 10)]) == 0.5
        assert advice.cached_share(fd, []) is None


def test_a_kernel_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "_CACHESTAT", -1)
    (tmp_path / "pack").write_bytes(b"bytes")
    with (tmp_path / "pack").open("rb") as file:
        assert advice.cached_share(file.fileno(), [(0, 5)]) is None
