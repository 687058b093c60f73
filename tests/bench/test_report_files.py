"""A report is put where it was asked for, whole, or the file there stays as it was."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lakefeed.bench import page, reports
from lakefeed.errors import Conflict, Invalid, NotFound, VolumeFailed
from tests.bench.test_reports import report


@pytest.mark.parametrize("put", [page.check, lambda where: page.write(report(), where)])
def test_a_place_that_takes_no_file_is_no_matter_of_a_lake(put: Callable[[Path], object]) -> None:
    with pytest.raises(NotFound, match="report /proc/r") as refused:
        put(Path("/proc/r"))
    assert refused.value.hint == "check the path and its permissions"


def test_a_place_without_a_name_or_a_directory_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"as it was")
    for where, kind in ((Path("."), Invalid), (tmp_path / "file" / "r", Conflict)):
        with pytest.raises(kind, match="report"):
            page.check(where)
    (tmp_path / "r.json").write_bytes(b"as it was")
    page.check(tmp_path / "r.html")
    assert sorted(os.listdir(tmp_path)) == ["file", "r.json"]
    assert (tmp_path / "r.json").read_bytes() == b"as it was"


def test_a_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    html, _ = page.write(report(title="Volume /mnt/\udcff"), tmp_path / "r")
    assert "Volume /mnt/\\udcff" in html.read_text()


def test_a_report_keeps_its_mode(tmp_path: Path) -> None:
    _, data = page.write(report(), tmp_path / "r")
    data.chmod(0o600)
    page.write(report(), tmp_path / "r")
    assert data.stat().st_mode & 0o777 == 0o600


def test_no_device_and_no_pipe_is_replaced(tmp_path: Path) -> None:
    """As `r.json`, a link to /dev/null, for whoever wants the page alone."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "r.json").symlink_to(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    page.check(tmp_path / "r")
    page.write(report(), tmp_path / "r")
    assert (tmp_path / "pipe").is_fifo()
    assert os.read(reader, 1) == b"{"
    os.close(reader)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY])
def test_a_file_that_no_other_may_replace_is_written_over(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory of somebody else, or mounted by itself."""
    _, data = page.write(report(), tmp_path / "r")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    page.check(tmp_path / "r")
    page.write(report(200), tmp_path / "r")
    assert data.read_text() == json.dumps(report(200), indent=1) + "\n"
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(VolumeFailed):
        page.write(report(), tmp_path / "new")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_report_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a kill or another rank's report come in the middle."""
    _, data = page.write(report(), tmp_path / "r")
    real = Path.write_text

    def half(path: Path, text: str, **more: Any) -> int:
        real(path, text[:99], **more)
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(VolumeFailed, match="no space"):
        page.write(report(200), tmp_path / "r")
    assert reports.read(data) == report()
    assert sorted(os.listdir(tmp_path)) == ["r.html", "r.json"]


def test_a_report_that_is_a_link_is_written_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("r.html", "r.json"):
        (tmp_path / "there" / name).write_bytes(b"")
        (tmp_path / name).symlink_to(tmp_path / "there" / name)
    page.check(tmp_path / "r")
    page.write(report(), tmp_path / "r")
    assert (tmp_path / "r.json").is_symlink()
    assert reports.read(tmp_path / "there" / "r.json") == report()
