"""What tar archives hold comes in: every row an export wrote, and of bad ones what is sound."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakefeed import Lake
from lakefeed.errors import Invalid, NotFound, VolumeFailed
from lakefeed.format.paths import check_path
from lakefeed.format.rows import Codec, Kind
from lakefeed.lake.check import check
from lakefeed.lake.snapshot import Snapshot
from lakefeed.transfer import unpacking
from lakefeed.transfer.archives import TarTarget
from lakefeed.transfer.exporting import ExportOptions, export
from lakefeed.transfer.importing import ImportOptions, ImportReport, Progress, import_tree
from lakefeed.transfer.shards import Shards
from lakefeed.transfer.unpacking import import_archives
from tests.fuzz.test_fuzz import mutant
from tests.lake.tools import contents

FACTS = ("path", "kind", "size", "crc32c", "mtime_ns", "mode")


def rows(snapshot: Snapshot) -> list[tuple[Any, ...]]:
    """Return what a snapshot says of every path, but for where the bytes are."""
    found: list[tuple[Any, ...]] = []
    for table in snapshot.scan():
        found += zip(*(table[name].to_pylist() for name in FACTS), strict=True)
    return found


def member(name: str, data: bytes = b"", **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_600_000_000
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def take(lake: Lake, where: Path, data: bytes, **options: Any) -> ImportReport:
    """Import one archive of these bytes."""
    (where / "x.tar").write_bytes(data)
    return import_archives(lake, [where / "x.tar"], ImportOptions(**options))


def reasons(report: ImportReport) -> dict[str, str]:
    return {problem.path: problem.reason for problem in report.problems}


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "p/q"])
def test_what_was_exported_comes_in_again(
    lake: Lake, tree: Path, tmp_path: Path, prefix: str
) -> None:
    import_tree(lake, tree, ImportOptions(prefix=prefix))
    shards = Shards(str(tmp_path / "out.tar"), 1 << 20)
    out = export(lake.snapshot(), TarTarget(shards), ExportOptions(prefix))
    assert len(out.outputs) > 2
    options = ImportOptions(prefix=prefix, pack_bytes=1 << 20)
    with Lake.create(tmp_path / "again") as again:
        report = import_archives(again, out.outputs, options)
        assert (report.problems, report.skipped) == ((), 0)
        assert (report.files, report.bytes) == (out.files, out.bytes)
        known = [row for row in rows(lake.snapshot()) if row[0] != prefix]
        assert rows(again.snapshot()) == known
        assert report.packs == len(again.snapshot().state.packs) > 3
        assert not check(again, deep=True).findings
        once_more = import_archives(again, out.outputs, options)
        assert (once_more.files, once_more.directories, once_more.packs) == (0, 0, 0)
        assert once_more.skipped == report.files + report.directories
        assert once_more.snapshot == report.snapshot


def test_an_archive_may_be_empty(lake: Lake, tmp_path: Path) -> None:
    report = take(lake, tmp_path, archive())
    assert (report.files, report.errors) == (0, 0)


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress,
     lambda data: pa.compress(data, "zstd", asbytes=True)],
)  # fmt: skip
def test_compression_is_told_by_the_bytes(
    lake: Lake, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    data = archive(member("BZhang/1.jpg", os.urandom(3000)), member("b", bytes(100_000)))
    assert take(lake, tmp_path, pack(data), codec=Codec.ZSTD).errors == 0
    assert contents(lake.snapshot()).keys() == {"BZhang/1.jpg", "b"}
    assert lake.snapshot().stat("b").codec is Codec.ZSTD
    report = take(lake, tmp_path, pack(data)[: 3600 if pack is bytes else -5], prefix="cut")
    assert report.errors == 1
    zstd = pack(data)[:4] == b"\x28\xb5\x2f\xfd"  # Arrow loses what it has read in front of it
    assert "cut/BZhang/1.jpg" in contents(lake.snapshot()) or zstd


def test_names_that_lead_out_and_kinds_that_are_none_are_named(lake: Lake, tmp_path: Path) -> None:
    report = take(
        lake,
        tmp_path,
        archive(
            member("./good//x", b"1"),
            member("../up", b"2"),
            member("/abs", b"3"),
            member("a/../../b", b"4"),
            member("n\0ul", b"5", pax_headers={"path": "n\0ul"}),
            member("bad\udcff", b"6"),
            member("pipe", type=tarfile.FIFOTYPE),
            member("dev", type=tarfile.BLKTYPE),
            member("odd", type=b"Z"),
            member("late", b"7", pax_headers={"mtime": "1e99999999"}),
            member("never", b"8", pax_headers={"mtime": "inf"}),
            member("out", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
            member("nowhere", type=tarfile.LNKTYPE, linkname="gone"),
            member("./", type=tarfile.DIRTYPE),
            member("last", b"9"),
        ),
    )
    assert contents(lake.snapshot()) == {"good/x": b"1", "last": b"9"}
    assert set(reasons(report)) == {
        "../up", "/abs", "a/../../b", "n\0ul", repr(b"bad\xff"), "pipe", "dev", "odd", "late",
        "never", "out", "nowhere",
    }  # fmt: skip
    assert report.files == 2
    special = [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
    quiet = archive(*(member(f"{number}", type=kind) for number, kind in enumerate(special)))
    assert take(lake, tmp_path, quiet, skip_special=True).errors == 0


@pytest.mark.parametrize("data", [b"one", bytes(2_000_000), bytes(40 << 20)], ids=len)
def test_hard_links_show_the_file_they_lead_to(lake: Lake, tmp_path: Path, data: bytes) -> None:
    both = archive(
        member("./d/a", data, mode=0o640),
        member("d/b", type=tarfile.LNKTYPE, linkname="./d/a", mode=0o640),
        member("d/c", type=tarfile.LNKTYPE, linkname="d/b", mode=0o640),
    )
    report = take(lake, tmp_path, both, prefix="p")
    assert (report.errors, report.files, report.bytes) == (0, 3, len(data))
    snapshot = lake.snapshot()
    assert {path: snapshot.get(path) == data for path in contents(snapshot)} == {
        "p/d/a": True, "p/d/b": True, "p/d/c": True,
    }  # fmt: skip
    assert snapshot.stat("p/d/c").mode == 0o640
    assert take(lake, tmp_path, both, prefix="p").skipped == 3


def test_of_one_name_the_last_stands_also_when_run_again(lake: Lake, tmp_path: Path) -> None:
    twice = archive(member("a", b"first"), member("b", b"b"), member("a", b"last", mtime=5))
    for _ in range(3):
        assert take(lake, tmp_path, twice).errors == 0
        assert contents(lake.snapshot()) == {"a": b"last", "b": b"b"}
    assert lake.snapshot().stat("a").mtime_ns == 5 * 10**9


def test_a_name_is_a_file_or_a_directory(lake: Lake, tmp_path: Path) -> None:
    with lake.writer() as writer:
        writer.put("there/x", b"x")
        writer.put("file", b"f", attrs={"label": "1"})
        writer.mkdir("dir", attrs={"label": "2"})
    report = take(
        lake,
        tmp_path,
        archive(
            member("there", b"1"),
            member("file/below", b"2"),
            member("new", b"3"),
            member("new/below", b"4"),
            member("file", b"5"),
            member("dir", type=tarfile.DIRTYPE, mode=0o700),
        ),
    )
    assert reasons(report).keys() == {"there", "file/below", "new/below"}
    assert (report.files, report.directories, report.bytes) == (2, 1, 2)
    assert contents(lake.snapshot()) == {"there/x": b"x", "file": b"5", "new": b"3"}
    assert [lake.snapshot().stat(path).attrs for path in ("file", "dir")] == [
        {"label": "1"}, {"label": "2"},
    ]  # fmt: skip
    assert not check(lake).findings


def test_excluded_members_and_a_dry_run(lake: Lake, tmp_path: Path) -> None:
    data = archive(member("a/b/1", b"1"), member("a/2.tmp", b"2"), member("c", b"33"),
                   member("d", type=tarfile.DIRTYPE))  # fmt: skip
    plan = take(lake, tmp_path, data, exclude=("b/", "*.tmp"), dry_run=True)
    assert lake.snapshot().number == 0
    done = take(lake, tmp_path, data, exclude=("b/", "*.tmp"))
    assert contents(lake.snapshot()) == {"c": b"33"}
    for report in (plan, done):
        found = (report.files, report.directories, report.bytes, report.excluded)
        assert found == (1, 1, 2, 2)
    again = take(lake, tmp_path, data, exclude=("b/", "*.tmp"), dry_run=True)
    assert (again.files, again.skipped) == (0, 2)


GOOD = (member("a", b"1" * 700), member("b", b"2" * 5000), member("c", b"3"))


@pytest.mark.parametrize(
    ("damage", "kept", "reason"),
    [
        (lambda data: data[:3000], "a", "at byte 3000 of the tar; * unexpected end of data"),
        (lambda data: data[:1536], "a", "at byte 1536 of the tar; * without an end mark"),
        (lambda data: data[:1700], "a", "at byte 1536 of the tar; * truncated header"),
        (lambda data: data[:1600] + b"x" + data[1601:], "a", "at byte 1536 *: bad checksum"),
        (lambda data: data[:1536] + bytes(512) + data[2048:], "a", "at byte 1536 * an end mark"),
        (lambda data: data + data, "abc", "at byte 8192 of the tar; * behind an end mark"),
        (lambda data: data[:8192], "abc", "at byte 8192 of the tar; * without an end mark"),
        (lambda data: b"", "", "not a tar archive"),
        (lambda data: b"\xff\xd8\xff" + bytes(3000), "", "not a tar archive"),
    ],
)
def test_damage_is_named_and_what_is_whole_stays(
    lake: Lake, tmp_path: Path, damage: Callable[[bytes], bytes], kept: str, reason: str
) -> None:
    (tmp_path / "bad.tar").write_bytes(damage(archive(*GOOD, form=tarfile.GNU_FORMAT)))
    (tmp_path / "good.tar").write_bytes(archive(member("later", b"4")))
    report = import_archives(lake, [tmp_path / "bad.tar", tmp_path / "good.tar"])
    assert set(contents(lake.snapshot())) == {*kept, "later"}
    assert list(reasons(report)) == [str(tmp_path / "bad.tar")]
    assert fnmatch(reasons(report)[str(tmp_path / "bad.tar")], f"*{reason}*")


@pytest.mark.parametrize("size", [-5, 1 << 62, 1 << 86])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.DIRTYPE])
def test_impossible_sizes_end_an_archive_at_once(
    lake: Lake, tmp_path: Path, size: int, kind: bytes
) -> None:
    info, _ = member("liar", type=kind)
    info.size = size
    liar = info.tobuf(format=tarfile.GNU_FORMAT)
    good = archive(*GOOD, form=tarfile.GNU_FORMAT)
    for dry_run in (True, False):
        report = take(lake, tmp_path, good[:1536] + liar + good[1536:], dry_run=dry_run)
        # Of a file the archive is told, and the file as well where the volume has no room for it.
        assert report.errors in (1, 2) or kind == tarfile.DIRTYPE
    assert contents(lake.snapshot())["a"] == b"1" * 700


@pytest.mark.slow
def test_no_mutant_gets_past_the_problems(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.size": "99", "GNU.sparse.map": "0,2,9,1"}
    good = archive(
        *GOOD, member("d" * 150, b"4", mtime=1.5), member("l", type=tarfile.SYMTYPE, linkname="a"),
        member("h", type=tarfile.LNKTYPE, linkname="b"), member("s", b"123", pax_headers=sparse),
    )  # fmt: skip
    seeds = [
        good,
        archive(*GOOD, form=tarfile.GNU_FORMAT),
        gzip.compress(good),
        lzma.compress(good),
    ]
    with Lake.create(tmp_path / "lake") as lake:
        for seed in range(300):
            seeded = random.Random(seed)
            data = mutant(seeds[seed % len(seeds)], seeded)
            if seed % 3 == 0:
                data = data[: seeded.randrange(len(data))]
            (tmp_path / "x.tar").write_bytes(data)
            twice = [tmp_path / "x.tar"] * 2
            report = import_archives(lake, twice, ImportOptions(prefix=f"p{seed}"))
            assert report.errors or report.files, f"seed {seed}"
        assert not check(lake, deep=True).findings


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.text(min_size=1, max_size=120), st.binary(max_size=2000), max_size=5))
def test_names_come_through_as_they_are(tmp_path: Path, files: dict[str, bytes]) -> None:
    where = tmp_path / os.urandom(8).hex()
    where.mkdir()
    with Lake.create(where / "lake") as lake, Lake.create(where / "again") as again:
        with lake.writer() as writer:
            for path, data in files.items():
                try:
                    writer.put(check_path(path), data, mtime_ns=len(data) * 7 - 999)
                except Invalid:
                    continue
        export(lake.snapshot(), TarTarget(Shards(str(where / "x.tar"))))
        report = import_archives(again, [where / "x.tar"])
        assert report.errors == 0
        assert rows(again.snapshot()) == rows(lake.snapshot())


def test_an_interrupt_keeps_what_was_put(lake: Lake, tmp_path: Path) -> None:
    many = [member(f"{number:05d}", b"x") for number in range(2000)]
    (tmp_path / "x.tar").write_bytes(archive(*many))

    def interrupt(progress: Progress) -> None:
        if progress.files > 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_archives(lake, [tmp_path / "x.tar"], progress=interrupt)
    kept = len(contents(lake.snapshot()))
    assert 600 < kept < 2000
    report = import_archives(lake, [tmp_path / "x.tar"])
    assert (report.skipped, report.files) == (kept, 2000 - kept)


def test_a_failed_commit_ends_the_import_early(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [member(f"{number:05d}", b"x") for number in range(20_000)]
    (tmp_path / "x.tar").write_bytes(archive(*many))

    def fail(*_: object) -> None:
        raise VolumeFailed("a pack")

    monkeypatch.setattr("lakefeed.lake.committing.new_pack", fail)
    seen: list[Progress] = []
    with pytest.raises(VolumeFailed):
        import_archives(lake, [tmp_path / "x.tar"], ImportOptions(pack_rows=1000), seen.append)
    assert seen[-1].files < 20_000
    assert lake.snapshot().number == 0


def test_memory_does_not_grow_with_the_headers(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(archive(*(member(str(n)) for n in range(5000))))
    held: list[int] = []
    with unpacking.Archive(str(tmp_path / "x.tar")) as opened:
        for _ in opened:
            assert opened._tar is not None
            held.append(len(vars(opened._tar)["members"]))
    assert max(held) <= 1


def test_sources_that_are_none_are_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        import_archives(lake, [tmp_path / "nowhere.tar"])
    (tmp_path / "none").write_bytes(b"none")
    for alone in (tmp_path, tmp_path / "none"):
        with pytest.raises(Invalid):
            import_archives(lake, [alone])
    (tmp_path / "x.tar").write_bytes(archive(*GOOD))
    with pytest.raises(Invalid):
        import_archives(lake, [tmp_path / "x.tar"], ImportOptions(follow_symlinks=True))
    with lake.writer() as writer:
        writer.put("file", b"")
    with pytest.raises(Invalid):
        import_archives(lake, [tmp_path / "x.tar"], ImportOptions(prefix="file"))


def test_links_and_directories_keep_modes_and_fractions(lake: Lake, tmp_path: Path) -> None:
    exact = {"mtime": "-1.000000001"}
    take(
        lake,
        tmp_path,
        archive(
            member("l", type=tarfile.SYMTYPE, linkname="no/where", mode=0o755, pax_headers=exact),
            member("d", type=tarfile.DIRTYPE, mode=0o1777),
            member(".", type=tarfile.DIRTYPE, mode=0o711),
        ),
        prefix="p",
    )
    link, directory, root = map(lake.snapshot().stat, ("p/l", "p/d", "p"))
    assert (link.kind, link.mode, link.mtime_ns) == (Kind.SYMLINK, 0o755, -1_000_000_001)
    assert (directory.kind, directory.mode) == (Kind.DIR, 0o1777)
    assert (root.kind, root.mode) == (Kind.DIR, 0o711)
