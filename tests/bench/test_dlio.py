"""AU as we compute it equals what DLIO itself printed, from DLIO's own record of the same run.

`recorded/dlio.json` is what dlio_benchmark 2.0.0 wrote for two ranks of 30 steps of 0.02 s, read
through a loader of its plug-in interface: each step's times, and the metric it printed.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lakefeed.bench import figures
from lakefeed.bench.steps import Epoch, RankResult


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    path = Path(__file__).parent / "recorded" / "dlio.json"
    return dict(json.loads(path.read_text()))


def ranks(record: dict[str, Any]) -> list[RankResult]:
    """DLIO's record as our own."""
    block = record["per_epoch_stats"]["1"]["block1"]
    start, end = (datetime.fromisoformat(block[key]).timestamp() for key in ("start", "end"))
    results = []
    for rank in (0, 1):
        steps = record[f"rank{rank}"]
        waits, spans = steps["load"]["block1"], steps["proc"]["block1"]
        nothing = [0] * len(waits)
        epoch = Epoch(start, end, [start] * len(waits), waits, sample_bytes=nothing)
        epoch.busy_seconds = [whole - wait for whole, wait in zip(spans, waits, strict=True)]
        results.append(RankResult(rank, [epoch]))
    return results


def test_our_utilisation_is_what_dlio_printed(record: dict[str, Any]) -> None:
    printed = record["metric"]["train_au_mean_percentage"]
    ours = figures.utilisation(ranks(record), 0.02)
    assert ours is not None
    # The block's start and end are written a few hundred microseconds beside the ones DLIO used.
    assert 100 * ours == pytest.approx(printed, abs=0.1)
    assert 100 * ours != pytest.approx(100, abs=1), "a run that shows nothing"


def test_our_throughput_is_what_dlio_printed(record: dict[str, Any]) -> None:
    printed = record["metric"]["train_throughput_mean_samples_per_second"]
    ours = figures.of_run(ranks(record), 1, 0.02)["samples_per_second"]
    assert ours == pytest.approx(printed, rel=0.002)


def test_dlio_counts_the_nominal_computation_time(record: dict[str, Any]) -> None:
    assert set(record["rank0"]["compute"]["block1"]) == {0.02}
