"""inbox: a look that changes nothing, and one pass that takes in what is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.service.tools import drop, waiting


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
    assert run("inbox", lake, tmp_path / "none", "--dry-run").code == 3


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
