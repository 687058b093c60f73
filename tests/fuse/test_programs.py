"""Programs that know nothing of lakes work on the mount: those at hand are run, the rest skips."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lakefeed import Lake
from tests.fuse.tools import Mounted, fsck, mounted, needs_fuse
from tests.support.patience import PATIENCE_SECONDS

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


def do(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same_trees(one: Path, other: Path) -> None:
    compared = filecmp.dircmp(one, other, ignore=[])
    pending = [compared]
    while pending:
        here = pending.pop()
        assert not here.left_only + here.right_only + here.diff_files + here.funny_files
        pending += here.subdirs.values()


@needs("git")
def test_git_clones_commits_and_sees_nothing_changed(rw: Mounted, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(ROOT / "lakefeed", origin, ignore=shutil.ignore_patterns("__pycache__"))
    identity = ("-c", "user.name=n", "-c", "user.email=e@x")
    do("git", "init", "-q", origin)
    do("git", *identity, "add", ".", cwd=origin)
    do("git", *identity, "commit", "-qm", "one", cwd=origin)
    clone = rw.path / "clone"
    do("git", "clone", "-q", origin, clone)
    assert do("git", "status", "--short", cwd=clone) == ""
    (clone / "errors.py").write_text("# changed\n")
    (clone / "new.txt").write_text("new\n")
    assert do("git", "status", "--short", cwd=clone) == " M errors.py\n?? new.txt\n"
    do("git", *identity, "add", ".", cwd=clone)
    do("git", *identity, "commit", "-qm", "two", cwd=clone)
    do("git", "checkout", "-q", "HEAD~1", cwd=clone)
    do("git", "gc", "-q", cwd=clone)
    rw.sync()
    assert do("git", "status", "--short", cwd=clone) == ""
    do("git", "fsck", "--strict", cwd=clone)


@needs("rsync")
def test_rsync_there_and_back_and_nothing_the_second_time(rw: Mounted, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    shutil.copytree(ROOT / "tests", source, symlinks=True)
    os.symlink("nowhere", source / "broken")
    do("rsync", "-aX", f"{source}/", f"{rw.path}/copy/")
    assert do("rsync", "-aXi", f"{source}/", f"{rw.path}/copy/") == ""
    rw.sync()
    assert do("rsync", "-aXi", f"{source}/", f"{rw.path}/copy/") == ""
    do("rsync", "-aX", f"{rw.path}/copy/", f"{rw.path}/again/")
    do("rsync", "-aX", f"{rw.path}/copy/", f"{back}/")
    assert do("rsync", "-aic", f"{source}/", f"{back}/") == ""


@needs("tar")
def test_tar_out_and_in(rw: Mounted, tmp_path: Path) -> None:
    do("tar", "-C", ROOT, "-cf", tmp_path / "a.tar", "--exclude=__pycache__", "lakefeed")
    do("tar", "-C", rw.path, "-xf", tmp_path / "a.tar")
    do("tar", "-C", rw.path, "-cf", tmp_path / "b.tar", "lakefeed")
    (tmp_path / "out").mkdir()
    do("tar", "-C", tmp_path / "out", "-xf", tmp_path / "b.tar")
    do("tar", "-C", tmp_path / "out", "-df", tmp_path / "a.tar")


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_keeps_a_database(lake: Path, tmp_path: Path, journal: str) -> None:
    with mounted(lake, tmp_path / "mnt", "--rw") as here:
        base = sqlite3.connect(here.path / "base.db")
        assert base.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
        base.execute("create table t (n integer primary key, s text)")
        for number in range(20):
            with base:
                base.executemany("insert into t (s) values (?)", [(f"row {number}",)] * 50)
        with pytest.raises(RuntimeError), base:
            base.execute("delete from t")
            raise RuntimeError("rolled back")
        assert base.execute("select count(*) from t").fetchone() == (1000,)
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        base.close()
    with mounted(lake, tmp_path / "mnt") as here:
        copy = tmp_path / "copy.db"
        shutil.copy(here.path / "base.db", copy)
        base = sqlite3.connect(copy)
        assert base.execute("select count(*) from t").fetchone() == (1000,)
        base.close()


def test_duckdb_reads_and_writes_parquet_and_its_own_database(rw: Mounted) -> None:
    duckdb = pytest.importorskip("duckdb")
    parquet = rw.path / "squares.parquet"
    with duckdb.connect(str(rw.path / "base.duckdb")) as base:
        base.execute("create table t as select range as n, n * n as square from range(100000)")
        base.execute(f"copy t to '{parquet}'")
        base.execute("checkpoint")
    rw.sync()
    with duckdb.connect(str(rw.path / "base.duckdb")) as base:
        query = f"select count(*), sum(p.square) from t join '{parquet}' p using (n)"
        assert base.execute(query).fetchone() == (100_000, sum(n * n for n in range(100_000)))


def test_pip_installs_a_package_that_imports(rw: Mounted, tmp_path: Path) -> None:
    wheel = tmp_path / "fine-1-py3-none-any.whl"
    info = "fine-1.dist-info"
    files = {f"fine/part{number}.py": f"value = {number}\n" for number in range(200)}
    files["fine/__init__.py"] = "from fine.part42 import value as answer\n"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: fine\nVersion: 1\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    target = rw.path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    do(*pip, "--target", target, wheel)
    code = f"import sys; sys.path.insert(0, {str(target)!r}); import fine; print(fine.answer)"
    assert do(sys.executable, "-c", code) == "42\n"
    rw.sync()
    assert do(sys.executable, "-c", code) == "42\n"
    with Lake.open(rw.lake) as lake:
        assert len(lake.snapshot().ls("packages/fine")) >= 201


def test_readers_that_seek_find_their_parts(rw: Mounted) -> None:
    """Archives are read from their end, arrays are mapped, members are picked at random."""
    randomly = random.Random(8)
    parts = {f"{number:03d}": randomly.randbytes(60_000) for number in range(150)}
    with zipfile.ZipFile(rw.path / "parts.zip", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    np.save(rw.path / "numbers.npy", np.arange(1_500_000))
    rw.sync()
    for name in ("parts.zip", "numbers.npy"):
        handle = os.open(rw.path / name, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    with zipfile.ZipFile(rw.path / "parts.zip") as archive:
        for name in randomly.sample(sorted(parts), 60):
            assert archive.read(name) == parts[name]
    mapped = np.load(rw.path / "numbers.npy", mmap_mode="r")
    for start in randomly.sample(range(1_499_000), 60):
        assert mapped[start] == start
        assert (mapped[start : start + 1000] == np.arange(start, start + 1000)).all()


@needs("fio")
def test_fio_verifies_what_it_wrote(rw: Mounted) -> None:
    do("fio", "--name=v", f"--directory={rw.path}", "--rw=randwrite", "--bs=4k", "--size=8m",
       "--verify=crc32c", "--do_verify=1", "--fsync=200", "--end_fsync=1", "--ioengine=psync",
       "--invalidate=1", "--fallocate=none", "--randseed=7", "--verify_state_save=0")  # fmt: skip


@needs("stress-ng")
def test_stress_ng_finds_nothing(rw: Mounted) -> None:
    """All stressors at the same time, each on files of its own."""
    stressors = [word for name in ("hdd", "dentry", "rename", "symlink", "chmod", "utime", "dir")
                 for word in (f"--{name}", 1)]  # fmt: skip
    do("stress-ng", "--temp-path", rw.path, "--verify", *stressors, "--timeout", "5s",
       "--hdd-bytes", "16m", "--dentries", "200", "--dir-dirs", "200")  # fmt: skip
    rw.sync()
    fsck(rw.lake)


@needs("ffmpeg")
def test_a_reader_that_seeks_finds_the_end_of_a_film(rw: Mounted) -> None:
    film = rw.path / "film.mp4"
    do("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=duration=20:size=160x120:rate=10",
       "-movflags", "+faststart", film)  # fmt: skip
    rw.sync()
    os.posix_fadvise(handle := os.open(film, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    facts = do("ffmpeg", "-v", "info", "-ss", "15", "-i", film, "-f", "framemd5", "-")
    assert facts.count("\n0,") == 50


@pytest.mark.tf
def test_keras_trains_from_a_directory_of_images(rw: Mounted) -> None:
    image = pytest.importorskip("PIL.Image")
    for number in range(40):
        place = rw.path / "images" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (32, 32), (number * 6, 0, 255 * (number % 2))).save(
            place / f"{number}.png"
        )
    with Lake.open(rw.lake) as lake:
        rw.sync()
        assert len(lake.snapshot().ls("images/class0")) == 20
    code = (
        "import keras, sys\n"
        "data = keras.utils.image_dataset_from_directory(sys.argv[1], image_size=(32, 32),"
        " batch_size=8, shuffle=False, verbose=False)\n"
        "print(data.class_names, sum(len(labels) for _, labels in data))\n"
    )
    assert do(sys.executable, "-c", code, rw.path / "images") == "['class0', 'class1'] 40\n"


def test_a_loop_over_class_folders_sees_each_image_once(rw: Mounted) -> None:
    """What torchvision's ImageFolder does: scandir for classes, sorted walks for files."""
    for number in range(300):
        place = rw.path / "data" / f"c{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03d}.bin").write_bytes(b"%d" % number)
    classes = sorted(entry.name for entry in os.scandir(rw.path / "data") if entry.is_dir())
    samples = [
        (Path(root) / name, classes.index(cls))
        for cls in classes
        for root, _, names in sorted(os.walk(rw.path / "data" / cls, followlinks=True))
        for name in sorted(names)
    ]
    assert sorted(int(path.read_bytes()) for path, _ in samples) == list(range(300))
    assert all(int(path.read_bytes()) % 3 == label for path, label in samples)


@pytest.mark.parametrize("verb", ["create", "inbox"])
def test_lakefeed_itself_says_that_it_needs_hard_links(
    rw: Mounted, tmp_path: Path, verb: str
) -> None:
    below = rw.path / "below"
    below.mkdir()
    words = [below]
    if verb == "inbox":
        Lake.create(tmp_path / "other").close()
        words = [tmp_path / "other", below]
    done = subprocess.run(
        [sys.executable, "-m", "lakefeed", verb, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 6
    assert "expected a file system with hard links" in done.stderr
