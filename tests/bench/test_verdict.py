"""What a report says of figures: which limit it names, and that it calls simulated what is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lakefeed.bench.emulation import Delays
from lakefeed.bench.feeding import advice
from lakefeed.bench.verdict import (
    compare,
    judge,
    monitored_next,
    real_line,
    real_next,
    small_first,
    sweep_line,
    sweep_next,
)
from lakefeed.bench.workloads import load

SIZES = (("lake", 100), ("plain", 6))

# 100 MB/s keep one accelerator busy.
WORKLOAD = replace(
    load("resnet50", "h100"),
    batch_size=100, computation_seconds=1.0, sample_bytes=1_000_000, utilisation_min=0.9,
)  # fmt: skip
RUN = {
    "source": "lake", "accelerators": 3, "steps": 100, "wall_seconds": 5.0, "utilisation": 0.9,
    "samples_per_second": 2700.0, "bytes_per_second": 243e6, "cpus_busy": 3.4,
    "cpu_per_thousand_samples": 1.25,
}  # fmt: skip
# Of a real training: the ceiling is the quickest of its three.
RATES = {"ceiling_per_second": 1000.0, "cached_per_second": 800.0, "own_per_second": 700.0}


@pytest.mark.parametrize(
    ("utilisation", "words"),
    [(0.9, "PASS: lake keeps 3 emulated h100 busy"), (0.89, "FAIL: lake keeps 3 emulated h100 w")],
)
def test_a_run_is_judged_in_a_line_with_all_its_figures(utilisation: float, words: str) -> None:
    found = judge({**RUN, "utilisation": utilisation}, WORKLOAD, 0.95, 8, "simulated volume 'slow'")
    assert found.passed == words.startswith("PASS")
    assert found.verdict.startswith(words)
    assert found.verdict.endswith(
        f" on resnet50: AU {100 * utilisation:.1f} % (90.0 % wanted, ceiling of the harness "
        "95.0 %), 2,700 samples/s, 243 MB/s, simulated volume 'slow'"
    )
    assert judge(RUN, WORKLOAD, None, 8).verdict.endswith(
        "(90.0 % wanted), 2,700 samples/s, 243 MB/s"
    )


@pytest.mark.parametrize(
    ("facts", "ceiling", "advice"),
    [
        ({"steps": 99}, 0.8, "measure longer"),
        ({"wall_seconds": 4.9}, 0.8, "measure longer"),
        ({"utilisation": 0.5}, 0.89, "no storage passes here: even batches from memory reach 89.0"),
        ({}, 0.9, "try more accelerators: --sweep finds how many this source feeds (now 3)"),
        ({"utilisation": 0.89}, None, "the processors are the limit (3.4 of 4 busy)"),
        ({"utilisation": 0.89, "cpus_busy": 3.3}, 0.9,
         "storage is the limit (243 of 270 MB/s came): look at the volume"),
        ({"utilisation": 0.89, "cpus_busy": 3.3, "source": "files"}, None,
         "storage is the limit (243 of 270 MB/s came): import the files"),
    ],
)  # fmt: skip
def test_what_to_try_next_follows_from_what_was_short(
    facts: dict[str, Any], ceiling: float | None, advice: str
) -> None:
    assert judge({**RUN, **facts}, WORKLOAD, ceiling, 4).advice.startswith(advice)


@pytest.mark.parametrize(
    ("steps", "shares", "limit"),
    [
        (99, (0.5, 0.2, 0.3), "measure longer"),
        (100, (0.98, 0.01, 0.01), "the model is the limit"),
        (100, (0.97, 0.02, 0.01), "preparation is the limit"),
        (100, (0.5, 0.2, 0.3), "fetching is the limit"),
    ],
)
def test_the_limit_of_a_real_training_is_where_most_time_goes(
    steps: int, shares: tuple[float, float, float], limit: str
) -> None:
    names = ("compute_share", "prepare_share", "fetch_share")
    stalls = dict(zip(names, shares, strict=True))
    run = {"steps": steps, "wall_seconds": 5.0, "stalls": stalls, "cpus_busy": 3.2, **RATES}
    assert real_next(run, 4).startswith(limit)


@pytest.mark.parametrize("quicker", ["cached_per_second", "own_per_second"])
def test_a_ceiling_that_is_none_tells_no_stalls_apart(quicker: str) -> None:
    stalls = {"compute_share": 1.0, "prepare_share": 0.0, "fetch_share": 0.0}
    run = {"source": "lake", "stalls": stalls, "gpu": None, "samples_per_second": 700, **point()}
    near = {**run, **RATES, quicker: 1200.0}
    assert "compute 100.0 %" in real_line(near, "cnn", None)
    assert real_next({**near, "cpus_busy": 2}, 4).startswith("the model is the limit")
    above = {**run, **RATES, quicker: 1201.0}
    assert real_line(above, "cnn", None) == (
        "cnn from lake: nothing tells its stalls apart, for batches from memory, the ceiling, came "
        "slower (1,000 samples/s) than those that were prepared (1,201); no GPU; 700 samples/s"
    )
    assert real_next({**above, "cpus_busy": 2}, 4).startswith("something else kept")


def point(steps: int = 100) -> dict[str, Any]:
    return {"steps": steps, "wall_seconds": 5.0}


@pytest.mark.parametrize(("most", "words"), [(4, "lake feeds 4 emulated"), (8, "feeds 8 or more")])
def test_a_sweep_that_ended_for_want_of_more_says_so(most: int, words: str) -> None:
    found = {"most": most, "highest_tried": 8, "points": [point()]}
    line = sweep_line({"lake": found}, load("resnet50", "h100"), None)
    assert words in line
    assert line.endswith("h100 on resnet50 at AU 90.0 % or better")


def test_what_is_simulated_is_called_so_in_the_line_of_its_figure() -> None:
    delays = Delays("slow", 0.0025, 1000, 2e8)
    told = "simulated volume 'slow'"
    assert delays.describe() == f"{told}: 2.5 ms a call, at most 1,000 calls/s, at most 200 MB/s"
    workload = load("resnet50", "h100")
    runs = [
        {"source": "lake", "utilisation": 0.971, **point()},
        {"source": "files", "utilisation": 0.5, **point()},
    ]
    assert compare(runs, workload, delays.label) == (
        f"AU on resnet50/h100 (emulated, {told}): lake 97.1 %, files 50.0 %"
    )
    sweeps = {
        "plain": {"most": 1, "highest_tried": 2, "points": [point()]},
        "lake": {"most": 3, "highest_tried": 3, "points": [point()]},
    }
    assert sweep_line(sweeps, workload, delays.label) == (
        "plain feeds 1, lake feeds 3 or more emulated h100 on resnet50 at AU 90.0 % or better "
        f"({told})"
    )


def test_of_several_runs_each_may_be_the_one_that_is_too_small() -> None:
    quick, slow = {"steps": 200, "wall_seconds": 1.0}, {"steps": 100, "wall_seconds": 10.0}
    few = {"steps": 99, "wall_seconds": 50.0}
    assert small_first([slow, quick]) == "TOO SMALL TO MEAN MUCH (200 steps in 1.0 s). "
    assert small_first([slow, few, quick]) == "TOO SMALL TO MEAN MUCH (99 steps in 50.0 s). "
    assert small_first([slow]) == small_first([]) == ""


def test_a_comparison_and_a_sweep_are_no_larger_than_the_smallest_of_their_runs() -> None:
    workload = load("resnet50", "h100")
    small = "TOO SMALL TO MEAN MUCH (6 steps in 5.0 s). "
    runs = [{"source": name, "utilisation": 0.9, **point(steps)} for name, steps in SIZES]
    assert compare(runs, workload, None).startswith(f"{small}AU on ")
    sweep = {"most": 1, "highest_tried": 2, "points": [point(steps) for _, steps in SIZES]}
    assert sweep_line({"lake": sweep}, workload, None).startswith(f"{small}lake feeds ")
    assert sweep_next("lake", sweep, workload, 2).startswith("measure longer")


@pytest.mark.parametrize(
    ("cpus_busy", "share", "limit"),
    [
        (1.8, 0.9, "the processors are the limit"),
        (0.5, 0.9, "the volume is the limit"),
        (0.5, 0.32, "neither the volume (bare reads get 3.1 times as much)"),
        (0.5, 0.0, "neither the volume (bare reads get more)"),
    ],
)
def test_what_limits_a_feed_is_told_by_processors_and_bare_reads(
    cpus_busy: float, share: float, limit: str
) -> None:
    assert advice({"cpus_busy": cpus_busy}, share, 2).startswith(limit)


@pytest.mark.parametrize(
    ("steps", "stall", "words"),
    [(99, 0.0, "measure longer"), (100, 0.0, "the loader keeps up"), (100, 0.5, "replay one")],
)
def test_what_comes_after_a_training_of_ones_own(steps: int, stall: float, words: str) -> None:
    assert monitored_next({**point(steps), "stall_share": stall}).startswith(words)
