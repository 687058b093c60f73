"""Mounts, their options, and the kernel's NFS counters: recorded texts, judged."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from lakefeed.bench import mountstats, probing
from lakefeed.bench.mounts import (
    BAD,
    OK,
    WARNING,
    judge_options,
    judge_read_ahead,
    mount_of,
    read_ahead_bytes,
)
from lakefeed.bench.mountstats import Operation
from lakefeed.volume.mountinfo import parse_mountinfo

MOUNTINFO = (
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro\n"
    "60 22 0:52 / /mnt/nas\\040one rw,noatime shared:9 - nfs4 nas:/vol rw,vers=4.2,rsize=1048576,"
    "wsize=1048576,hard,nconnect=8,lookupcache=pos,proto=tcp\n"
    "61 22 0:53 / /mnt/old rw - nfs nas:/old rw,vers=3,rsize=65536,soft,noac\n"
    "62 22 0:54 / /mnt/old rw - tmpfs tmpfs rw\n"
    "broken line\n"
)


def test_the_longest_mount_point_wins_and_the_latest_of_two() -> None:
    assert mount_of("/etc", MOUNTINFO).kind == "ext4"  # type: ignore[union-attr]
    nas = mount_of("/mnt/nas one/lake", MOUNTINFO)
    assert nas is not None
    assert (nas.point, nas.kind, nas.device, nas.is_nfs) == ("/mnt/nas one", "nfs4", "0:52", True)
    assert mount_of("/mnt/nas onerous", MOUNTINFO).kind == "ext4"  # type: ignore[union-attr]
    assert mount_of("/mnt/old", MOUNTINFO).kind == "tmpfs"  # type: ignore[union-attr]


def test_this_machines_own_root_is_found() -> None:
    assert mount_of("/") is not None


def test_good_options_pass() -> None:
    nas = parse_mountinfo(MOUNTINFO)[1]
    assert {v.level for v in judge_options(nas)} == {OK}


def test_bad_options_are_named_with_advice() -> None:
    found = {v.name: v for v in judge_options(parse_mountinfo(MOUNTINFO)[2])}
    assert found["soft"].level == BAD
    warned = {name for name, verdict in found.items() if verdict.level == WARNING}
    assert warned == {"vers", "rsize", "nconnect", "lookupcache", "attribute cache"}
    assert all(found[name].advice for name in warned)


def test_attributes_kept_for_no_time_are_not_cached() -> None:
    (mount,) = parse_mountinfo(
        "60 22 0:52 / /mnt/nas rw - nfs4 nas:/vol rw,vers=4.2,acregmin=0,acregmax=0,acdirmin=0,"
        "acdirmax=0,hard\n"
    )
    found = {verdict.name: verdict for verdict in judge_options(mount)}["attribute cache"]
    assert (found.found, found.level) == ("off", WARNING)


def test_read_ahead_matters_on_nfs(tmp_path: Path) -> None:
    nas, root = parse_mountinfo(MOUNTINFO)[1], parse_mountinfo(MOUNTINFO)[0]
    (tmp_path / nas.device).mkdir()
    (tmp_path / nas.device / "read_ahead_kb").write_text("128\n")
    assert read_ahead_bytes(nas, tmp_path) == 128 * 1024
    assert judge_read_ahead(nas, 128 * 1024).level == WARNING
    assert "0:52" in judge_read_ahead(nas, 128 * 1024).advice
    assert judge_read_ahead(nas, 4 << 20).level == OK
    assert judge_read_ahead(root, 128 * 1024).level == OK
    assert read_ahead_bytes(root, tmp_path) is None
    assert judge_read_ahead(nas, None).level == OK


STATS = (Path(__file__).parent / "recorded" / "mountstats.txt").read_text()


def test_recorded_counters_are_read() -> None:
    mounts = mountstats.parse(STATS)
    assert [mount.version for mount in mounts] == ["4.2", "3"]
    first = mounts[0]
    assert first.point == "/run/c1"
    assert "hard" in first.options
    assert first.operations["WRITE"].calls == 30
    assert first.operations["WRITE"].sent_bytes == 190_340
    assert first.operations["WRITE"].execute_ms == 3
    assert mounts[1].operations["LOOKUP"].errors == 30


def test_counters_of_a_mount_with_a_space_in_its_name_are_found(tmp_path: Path) -> None:
    (tmp_path / "stats").write_text(STATS.replace("/run/c1", "/run/my\\040nas"))
    found = mountstats.read("/run/my nas", tmp_path / "stats")
    assert found is not None
    assert found.operations["WRITE"].calls == 30


def test_of_two_mounts_at_one_point_the_latest_counts(tmp_path: Path) -> None:
    assert [mount.point for mount in mountstats.parse(STATS)] == ["/run/c1", "/run/c1"]
    (tmp_path / "stats").write_text(STATS)
    found = mountstats.read("/run/c1", tmp_path / "stats")
    assert found is not None
    assert found.version == "3"


def test_the_difference_is_what_happened_between() -> None:
    before, after = mountstats.parse(STATS)[0], mountstats.parse(STATS)[0]
    operations = dict(after.operations)
    operations["READ"] = Operation(100, 102, 1, 1000, 2_000_000, 100, 400, 600, 0)
    later = mountstats.NfsMount(after.point, after.version, 0, after.options, operations)
    rows = mountstats.between(before, later, 2.0)
    assert [row["operation"] for row in rows] == ["READ"]
    assert rows[0]["calls"] == 100
    assert rows[0]["calls_per_second"] == 50
    assert rows[0]["round_trip_seconds"] == pytest.approx(0.004)
    assert rows[0]["retransmissions"] == 2


def test_what_happened_is_told_for_each_call_and_the_busiest_first() -> None:
    before = {"READ": Operation(10, 11, 1, 100, 1000, 10, 20, 30, 1), "GETATTR": Operation(7, 7)}
    after = {
        "GETATTR": Operation(9, 9),
        "READ": Operation(14, 17, 3, 500, 9000, 18, 420, 634, 2),
        "COMMIT": Operation(1, 0),
    }
    rows = mountstats.between(
        mountstats.NfsMount("/m", "3", 5, "", before), mountstats.NfsMount("/m", "3", 7, "", after),
        2.0,
    )  # fmt: skip
    assert [(row["operation"], row["calls"]) for row in rows] == [
        ("READ", 4), ("GETATTR", 2), ("COMMIT", 1),
    ]  # fmt: skip
    assert rows[0] == {
        "operation": "READ", "calls": 4, "calls_per_second": 2.0, "round_trip_seconds": 0.1,
        "queue_seconds": 0.002, "execute_seconds": 0.151, "retransmissions": 2, "timeouts": 2,
        "sent_bytes": 400, "received_bytes": 8000, "errors": 1,
    }  # fmt: skip
    assert (rows[1]["retransmissions"], rows[2]["retransmissions"]) == (0, 0)


def test_older_and_newer_kernels_are_understood() -> None:
    short = (
        "device n:/ mounted on /m with fstype nfs4 statvers=1.0\n\tage:\t5\n\tper-op statistics\n"
    )
    old = mountstats.parse(short + "\t\tREAD: 1 1 0 2 3 4 5 6\n")[0].operations["READ"]
    assert (old.execute_ms, old.errors) == (6, 0)
    new = mountstats.parse(short + "\t\tREAD: 1 1 0 2 3 4 5 6 7 8 9\n")[0].operations["READ"]
    assert new.errors == 7


def test_a_network_that_repeats_itself_is_noticed() -> None:
    mount = mountstats.NfsMount("/m", "3", 5, "", {"READ": Operation(1000, 1010)})
    found = {verdict.name: verdict.level for verdict in probing.judge_counters(mount)}
    assert found["retransmissions"] == WARNING


def test_clocks_are_compared_within_a_write() -> None:
    assert probing.judge_skew(100.5, 100, 101).found == "agrees with the server's"
    assert probing.judge_skew(101.5, 100, 101).level == OK
    late = probing.judge_skew(40, 100, 101)
    assert (late.level, late.found) == (WARNING, "-60.000 s")
    assert probing.judge_skew(3701, 100, 101).found == "+3600.000 s"


def test_a_volume_that_nobody_can_write_to_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refused)
    (found,) = probing.probes("/")
    assert (found.name, found.found, found.level) == ("write", "read-only file system", BAD)


def test_a_local_directory_is_examined_and_left_clean(tmp_path: Path) -> None:
    facts = probing.examine(str(tmp_path))
    found = {verdict["name"]: verdict["level"] for verdict in facts["verdicts"]}
    assert found["link"] == found["rename"] == found["exclusive create"] == OK
    assert list(tmp_path.iterdir()) == []
    assert probing.worst([{"level": OK}, {"level": BAD}, {"level": WARNING}]) == BAD
