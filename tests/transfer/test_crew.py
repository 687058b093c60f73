"""An import by several processes does what one does, and ends as well as one does."""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import Invalid, LakefeedError, VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.transfer import recruiting
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import export
from lakefeed.transfer.importing import ImportOptions, Progress, import_tree
from lakefeed.volume.deadline import DeadlineVolume
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from tests.support.patience import PATIENCE_SECONDS
from tests.transfer.trees import facts

CREW = ImportOptions(workers=2, workers_from=1)

# Does something to itself or to its workers as soon as one of these tells how far it is.
DRIVER = """
import os, signal, sys
from pathlib import Path
from lakefeed import Lake
from lakefeed.transfer.importing import ImportOptions, import_tree

def workers():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

def act(progress):
    if progress.files and not acted:
        acted.append(True)
        print(*workers(), flush=True)
        ACTION

acted = []
signal.signal(signal.SIGINT, signal.default_int_handler)
with Lake.open(sys.argv[1]) as lake:
    import_tree(lake, sys.argv[2], ImportOptions(workers=2, workers_from=1), act)
"""


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A tree of more names than the workers are dealt at the beginning."""
    root = tmp_path / "wide"
    for number in range(40):
        directory = root / f"{number:02d}"
        directory.mkdir(parents=True)
        for name in range(200):
            (directory / f"{name:03d}").write_bytes(b"%d" % name)
    return root


def count(lake: Lake) -> int:
    return sum(len(table) for table in lake.snapshot().scan())


def drive(lake: Lake, tree: Path, action: str) -> subprocess.Popen[str]:
    code = DRIVER.replace("ACTION", action)
    return subprocess.Popen(
        [sys.executable, "-c", code, lake.name, str(tree)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "below/here"])
@pytest.mark.parametrize("deadline", [False, True])
def test_several_processes_import_what_one_does(
    lake: Lake, tree: Path, tmp_path: Path, prefix: str, deadline: bool
) -> None:
    seen: list[Progress] = []
    one, several = ImportOptions(prefix=prefix), replace(CREW, prefix=prefix)
    with Lake.create(tmp_path / "other") as other:
        alone = import_tree(other, tree, one)
    volume = PosixVolume(lake.name)
    with Lake.open(DeadlineVolume(volume, 60.0) if deadline else volume) as opened:
        report = import_tree(opened, tree, several, seen.append)
        assert (report.files, report.directories) == (alone.files, alone.directories)
        assert (report.bytes, report.errors) == (alone.bytes, 0)
        assert (seen[-1].files, seen[-1].bytes) == (report.files, report.bytes)
        again = import_tree(opened, tree, several)
        assert (again.files, again.directories, again.packs) == (0, 0, 0)
        assert again.skipped == alone.files + alone.directories
    export(
        lake.snapshot(),
        DirectoryTarget(tmp_path / "out"),
    )
    assert facts(tmp_path / "out" / prefix) == facts(tree)
    assert not check(lake, deep=True).findings


@pytest.mark.slow
def test_every_worker_takes_part_and_commits(lake: Lake, wide: Path) -> None:
    report = import_tree(lake, wide, replace(CREW, pack_rows=500))
    assert report.files == 8000
    assert report.packs == len(lake.snapshot().state.packs) > 8
    assert count(lake) == 8040


@pytest.mark.slow
def test_packs_that_others_have_not_committed_yet_alarm_no_worker(
    tmp_path: Path,
    wide: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What this process is told does not go to stderr, as what the workers are told does.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    with Lake.create(tmp_path / "lake") as new:
        pack = tmp_path / "lake" / layout.pack_path("ab" * 16)
        pack.parent.mkdir(parents=True)
        pack.write_bytes(b"of a worker that is quicker")
        assert import_tree(new, wide, CREW).files == 8000
    assert [record.message.split(" has ")[1][:20] for record in caplog.records] == [
        "packs and no commit:"
    ]
    assert "no commit" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_dry_run_by_several_processes_changes_nothing(lake: Lake, wide: Path) -> None:
    report = import_tree(lake, wide, replace(CREW, dry_run=True))
    assert (report.files, report.packs) == (8000, 0)
    assert count(lake) == 0


@pytest.mark.slow
def test_what_workers_leave_out_is_in_the_report(lake: Lake, tree: Path) -> None:
    with lake.writer() as writer:
        writer.put("middle/of/something", b"")
        writer.put("big/of/something", b"")
    os.mkfifo(tree / "pipe")
    (tree / "skipped.tmp").touch()
    report = import_tree(lake, tree, replace(CREW, exclude=("*.tmp",)))
    assert [problem.path for problem in report.problems] == ["big", "middle", "pipe"]
    assert (report.errors, report.excluded) == (3, 1)


@pytest.mark.slow
def test_directories_replace_files_whoever_was_dealt_them(lake: Lake, wide: Path) -> None:
    with lake.writer() as writer:
        for number in range(40):
            writer.put(f"{number:02d}", b"a file")
    assert import_tree(lake, wide, CREW).errors == 0
    assert count(lake) == 8040
    assert not check(lake, deep=True).findings


@pytest.mark.slow
def test_workers_load_no_pandas(
    lake: Lake, tree: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    assert import_tree(lake, tree, CREW).errors == 0
    loaded = re.findall(r"^import time:.*\|\s+([\w.]+)$", capfd.readouterr().err, re.MULTILINE)
    assert "lakefeed.transfer.worker" in loaded
    assert "pandas.core" not in loaded  # a failed attempt is listed as pandas alone


def test_a_small_source_needs_no_other_process(
    lake: Lake, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recruiting.sys, "executable", "/nowhere/python")
    report = import_tree(lake, tree, ImportOptions(workers=2))
    assert report.files + report.directories == len(facts(tree))


def test_a_volume_that_only_this_process_has_is_served_by_it(tree: Path) -> None:
    with Lake.create(MemoryVolume()) as lake:
        assert import_tree(lake, tree, CREW).errors == 0
        assert count(lake) == len(facts(tree))


def test_less_than_one_worker_is_refused(lake: Lake, tree: Path) -> None:
    with pytest.raises(Invalid):
        import_tree(lake, tree, ImportOptions(workers=0))


@pytest.mark.slow
def test_an_error_in_a_worker_is_raised_as_it_was(lake: Lake, tree: Path) -> None:
    for directory in Path(lake.name).iterdir():
        if directory.is_dir() and "pack" in directory.name:
            directory.rename(directory.with_name("moved"))
            directory.write_bytes(b"")
    with pytest.raises(LakefeedError) as raised:
        import_tree(lake, tree, CREW)
    assert "import worker" not in str(raised.value)


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_the_lake_stays_sound(lake: Lake, wide: Path) -> None:
    with drive(lake, wide, "os.kill(int(workers()[0]), signal.SIGKILL)") as ran:
        _, complaints = ran.communicate(timeout=PATIENCE_SECONDS)
    assert VolumeFailed.__name__ in complaints
    assert "killed by SIGKILL" in complaints
    assert ran.returncode == 1
    assert not check(lake, deep=True).findings
    assert import_tree(lake, wide, CREW).errors == 0
    assert count(lake) == 8040


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(lake: Lake, wide: Path) -> None:
    code = DRIVER.replace("ACTION", "sys.stdin.readline()")
    with subprocess.Popen(
        [sys.executable, "-c", code, lake.name, str(wide)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as ran:  # fmt: skip
        assert ran.stdout is not None
        fds = [os.pidfd_open(int(pid)) for pid in ran.stdout.readline().split()]
        assert len(fds) == 2
        ran.kill()
        for fd in fds:
            assert select.select([fd], [], [], PATIENCE_SECONDS)[0]
            os.close(fd)
    assert not check(lake, deep=True).findings
    assert import_tree(lake, wide, CREW).errors == 0
    assert count(lake) == 8040


@pytest.mark.slow
def test_an_interrupt_commits_what_the_workers_have(lake: Lake, wide: Path) -> None:
    with drive(lake, wide, "signal.raise_signal(signal.SIGINT)") as ran:
        _, complaints = ran.communicate(timeout=PATIENCE_SECONDS)
    assert ran.returncode == -signal.SIGINT, complaints
    assert "Traceback" in complaints
    assert complaints.count("Traceback") == 1
    done = count(lake)
    assert 0 < done < 8040
    packs = len(list(Path(lake.name).rglob("*.pack")))
    assert packs == len(lake.snapshot().state.packs)
    assert import_tree(lake, wide, CREW).skipped == done
    assert count(lake) == 8040
