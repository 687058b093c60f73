"""What a report says of figures: which limit it names, and that it calls simulated what is."""

from __future__ import annotations

import pytest

from lakefeed.bench.emulation import Delays
from lakefeed.bench.verdict import compare, real_next, sweep_line
from lakefeed.bench.workloads import load


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
    run = {"steps": steps, "wall_seconds": 5.0, "stalls": stalls, "cpus_busy": 3.2}
    assert real_next(run, 4).startswith(limit)


@pytest.mark.parametrize(("most", "words"), [(4, "feeds 4 emulated"), (8, "feeds 8 or more")])
def test_a_sweep_that_ended_for_want_of_more_says_so(most: int, words: str) -> None:
    found = {"most": most, "highest_tried": 8}
    assert words in sweep_line("lake", found, load("resnet50", "h100"), None)


def test_what_is_simulated_is_called_so_in_the_line_of_its_figure() -> None:
    delays = Delays("slow", 0.0025, 1000, 2e8)
    told = "simulated volume 'slow'"
    assert delays.describe() == f"{told}: 2.5 ms a call, at most 1,000 calls/s, at most 200 MB/s"
    workload = load("resnet50", "h100")
    runs = [{"source": "lake", "utilisation": 0.971}, {"source": "files", "utilisation": 0.5}]
    assert compare(runs, workload, delays.label) == (
        f"AU on resnet50/h100 ({told}): lake 97.1 %, files 50.0 %"
    )
    assert told in sweep_line("lake", {"most": 1, "highest_tried": 2}, workload, delays.label)
