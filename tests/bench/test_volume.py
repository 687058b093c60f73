"""What `bench volume` says of a directory follows from the calls that were made."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed.bench import volume
from lakefeed.bench.volume import VolumeOptions, conclusions, measured, run_cell


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_cell_has_the_rate_of_all_its_threads(seconds: float) -> None:
    made = itertools.count()
    cell = run_cell("read", lambda: next(made), (3, 4096), seconds)
    assert (cell.calls, cell.concurrency) == (next(made), 3)
    assert cell.calls >= 3, "one of each thread at least"
    assert cell.seconds >= seconds
    assert cell.calls_per_second == pytest.approx(cell.calls / cell.seconds)
    assert cell.bytes_per_second == pytest.approx(4096 * cell.calls_per_second)
    assert 0 <= cell.p50_seconds <= cell.p99_seconds <= cell.seconds


def row(name: str, concurrency: int, rate: float, knee: int | None) -> dict[str, Any]:
    figures = {"calls_per_second": rate, "bytes_per_second": rate * 1e6}
    return {"name": name, "concurrency": concurrency, "knee": knee, **figures}


def test_the_conclusions_are_of_the_best_cells() -> None:
    reads = [
        row("sequential", 1, 20, 4), row("sequential", 4, 50, 4),
        row("random", 1, 10, None), row("random", 4, 70, None), row("random", 8, 60, None),
    ]  # fmt: skip
    calls = [row("stat", 8, 999, 1), row("open + close", 1, 3000, 4), row("open + close", 4, 90, 4)]
    assert conclusions(reads, calls) == [
        "reads at most 70 MB/s (random, 4 in flight); 1 in flight front to back get 20 MB/s",
        "opens at most 3,000 files/s (1 in flight): plain small files cannot be read faster than "
        "that, whatever their size",
        "requests in flight behind which nothing is gained: sequential 4",
    ]


def test_each_cell_makes_its_calls_and_reads_find_no_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def note(where: Any, name: str) -> None:
        real = getattr(where, name)

        def noting(*arguments: Any, **more: Any) -> Any:
            told.append(name)
            return real(*arguments, **more)

        monkeypatch.setattr(where, name, noting)

    def cell(name: str, call: Any, how: tuple[int, int], seconds: float) -> volume.Cell:
        told.append(name)
        return run_cell(name, call, how, 0.0)

    for name in ("fsync", "link", "rename"):
        note(os, name)
    note(volume, "forget")
    monkeypatch.setattr(volume, "run_cell", cell)
    bad = {"level": "warning", "name": "noac", "advice": "leave it out"}
    verdicts = [{"level": "ok", "name": "links", "advice": ""}, bad]
    monkeypatch.setattr(volume.probing, "examine", lambda where: {"verdicts": verdicts})
    line: Any = SimpleNamespace(waits=lambda: None, tell=lambda *message: None)
    options = VolumeOptions(str(tmp_path), 1 << 20, files=1, concurrency=(2,), sizes=(4096,))
    found = measured(options, tmp_path, line)
    assert told == [
        "fsync", "forget", "sequential 4 KiB", "forget", "random 4 KiB", "open + close", "stat",
        "create 4 KiB", "create + fsync", "fsync", "fsync", "link", "link", "link",
        "rename", "rename", "rename",
    ]  # fmt: skip
    assert found["next"] == "noac: leave it out"
    assert found["verdict"].startswith("TOO SMALL TO MEAN MUCH (0.5 s a cell). reads at most")
