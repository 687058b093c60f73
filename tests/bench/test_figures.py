"""What a report says of a run, against figures worked out by hand: two ranks, two epochs."""

from __future__ import annotations

from typing import Any

import pytest

from lakefeed.bench import figures
from lakefeed.bench.steps import Epoch, RankResult

# Each epoch has two steps. Columns: began, waited, busy, bytes. The clock begins anywhere.
FIRST = (
    Epoch(100, 110, [100, 105], [1, 2], [3, 2], [100, 300]),
    Epoch(112, 120, [112, 116], [0, 1], [4, 3], [100, 100]),
)
SECOND = (
    Epoch(100, 110, [100, 105], [2, 1], [2, 4], [200, 200]),
    Epoch(112, 120, [112, 116], [2, 0], [2, 4], [100, 100]),
)
RESULTS = [
    RankResult(0, list(FIRST), 32, cpu_seconds=3, peak_rss_bytes=5, read_bytes=1800, reads=5,
               supply_per_second=1.5),
    RankResult(1, list(SECOND), 32, cpu_seconds=6, peak_rss_bytes=7, read_bytes=600, reads=7,
               supply_per_second=2.0),
]  # fmt: skip


def of_run(computation_seconds: float | None) -> dict[str, Any]:
    return figures.of_run(RESULTS, 8, computation_seconds)


def test_a_run_is_told_of_all_its_ranks_together() -> None:
    run = of_run(2.0)
    assert (run["accelerators"], run["epochs"], run["steps"], run["samples"]) == (2, 2, 4, 64)
    assert run["supply_per_second"] == 8 * 3.5
    assert run["wall_seconds"] == 10 + 8  # what lies between epochs is not counted
    assert run["sample_bytes"] == 1200
    assert run["samples_per_second"] == pytest.approx(64 / 18)
    assert run["bytes_per_second"] == pytest.approx(1200 / 18)
    assert (run["read_bytes"], run["reads"], run["read_amplification"]) == (2400, 12, 2)
    assert (run["cpu_seconds"], run["cpus_busy"]) == (9, 0.5)
    assert run["cpu_per_thousand_samples"] == pytest.approx(140.625)
    assert run["peak_rss_bytes"] == 7


def test_the_waits_of_all_ranks_are_a_share_of_the_time_of_all() -> None:
    run = of_run(2.0)
    # 0, 0, 1, 1, 1, 2, 2 and 2 of twice 18 seconds.
    assert run["stall_share"] == 0.25
    assert run["wait_seconds"] == {"p50": 1, "p95": 2, "p99": 2, "max": 2, "mean": 9 / 8}
    found = dict(zip(run["wait_edges_seconds"], run["wait_histogram"], strict=False))
    assert {edge: count for edge, count in found.items() if count} == {0.0: 2, 1.0: 6}


@pytest.mark.parametrize(
    ("computation_seconds", "by_epoch"),
    [
        # Without the first step 6, 6, 4 and 4 s are left, and one step of 2 s in each.
        (2.0, [1 / 3, 1 / 2]),
        # As it really took: 2 and 4 of 6 s, 3 and 4 of 4.
        (None, [1 / 2, 7 / 8]),
        (0, []),
    ],
)
def test_utilisation_is_the_mean_over_ranks_and_epochs(
    computation_seconds: float | None, by_epoch: list[float]
) -> None:
    run = of_run(computation_seconds)
    assert run["utilisation_by_epoch"] == pytest.approx(by_epoch)
    assert run["utilisation"] == (pytest.approx(sum(by_epoch) / 2) if by_epoch else None)


@pytest.mark.parametrize(
    ("computation_seconds", "utilisation"),
    [(2.0, [0.4, 0.4, 0.25, 0.55]), (None, [0.5, 0.6, 0.4, 0.9])],
)
def test_a_time_line_spreads_steps_over_their_time(
    monkeypatch: pytest.MonkeyPatch, computation_seconds: float | None, utilisation: list[float]
) -> None:
    """In four bins of 5 s. The steps of 112 to 116 have 3 of their 4 s in the third."""
    monkeypatch.setattr(figures, "TIMELINE_SECONDS_MIN", 5)
    assert of_run(computation_seconds)["timeline"] == {
        "seconds": [2.5, 7.5, 12.5, 17.5],
        "utilisation": utilisation,
        # 300, 500, 75 + 75 and 25 + 25 + 200 bytes.
        "bytes_per_second": [60, 100, 30, 50],
    }


def test_a_time_line_runs_from_the_first_to_begin_to_the_last_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "TIMELINE_SECONDS_MIN", 5)
    late = RankResult(0, [Epoch(105, 120, [105], [0], [15], [300])])
    early = RankResult(1, [Epoch(100, 110, [100], [0], [10], [100])])
    assert figures.of_run([late, early], 1, None)["timeline"] == {
        "seconds": [2.5, 7.5, 12.5, 17.5],
        "utilisation": [0.5, 1.0, 0.5, 0.5],
        "bytes_per_second": [10, 30, 20, 20],
    }


def test_a_time_line_has_no_more_points_than_a_page_shows() -> None:
    assert len(of_run(2.0)["timeline"]["seconds"]) == figures.TIMELINE_BINS_MAX
