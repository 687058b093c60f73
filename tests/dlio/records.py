"""DLIO's own record of a run, as our figures take it: what each step of each rank took."""

from __future__ import annotations

import json
from pathlib import Path

from lakefeed.bench.steps import Epoch, RankResult


def read(folder: Path, ranks: int, batch_size: int) -> list[RankResult]:
    """Return what every rank did, from what DLIO wrote into its output folder.

    DLIO keeps start and end of rank 0 alone, as text; but every rank's throughput, which is all its
    steps over the same stretch of time, so that is the time to the last digit.
    """
    results = []
    for rank in range(ranks):
        output = json.loads((folder / f"{rank}_output.json").read_text())
        epochs = []
        for number in sorted((name for name in output if name.isdigit()), key=int):
            steps = {name: output[number][name]["block1"] for name in ("load", "proc")}
            seconds = len(steps["proc"]) * batch_size / output[number]["throughput"]["block1"]
            epoch = Epoch(0.0, seconds, wait_seconds=steps["load"])
            spans = zip(steps["proc"], steps["load"], strict=True)
            epoch.busy_seconds = [whole - wait for whole, wait in spans]
            epochs.append(epoch)
        results.append(RankResult(rank, epochs))
    return results
