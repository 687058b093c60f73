"""inbox: a look that changes nothing, and one pass that takes in what is complete."""

from __future__ import annotations

import errno
import gc
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lakefeed.cli.output import Meter
from lakefeed.service import taking
from lakefeed.service.ingest import Ingest, Outcome
from lakefeed.service.taking import Taken
from lakefeed.service.waiting import Candidate
from tests.cli.conftest import Run
from tests.service.tools import drop, refuse_to_open, waiting


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    run: Run, lake: Path, tmp_path: Path
) -> None:
    box = tmp_path / "drop"
    box.mkdir()
    drop(box, "a/1.jpg", b"123")
    (box / "fresh").write_bytes(b"x")
    (box / "link").symlink_to("/etc/passwd")
    before = sorted(box.rglob("*"))
    done = run("inbox", lake, f"{box}=cams", "--inbox-quiet", "1h", "--dry-run")
    assert done.code == 0
    assert "would move aside link: a symbolic link, not a file" in done.out
    assert "would take in 1 files, 3 B; 1 are not complete yet" in done.out
    assert sorted(box.rglob("*")) == before
    missing = run("inbox", lake, tmp_path / "none", "--dry-run")
    assert (missing.code, "make the directory" in missing.err) == (3, True)


def test_a_dry_run_goes_by_the_time_of_the_file_server(
    run: Run, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "drop"
    box.mkdir()
    (box / "fresh").write_bytes(b"x")
    fast_ns = time.time_ns() + 3 * 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: fast_ns)
    done = run("inbox", lake, f"{box}=cams", "--inbox-quiet", "1h", "--dry-run", "--json").json
    assert (done["files"], done["early"]) == (0, 1)


def test_a_dry_run_names_what_the_lake_has_no_place_for(
    lake: Path, tmp_path: Path, run: Run
) -> None:
    box = tmp_path / "drop"
    (box / "b.txt").mkdir(parents=True)
    (box / "b.txt" / "below").write_bytes(b"1")
    (box / "fine").write_bytes(b"12")
    asked = ("inbox", lake, f"{box}=a", "--inbox-quiet", "0s", "--json")
    would = run(*asked, "--dry-run").json
    assert (would["files"], would["bytes"]) == (1, 2)
    assert would["rejected"] == [
        {"path": "b.txt/below", "reason": "in the lake 'a/b.txt' is a file"}
    ]
    done = run(*asked).json
    assert {**done, "dry_run": True, "snapshot": None} == would


def test_what_is_complete_is_taken_in_once(run: Run, lake: Path, tmp_path: Path) -> None:
    box = tmp_path / "drop"
    box.mkdir()
    for number in range(3):
        drop(box, f"{number}", b"%d" % number)
    facts = run("inbox", lake, f"{box}=cams", "--json").json
    assert (facts["files"], facts["bytes"], facts["snapshot"]) == (3, 3, 2)
    assert waiting(box) == []
    assert run("cat", lake, "cams/2").data == b"2"
    assert run("inbox", lake, f"{box}=cams").out.startswith("took in 0 files")
    assert run("inbox", lake, f"{lake}/in").code == 2


@pytest.mark.slow
def test_a_dry_run_leaves_out_what_was_taken_and_kept(run: Run, lake: Path, tmp_path: Path) -> None:
    box = tmp_path / "drop"
    drop(box, "a", b"1")
    asked = ("inbox", lake, f"{box}=cams", "--keep-inbox", "--json")
    assert run(*asked, "--dry-run").json["files"] == 1
    assert run(*asked).json["files"] == 1
    drop(box, "b", b"22")
    before = {path: path.stat().st_mtime_ns for path in box.rglob("*")}
    would = run(*asked, "--dry-run").json
    assert (would["files"], would["bytes"]) == (1, 2)
    assert {path: path.stat().st_mtime_ns for path in box.rglob("*")} == before
    other = tmp_path / "other"
    assert run("create", other).code == 0
    would = run("inbox", other, box, "--keep-inbox", "--json", "--dry-run").json
    assert (would["files"], would["bytes"]) == (2, 3)
    assert run(*asked).json["files"] == 1


def test_the_inboxes_that_compactd_has_are_not_this_commands(
    run: Run, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "drop"
    box.mkdir()
    drop(box, "a", b"1")
    monkeypatch.setenv("LAKEFEED_INBOXES", json.dumps({str(lake): [str(box)], "/x": ["/y"]}))
    assert run("inbox", lake, f"{box}=cams", "--json").json["files"] == 1


def test_what_is_left_is_said(run: Run, lake: Path, tmp_path: Path) -> None:
    box = tmp_path / "drop"
    assert run("create", box / "lake").code == 0
    done = run("inbox", lake, box, "--dry-run")
    assert "left alone lake: a lake" in done.out
    facts = run("inbox", lake, box, "--json").json
    assert [one["path"] for one in facts["left"]] == ["lake"]


def test_what_cannot_be_read_or_removed_is_left_and_not_unfinished(
    run: Run, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "drop"
    for name in ("good", "locked", "shut/a", "stuck"):
        drop(box, name, b"1")
    (box / "fresh").write_bytes(b"2")
    remove = taking._remove

    @contextmanager
    def shut(root_fd: int, path: str) -> Iterator[int]:
        if path.startswith("shut/"):
            raise PermissionError(errno.EACCES, "Permission denied")
        with directory_of(root_fd, path) as fd:
            yield fd

    def stuck(root_fd: int, fd: int, file: Candidate, *claim: Any) -> None:
        if file.path == "stuck":
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(root_fd, fd, file, *claim)

    directory_of = taking.directory_of
    refuse_to_open(monkeypatch, {"locked"}, errno.EACCES)
    monkeypatch.setattr(taking, "directory_of", shut)
    monkeypatch.setattr(taking, "_remove", stuck)
    done = run("inbox", lake, box, "--inbox-quiet", "1h")
    assert "took in 2 files, 2 B; 1 are not complete yet" in done.out
    assert "left alone locked: Permission denied" in done.out
    assert "left alone shut: Permission denied" in done.out
    assert "left alone stuck: the lake has it, and it cannot be removed" in done.out
    facts = run("inbox", lake, box, "--inbox-quiet", "1h", "--json").json
    assert (facts["files"], facts["early"]) == (0, 1)
    assert [one["path"] for one in facts["left"]] == ["locked", "shut", "stuck"]


def test_what_became_of_a_batch_is_not_kept_once_it_is_counted(
    run: Run, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "drop"
    for number in range(6):
        drop(box, f"{number}.jpg", b"123")
    held: list[int] = []
    commit = Ingest.commit

    def counting(self: Ingest, taken: Sequence[Taken]) -> Outcome:
        gc.collect()  # futures that have ended refer to each other
        held.append(sum(type(one) is Outcome for one in gc.get_objects()))
        return commit(self, taken)

    monkeypatch.setattr(Ingest, "commit", counting)
    monkeypatch.setenv("LAKEFEED_PACK_FILES", "1")
    assert run("inbox", lake, f"{box}=cams", "--json").json["files"] == 6
    assert len(held) == 6
    assert max(held) <= 2


def test_who_waits_sees_what_was_looked_at_and_taken_in(
    run: Run, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "drop"
    box.mkdir()
    for name in "123":
        drop(box, name, b"12")
    shown: list[tuple[str, int | None, bool, Meter]] = []

    @contextmanager
    def metering(
        what: str, *, total_files: int | None = None, quiet: bool = False
    ) -> Iterator[Meter]:
        shown.append((what, total_files, quiet, Meter()))
        yield shown[-1][-1]

    monkeypatch.setattr("lakefeed.cli.inbox.metering", metering)
    run("inbox", lake, box, "--inbox-quiet", "0s")
    run("inbox", lake, box, "--inbox-quiet", "0s", "--dry-run", "--quiet")
    drop(box, "4", b"12")
    run("inbox", lake, box, "--inbox-quiet", "0s", "--keep-inbox")
    drop(box, "5", b"123")
    run("inbox", lake, box, "--inbox-quiet", "0s", "--keep-inbox")
    assert [(*how, meter.files, meter.bytes) for *how, meter in shown] == [
        ("looking", None, False, 3, 6),
        ("taking in", 3, False, 3, 6),
        ("looking", None, True, 0, 0),
        ("looking", None, False, 1, 2),
        ("taking in", None, False, 1, 2),
        # The one that stayed is seen again, and was taken in before.
        ("looking", None, False, 2, 5),
        ("taking in", None, False, 1, 3),
    ]
