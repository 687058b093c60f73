"""Finding mounts, telling dead ones from silent ones, and asking them, without one that answers."""

from __future__ import annotations

import errno
import gc
import os
import struct
import threading
from pathlib import Path

import pytest

from lakefeed.adapters.fuse import asking, kernel
from lakefeed.errors import Conflict, VolumeFailed
from tests.fuse.points import Points
from tests.fuse.tools import NOBODY, is_mounted, needs_fuse

pytestmark = [needs_fuse, pytest.mark.root]
OUR_GROUP = 4242


def test_lakes_below_a_path_are_those_alone_and_the_newest_comes_first(
    points: Points, tmp_path: Path
) -> None:
    for name in ("data/old", "data/new", "data2", "more data/other"):
        points.mount(name)
    disk = points.mount_disk("data/disk")
    kernel.prepare(disk, {})  # one that is no lake's is in nobody's way
    for path in (tmp_path / "data", f"{tmp_path}/data/"):
        below = [each.path for each in kernel.lakes_below(str(path))]
        assert below == [str(tmp_path / "data/new"), str(tmp_path / "data/old")]
    assert kernel.lakes_below(str(tmp_path / "data2")) == kernel.lakes_below("/") == []


def test_of_mounts_on_top_of_each_other_the_last_is_found_and_whom_it_lets_in(
    points: Points, tmp_path: Path
) -> None:
    first, _ = points.mount("point", user=5)
    last, _ = points.mount("point", user=NOBODY)
    assert first.number != last.number and last.kind == kernel.FUSE_TYPE
    assert kernel.lets_in(first) == (5, 5)
    assert kernel.lets_in(last) == (NOBODY, NOBODY)


def answered_with_an_error(fuse: int) -> None:
    """Answer the kernel's first request, whatever it is; all others then fail."""
    request = os.read(fuse, 1 << 17)
    _, _, unique = struct.unpack_from("=IIQ", request)
    os.write(fuse, struct.pack("=IiQ", 16, -errno.EIO, unique))


def test_dead_mounts_are_removed_and_one_that_is_sick_silent_or_private_is_not(
    points: Points, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [points.mount("point")[1] for _ in range(2)]
    held = os.open(tmp_path / "point", os.O_PATH)
    for fuse in dead:
        points.die(fuse)
    kernel.prepare(str(tmp_path / "point"), {})
    os.close(held)
    assert not is_mounted(tmp_path / "point")
    monkeypatch.setattr(kernel, "ANSWER_SECONDS", 0.1)
    sick, fuse = points.mount("sick")
    answered_with_an_error(fuse)
    with pytest.raises(ConnectionRefusedError):
        os.statvfs(sick.path)
    for found in (sick, points.mount("silent")[0], points.mount("private", user=NOBODY)[0]):
        assert not kernel.is_dead(found)
        with pytest.raises(Conflict):
            kernel.prepare(found.path, {})
        assert kernel.mounted_at(found.path) == found
    asking_still = [each for each in threading.enumerate() if each.name == "lakefeed-ask"]
    assert asking_still and all(each.daemon for each in asking_still)  # no process waits for them


def test_links_that_never_end_are_followed_to_no_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert Path(kernel.full_path(str(tmp_path / "a"))).parent == tmp_path
    assert kernel.mounted_at(str(tmp_path / "a")) is None


def test_who_asks_as_a_user_keeps_nothing_of_root(tmp_path: Path) -> None:
    """In the place of a mount: a directory that a group of ours alone may read."""
    groups = os.getgroups()
    place = os.open(tmp_path, os.O_PATH)
    os.setgroups([*groups, OUR_GROUP])
    try:
        tmp_path.chmod(0o050)
        for group in (0, OUR_GROUP):
            os.chown(tmp_path, 0, group)
            assert asking.commit(place) is None
            with pytest.raises(PermissionError):
                asking.commit_as(NOBODY, NOBODY, place)
        tmp_path.chmod(0o005)
        assert asking.commit_as(NOBODY, NOBODY, place) is None
    finally:
        os.setgroups(groups)
        os.close(place)


def test_what_cannot_be_handed_over_is_told_and_what_is_gone_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    kernel.hand_over(str(tmp_path), ["gone", "file"])
    with pytest.raises(VolumeFailed) as failed:
        kernel.hand_over(str(tmp_path), ["gone", "link", "file"])
    assert os.strerror(errno.ELOOP) in str(failed.value)
    with pytest.raises(VolumeFailed):
        kernel.hand_over(str(tmp_path / "file"), [])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_nobody_waits_for_ever_until_a_silent_daemon_takes_what_is_handed_over(
    points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "HAND_OVER_SECONDS", 0.1)
    found, _ = points.mount("point")
    with pytest.raises(VolumeFailed, match="not all of it"):
        kernel.hand_over(found.path, ["file"])
    gc.collect()  # here, where it is expected: the process that hands over is left behind
