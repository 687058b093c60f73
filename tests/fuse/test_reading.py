"""A mount shows what the snapshot holds: bytes, names, times, and where they are stored."""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.cli.units import iso_time
from lakefeed.format.rows import Codec
from lakefeed.lake import layout
from tests.fuse.tools import Mounted, is_mounted, is_running, mounted, needs_fuse, run, wait_until
from tests.support.ports import kept_port

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]

BIG = random.Random(3).randbytes(11_000_000)


@pytest.fixture
def full(lake: Path) -> Path:
    """A lake with small files, big ones, compressed ones, links, and directories of all kinds."""
    with Lake.open(lake) as opened:
        with opened.writer(WriterOptions(flush_age_seconds=60)) as writer:
            for number in range(300):
                writer.put(f"train/c{number % 3}/{number:04d}.bin", b"%d" % number * 50,
                           mtime_ns=number * 10**9, attrs={"label": f"{number % 3}"})  # fmt: skip
            writer.put("BIG", BIG, mode=0o600)
            writer.symlink("link", "train/c0")
            writer.mkdir("empty", 0o700)
            writer.put("nothing", b"")
        with opened.writer(WriterOptions(codec=Codec.ZSTD)) as writer:
            writer.put("text", b"the same again " * 400_000)
        opened.tag("v1")
    return lake


def names_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_every_file_has_the_snapshots_bytes_and_facts(full: Path, tmp_path: Path) -> None:
    with Lake.open(full) as opened, mounted(full, tmp_path / "mnt", "--at", "v1") as here:
        snapshot = opened.snapshot()
        rows = [row for table in snapshot.scan() for row in table.to_pylist()]
        for row in rows:
            path = here.path / row["path"]
            info = path.lstat()
            assert info.st_mtime_ns == row["mtime_ns"]
            assert info.st_mode & 0o7777 == row["mode"]
            if row["kind"] == 0:
                assert info.st_size == row["size"]
                assert path.read_bytes() == snapshot.get(row["path"])
        shown = set(names_below(here.path))
        assert {row["path"] for row in rows} <= shown
        assert shown - {row["path"] for row in rows} == {
            "train",
            "train/c0",
            "train/c1",
            "train/c2",
        }
        assert os.readlink(here.path / "link") == "train/c0"
        assert os.stat(here.path / "link").st_ino == os.stat(here.path / "train/c0").st_ino


def test_a_listing_begins_with_the_directory_itself_and_the_one_above(
    full: Path, tmp_path: Path
) -> None:
    with mounted(full, tmp_path / "mnt", "--at", "v1") as here:
        for directory in (here.path, here.path / "train"):
            told = subprocess.run(["ls", "-fi", directory], stdout=subprocess.PIPE, check=True)
            lines = [line.split() for line in told.stdout.splitlines()]
            (first, dot), (second, dots), *rest = lines
            assert (dot, dots) == (b".", b"..")
            assert int(first) == directory.stat().st_ino
            assert int(second) == directory.parent.stat().st_ino  # as ls has it from the kernel
            assert {name for _, name in rest} == set(os.listdir(os.fsencode(directory)))


def test_a_listing_shows_what_lies_beside_a_change_as_it_is(rw: Mounted) -> None:
    with Lake.open(rw.lake) as opened, opened.writer() as writer:
        for name in "abcd":
            writer.put(f"d/{name}", b"x", mode=0o644, mtime_ns=5)
    (rw.path / "own").write_bytes(b"")
    rw.sync()  # and shows what others did
    (rw.path / "d/b").write_bytes(b"longer")
    (rw.path / "d/b").chmod(0o600)
    os.utime(rw.path / "d/b", ns=(7, 7))
    with os.scandir(rw.path / "d") as found:
        shown = {each.name: each.stat() for each in found}
    facts = {name: (info.st_mode & 0o7777, info.st_size, info.st_mtime_ns, info.st_ctime_ns > 7)
             for name, info in shown.items()}  # fmt: skip
    plain = (0o644, 1, 5, False)
    assert facts == {"a": plain, "b": (0o600, 6, 7, True), "c": plain, "d": plain}


def test_any_part_of_a_big_file_can_be_read(full: Path, tmp_path: Path) -> None:
    randomly = random.Random(5)
    with mounted(full, tmp_path / "mnt", "--at", "v1") as here:
        for name, content in (("BIG", BIG), ("text", b"the same again " * 400_000)):
            with open(here.path / name, "rb", buffering=0) as file:
                for _ in range(200):
                    offset = randomly.randrange(len(content) + 10)
                    length = randomly.choice([1, 100, 5000, 200_000, 3_000_000])
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    found = os.pread(file.fileno(), length, offset)
                    assert found == content[offset : offset + length]


def test_extended_attributes_tell_where_a_file_is(full: Path, tmp_path: Path) -> None:
    with Lake.open(full) as opened, mounted(full, tmp_path / "mnt") as here:
        row = opened.snapshot().stat("train/c1/0001.bin")
        path = here.path / row.path

        def attribute(name: str) -> str:
            return os.getxattr(path, f"user.lakefeed.{name}").decode()

        assert attribute("extent") == f"{row.pack}:{row.offset}:{row.length}"
        assert attribute("crc32c") == f"{row.crc32c:08x}"
        assert attribute("attrs.label") == "1"
        assert os.listxattr(path) == ["user.lakefeed.attrs.label"]  # what can be copied
        assert os.listxattr(here.path) == os.listxattr(here.path / "train") == []
        assert os.listxattr(here.path / "link", follow_symlinks=False) == []
        root = os.getxattr(here.path, "user.lakefeed.snapshot")
        assert int(root) == opened.snapshot().number
        pack, offset, length = attribute("extent").split(":")
        with open(full / layout.pack_path(pack), "rb") as file:
            assert os.pread(file.fileno(), int(length), int(offset)) == path.read_bytes()


def test_statfs_is_the_volumes(full: Path, tmp_path: Path) -> None:
    with mounted(full, tmp_path / "mnt") as here:
        shown, real = os.statvfs(here.path), os.statvfs(full)
        assert shown.f_blocks * shown.f_frsize == pytest.approx(real.f_blocks * real.f_frsize, 1e-3)
        for free in (shown.f_bfree, shown.f_bavail):  # others write there meanwhile
            assert free * shown.f_frsize == pytest.approx(real.f_bavail * real.f_frsize, 0.2)
        assert shown.f_namemax == 255


def test_a_read_only_mount_refuses_every_change(full: Path, tmp_path: Path) -> None:
    with mounted(full, tmp_path / "mnt") as here:
        for change in (
            lambda: (here.path / "new").write_bytes(b""),
            lambda: (here.path / "new").mkdir(),
            lambda: (here.path / "BIG").unlink(),
            lambda: (here.path / "BIG").rename(here.path / "x"),
            lambda: os.chmod(here.path / "BIG", 0o644),
            lambda: os.setxattr(here.path / "BIG", "user.x", b""),
        ):
            with pytest.raises(OSError) as refused:
                change()
            assert refused.value.errno == errno.EROFS


def test_a_tag_stays_while_the_head_moves(full: Path, tmp_path: Path) -> None:
    with mounted(full, tmp_path / "mnt", "--at", "v1") as here:
        before = names_below(here.path)
        with Lake.open(full) as opened, opened.writer() as writer:
            writer.put("later", b"x")
            writer.put("nothing", b"something")
        assert not (here.path / "later").exists()
        assert (here.path / "nothing").read_bytes() == b""
        assert names_below(here.path) == before
        with Lake.open(full) as opened:
            assert [pin.holder for pin in opened.refs.pins()] == [f"mount {here.path}"]
    with Lake.open(full) as opened:
        assert opened.refs.pins() == []


def test_a_time_shows_the_snapshot_of_then(full: Path, tmp_path: Path) -> None:
    with Lake.open(full) as opened:
        then_ns = opened.snapshot(1).time_ns + 1000  # a time is written to the microsecond
        opened.tag("2026-01-01", 1)
    with mounted(full, tmp_path / "mnt", "--at", iso_time(then_ns)) as here:
        assert os.getxattr(here.path, "user.lakefeed.snapshot") == b"1"
        assert not (here.path / "text").exists()
    with mounted(full, tmp_path / "mnt", "--at", "2026-01-01") as here:
        assert not (here.path / "text").exists()
    with mounted(full, tmp_path / "mnt", "--at", "0s ago") as here:
        assert (here.path / "text").exists()


def test_a_live_mount_follows_the_head(full: Path, tmp_path: Path) -> None:
    with (
        mounted(full, tmp_path / "mnt", "--refresh", "100ms") as here,
        Lake.open(full) as opened,
    ):
        assert names_below(here.path)  # the kernel knows everything now, and "later" is not there
        assert not (here.path / "later").exists()
        assert not (here.path / "train/c0/new").exists()
        old = open(here.path / "train/c0/0000.bin", "rb", buffering=0)  # noqa: SIM115
        with opened.writer() as writer:
            writer.put("later", b"now")
            writer.put("train/c0/new", b"n")
            writer.put("train/c0/0000.bin", b"other bytes, and more of them")
            writer.put("a/b/c/deep", b"d")
            writer.delete("nothing")
            writer.delete_tree("train/c2")
        # The kernel is told of one name after the other, so each is waited for.
        changed = here.path / "train/c0/0000.bin"
        wait_until(lambda: (here.path / "later").exists())
        wait_until(lambda: (here.path / "train/c0/new").exists())
        wait_until(lambda: changed.read_bytes() == b"other bytes, and more of them")
        wait_until(lambda: (here.path / "a/b/c/deep").exists())
        wait_until(lambda: not (here.path / "nothing").exists())
        wait_until(lambda: not (here.path / "train/c2").exists())
        wait_until(lambda: "c2" not in os.listdir(here.path / "train"))
        assert (here.path / "later").read_bytes() == b"now"
        assert (here.path / "train/c0/new").read_bytes() == b"n"
        assert (here.path / "a/b/c/deep").read_bytes() == b"d"
        assert old.read() == b"0" * 50
        old.close()


def test_a_file_that_another_writer_made_meanwhile_is_opened_though_the_kernel_knows_of_none(
    lake: Path, tmp_path: Path
) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw", "--refresh", "1h") as here:
        log = here.path / "log"
        assert not log.exists()
        with Lake.open(lake) as opened, opened.writer() as writer:
            writer.put("log", b"one line, ")
        # A commit of its own shows the mount what others did; the kernel is not told yet.
        (here.path / "own").write_bytes(b"x")
        here.sync()
        with open(log, "ab") as file:
            file.write(b"another")
        assert log.read_bytes() == b"one line, another"
        with pytest.raises(FileExistsError):
            log.open("xb")


def test_time_travel_by_tag_and_by_number(full: Path, tmp_path: Path) -> None:
    with Lake.open(full) as opened, opened.writer() as writer:
        writer.put("nothing", b"something")
    with mounted(full, tmp_path / "mnt") as here:
        assert ".snapshots" not in os.listdir(here.path)
        assert os.listdir(here.path / ".snapshots") == ["v1"]
        assert (here.path / "nothing").read_bytes() == b"something"
        assert (here.path / ".snapshots/v1/nothing").read_bytes() == b""
        assert (here.path / ".snapshots/v1/BIG").read_bytes() == BIG
        assert len(os.listdir(here.path / ".snapshots/1/train/c0")) == 100
        with pytest.raises(FileNotFoundError):
            os.stat(here.path / ".snapshots/v9")


def test_a_tag_that_comes_moves_or_goes_does_so_in_a_mount(full: Path, tmp_path: Path) -> None:
    with mounted(full, tmp_path / "mnt") as here, Lake.open(full) as opened:
        snapshots = here.path / ".snapshots"
        assert os.listdir(snapshots) == ["v1"]
        assert (snapshots / "v1/nothing").read_bytes() == b""
        assert not (snapshots / "v2").exists()
        with opened.writer() as writer:
            writer.put("nothing", b"something")
        opened.tag("v2")
        wait_until((snapshots / "v2").exists)
        opened.tag("v1", move=True)
        wait_until(lambda: (snapshots / "v1/nothing").read_bytes() == b"something")
        opened.refs.delete("v2")
        wait_until(lambda: not (snapshots / "v2").exists())
        assert os.listdir(snapshots) == ["v1"]


def test_damaged_bytes_are_an_error_never_wrong(full: Path, tmp_path: Path) -> None:
    with Lake.open(full) as opened:
        row = opened.snapshot().stat("train/c1/0001.bin")
    with open(full / layout.pack_path(row.pack), "r+b") as file:
        os.pwrite(file.fileno(), b"!", row.offset + 3)
    with mounted(full, tmp_path / "mnt") as here:
        with pytest.raises(OSError) as failed:
            (here.path / row.path).read_bytes()
        assert failed.value.errno == errno.EIO
        assert (here.path / "train/c1/0004.bin").read_bytes() == b"4" * 50
        assert "checksum" in here.log.read_text()


def test_the_mount_point_must_be_free_and_the_lake_must_exist(lake: Path, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    assert run("mount", lake, point, check=False).returncode == 2
    point.mkdir()
    assert run("mount", tmp_path / "none", point, check=False).returncode == 3
    assert run("mount", lake, point, "--rw", "--at", "1", check=False).returncode == 2
    for hides in (lake, lake / layout.PACKS):
        assert run("mount", lake, hides, check=False).returncode == 2
    spooling = run("mount", lake, point, "--rw", "--spool", point, check=False)
    assert spooling.returncode == 2 and "spool" in spooling.stderr
    with mounted(lake, point):
        again = run("mount", lake, point, check=False)
        assert again.returncode == 4
        assert "lakefeed umount" in again.stderr
    assert run("umount", point, check=False).returncode == 2


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("--owner", "99999999999:0", ""),
        ("--owner", "-1:0", ""),
        ("--owner", "0", ""),
        ("--fd", 77, "found none"),
        ("--fd", -1, "found none"),
        ("--fd", 2, "found another file"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(
    option: str, value: object, found: str, lake: Path, tmp_path: Path
) -> None:
    (tmp_path / "mnt").mkdir()
    done = run("mount", lake, tmp_path / "mnt", option, value, check=False)
    assert done.returncode == 2 and f"{option} {value}, expected" in done.stderr
    assert found in done.stderr and not is_mounted(tmp_path / "mnt")


@pytest.mark.parametrize("name", ["dätä", "a, b\\c", os.fsdecode(b"\xff")])
def test_a_lake_may_have_any_name(name: str, tmp_path: Path) -> None:
    with Lake.create(tmp_path / name) as opened, opened.writer() as writer:
        writer.put("f", b"x")
    with mounted(tmp_path / name, tmp_path / "mnt") as here:
        assert (here.path / "f").read_bytes() == b"x"
        assert os.getxattr(here.path, "user.lakefeed.lake") == os.fsencode(tmp_path / name)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_mount_of_a_snapshot_leaves_no_pin_behind(
    is_there: bool, full: Path, tmp_path: Path
) -> None:
    point = tmp_path / "mnt"
    if is_there:
        with mounted(full, point, "--at", "v1"), Lake.open(full) as opened:
            assert opened.refs.pins()
    else:
        assert run("mount", full, point, "--at", "v1", check=False).returncode == 2
    with Lake.open(full) as opened:
        assert not opened.refs.pins()


def test_unmounting_waits_for_the_daemon(full: Path, tmp_path: Path) -> None:
    with mounted(full, tmp_path / "mnt") as here:
        pid = here.pid
        run("umount", here.path)
        assert not is_mounted(here.path)
        assert not is_running(pid)


def test_a_hundred_names_a_second_time_come_from_memory(full: Path, tmp_path: Path) -> None:
    """The kernel keeps names and attributes: a second look asks the daemon for nothing."""
    with (
        kept_port() as port,
        mounted(full, tmp_path / "mnt", "--at", "v1", "--listen", f":{port}") as here,
    ):
        address = f"127.0.0.2:{port}"  # without a host, any address of the machine
        paths = [here.path / f"train/c0/{n:04d}.bin" for n in range(0, 300, 3)]

        def asks_for_nothing() -> bool:
            before = counted(address, "lookup") + counted(address, "getattr")
            for path in paths:
                path.stat()
            return counted(address, "lookup") + counted(address, "getattr") == before

        # Whoever drops the machine's caches meanwhile makes one try fail, not all.
        wait_until(asks_for_nothing)


def test_an_address_that_cannot_be_listened_on_leaves_no_mount(lake: Path, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for listen, code in (address, 6), ("nonsense", 2), ("127.0.0.1:99999", 2):
            refused = run("mount", lake, point, "--listen", listen, check=False)
            assert refused.returncode == code
            assert listen in refused.stderr
            assert not is_mounted(point)


def counted(address: str, op: str) -> float:
    with urlopen(f"http://{address}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    start = f'lakefeed_fuse_ops_total{{op="{op}",result="ok"}} '
    return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))
