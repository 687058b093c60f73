"""A directory on a volume that may stop answering: it is there, it goes, or its name is told."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed.bench import lending
from lakefeed.bench.lending import lent
from lakefeed.errors import NotFound, VolumeFailed
from tests.support.stalling import stalling

pytestmark = pytest.mark.slow


def test_what_was_lent_goes_with_all_that_lies_in_it(tmp_path: Path) -> None:
    with lent(str(tmp_path), "x-", 60) as where:
        assert Path(where).parent == tmp_path
        (Path(where) / "a" / "b").mkdir(parents=True)
        (Path(where) / "a" / "b" / "file").write_bytes(b"1")
        (Path(where) / "away").symlink_to(tmp_path)
        (Path(where) / "a" / "b").chmod(0)
        (Path(where) / "a").chmod(0)
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_else_has_removed_is_gone(tmp_path: Path) -> None:
    """Measured is measured: whoever cleans up meanwhile takes no figures away."""
    with lent(str(tmp_path), "x-", 60) as where:
        shutil.rmtree(where)
    assert list(tmp_path.iterdir()) == []


def test_a_volume_without_modes_is_cleared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file servers, of volumes that Windows shares, refuse every chmod."""
    (tmp_path / "lent" / "a").mkdir(parents=True)
    (tmp_path / "lent" / "a" / "file").write_bytes(b"1")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    line: Any = SimpleNamespace(waits=lambda: None)
    lending._remove(str(tmp_path / "lent"), line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt()])
def test_what_was_interrupted_in_its_removal_is_named(
    failure: BaseException | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lent(str(tmp_path), "x-", 60) as where:
        monkeypatch.setattr(lending, "run_apart", interrupt)
        if failure is not None:
            raise failure
    assert f"directory {where} is left behind" in caplog.text


def test_it_goes_where_the_block_fails_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lent(str(tmp_path), "x-", 0):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_only_a_directory_lends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "none"):
        with pytest.raises(NotFound, match=name), lent(str(tmp_path / name), "x-", 60):
            pass


def test_a_volume_that_does_not_answer_lends_nothing(tmp_path: Path) -> None:
    with stalling(tmp_path) as filer:
        filer.stop()
        with pytest.raises(VolumeFailed, match="none for 0"), lent(str(tmp_path), "x-", 0.5):
            pass


def test_what_cannot_be_removed_in_time_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def use(failure: Exception | None) -> None:
        with lent(str(tmp_path), "x-", 0.5) as where:
            (Path(where) / "sick").mkdir()
            mounts.enter_context(stalling(Path(where) / "sick")).stop()
            if failure is not None:
                raise failure

    with ExitStack() as mounts:
        with pytest.raises(VolumeFailed, match="expected to remove it, found none for 0"):
            use(None)
        with pytest.raises(KeyError, match="mine"), caplog.at_level(logging.WARNING):
            use(KeyError("mine"))
        assert "expected to remove it" in caplog.text
