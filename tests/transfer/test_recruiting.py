"""Workers that were started early do their work, or end without having had any."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.transfer import recruiting
from lakefeed.transfer.importing import ImportOptions, import_tree
from lakefeed.transfer.recruiting import Recruits, looks_big
from tests.support.patience import PATIENCE_SECONDS


def grown(root: Path, files: int) -> Path:
    for number in range(files):
        path = root / f"{number % 7}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    return root


def test_a_short_look_tells_a_big_source_from_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = grown(tmp_path / "source", 50)
    monkeypatch.setattr(recruiting, "LOOK_SECONDS", 60.0)
    assert looks_big(str(source), 57)
    assert not looks_big(str(source), 58)
    assert not looks_big(str(tmp_path / "nowhere"), 1)
    # What takes longer than a look may be anything, and is worth helpers.
    monkeypatch.setattr(recruiting, "LOOK_SECONDS", 0.0)
    assert looks_big(str(source), 1000)


def test_recruits_that_nobody_needs_are_gone_afterwards() -> None:
    with Recruits() as recruits:
        recruits.start(2)
        waiting = list(recruits._waiting)
    assert all(process.returncode is not None for process in waiting)
    recruits.close()


@pytest.mark.slow
def test_recruits_import_what_others_would(tmp_path: Path) -> None:
    source = grown(tmp_path / "source", 60)
    with Lake.create(tmp_path / "lake") as lake, Recruits() as recruits:
        recruits.start(3)
        early = {process.pid for process in recruits._waiting}
        report = import_tree(
            lake, source, ImportOptions(workers=2, workers_from=1), recruits=recruits
        )
        left = {process.pid for process in recruits._waiting}
        assert (report.files, report.errors) == (60, 0)
        assert len(left) == 1
        assert left < early
        assert lake.snapshot().get("3/3") == b"3"


@pytest.mark.slow
def test_a_worker_without_a_job_ends_by_itself() -> None:
    recruits = Recruits()
    process = recruits.take()
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0
