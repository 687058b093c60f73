"""Contestants that need nothing extra deliver whole epochs; the slow mount gives the same bytes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.peers.__main__ import Setting, with_saved
from benchmarks.peers.contest import Task, listed, make_files, sizes
from benchmarks.peers.files_threads import FilesThreads, read
from benchmarks.peers.lake_feed import LakeFeed
from benchmarks.peers.limit import Limit
from benchmarks.peers.picture import draw
from benchmarks.peers.report import CPU, FEED, LIMIT, page, verdicts
from tests.support.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parent.parent.parent
COUNT = 700


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("peers") / "files"
    make_files(where, "tiny", COUNT)
    return where


@pytest.mark.slow
@pytest.mark.parametrize("contestant", [Limit, FilesThreads, LakeFeed])
def test_an_epoch_is_every_sample_once(
    contestant: type[LakeFeed], files: Path, tmp_path: Path
) -> None:
    task = Task("tiny", files, tmp_path)
    whole = (COUNT, sum(sizes("tiny", COUNT)))
    one = contestant()
    one.prepare(task)
    done = one.run(task)
    assert (done.samples, done.bytes) == done.epoch == whole
    assert 0 < done.first_samples <= COUNT
    # Cut behind the first batch, within the second epoch at the earliest.
    cut = one.run(Task("tiny", files, tmp_path, seconds=-1, again=True))
    assert cut.samples >= cut.first_samples > 0
    assert cut.epoch in (None, whole)


def test_the_page_of_figures_says_what_fell_short_and_who_could_not_run(tmp_path: Path) -> None:
    fast = {"samples_per_second": 100, "cpu_seconds_per_million": 2.0, "peak_mb": 9,
            "first_seconds": 0.1}  # fmt: skip
    slow = fast | {"samples_per_second": 60, "cpu_seconds_per_million": 5.0}
    figures = {LIMIT: fast, FEED: slow, "LMDB": fast, "FFCV": "it does not build"}
    rows = {text: (got, met) for _, text, got, met in verdicts({"warm/img": figures})}
    got, reached = rows["global: 0.8 of the limit"]
    assert (got, reached.split(":")[0]) == ("0.60 (0.8)", "**short**")
    assert rows[CPU][0] == "0.40 (1)"
    document = {"cells": {"warm/img": figures}, "counts": {"img": 4}, "rounds": 1,
                "ran": {"warm/img": ("2026-11-30T12:00:00+00:00", "0a1b2c3")},
                "environment": harness.environment()}  # fmt: skip
    assert "- FFCV: it does not build" in page(document)
    draw(document, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(importlib.util.find_spec("pyfuse3") is None, reason="pyfuse3 is not installed")
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine")
@pytest.mark.parametrize("model", ["far", "nas"])
def test_the_slow_mount_passes_the_bytes_through(files: Path, tmp_path: Path, model: str) -> None:
    point = tmp_path / "mount"
    point.mkdir()
    command = [sys.executable, "-m", "benchmarks.slowfs", str(files), str(point), "--model", model]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        harness.wait_until(lambda: any(point.iterdir()), PATIENCE_SECONDS)
        paths = listed(files)
        with ThreadPoolExecutor(16) as pool:
            through = list(pool.map(read, (path.replace(str(files), str(point)) for path in paths)))
        assert through == [read(path) for path in paths]
        with pytest.raises(OSError, match="Read-only"):
            (point / "new").write_bytes(b"")
    finally:
        server.terminate()
        assert server.wait(PATIENCE_SECONDS) == 0
    assert list(point.iterdir()) == []


def test_cells_that_are_not_measured_anew_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)

    def saved_with(counts: dict[str, int], *cells: str) -> dict[str, Any]:
        setting = Setting(tmp_path, counts, list(cells), 1, 1.0)
        facts = with_saved("peers", setting, {cell: {"lakefeed": cells[0]} for cell in cells})
        harness.save("peers", {"counts": counts, **facts})
        return facts

    saved_with({"img": 4}, "far/img", "warm/img")
    later = saved_with({"img": 4}, "cold/img", "warm/img")
    assert later["cells"] == {"warm/img": {"lakefeed": "cold/img"},
                              "far/img": {"lakefeed": "far/img"},
                              "cold/img": {"lakefeed": "cold/img"}}  # fmt: skip
    assert list(later["ran"]) == list(later["cells"])
    assert list(saved_with({"img": 5}, "nas/img")["cells"]) == ["nas/img"]  # of other data
    harness.save("peers", {"counts": {"img": 4}, "cells": {"far/img": {}}})  # before `ran` was kept
    assert list(saved_with({"img": 4}, "warm/img")["ran"]) == ["warm/img", "far/img"]
