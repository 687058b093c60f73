"""How many accelerators do plain files and a lake feed from one slow volume; is our AU DLIO's?

Feeding. RetinaNet on B200 (323 kB files, 505 samples/s each) and ResNet-50 on H100 (115 kB, 1,786
samples/s each) on a simulated volume: 1 ms a call, 5,000 calls/s, 1 GB/s for all ranks together.
Expected: a plain file costs two calls, open and read, so 2,500 files/s for all: 5.8 B200 at AU 0.85
on RetinaNet, 1.6 H100 at AU 0.90 on ResNet-50. A lake costs one call for each MiB, so its bytes
decide: 1 GB/s feeds 7.2 and 5.4, as far as two cores move and verify so many bytes. Emulated
accelerators, simulated volume: nothing here is an MLPerf result.

Ceilings. The AU of batches from memory, ours and that of DLIO 2.0.0 with a loader that returns one
tensor, in turns, where DLIO can be installed (`--dlio`; see tests/dlio). Expected within a point;
published for two cores: retinanet/b200 98.7 %, cosmoflow/h100 88.6 %, dlrm/b200 63.8 %.

    python -m benchmarks.accelerators [--small] [--dir DIR] [--ceilings] [--dlio] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from lakefeed import Lake
from lakefeed.bench import figures, preparing, reports, workloads
from lakefeed.bench.emulation import NAS
from lakefeed.bench.ranks import Job, run_ranks
from lakefeed.bench.sources import Spec
from lakefeed.bench.steps import Loop
from lakefeed.bench.training import Limits, TrainOptions, train

PUBLISHED = {"retinanet/b200": 98.7, "cosmoflow/h100": 88.6, "dlrm/b200": 63.8}


@dataclass(frozen=True, slots=True)
class Case:
    """One workload, and how much of it."""

    workload: str
    accelerator: str
    samples: int
    steps: int
    sweep_max: int


CASES = (Case("retinanet", "b200", 3600, 120, 12), Case("resnet50", "h100", 8000, 40, 8))
SMALL = (Case("retinanet", "b200", 900, 25, 2), Case("resnet50", "h100", 3200, 8, 2))


def feeding(case: Case, scratch: Path) -> dict[str, Any]:
    """Return the report of plain files and lake, side by side and swept."""
    workload = workloads.load(case.workload, case.accelerator)
    where = scratch / case.workload
    with Lake.create(where) as lake:
        preparing.generate(lake, workload, case.samples)
    options = TrainOptions(
        str(where),
        workload,
        sources=("plain", "lake"),
        delays=NAS,
        limits=Limits(steps=case.steps, epochs=1, sweep_max=case.sweep_max),
    )

    def say(line: str) -> None:
        print(f"    {line}", file=sys.stderr, flush=True)

    return train(options, say, lambda source, count: lambda lives: None)


def ceiling(label: str, ranks: int, seconds: float) -> float:
    """Return our AU of batches from memory, in percent."""
    workload = workloads.load(*label.split("/"))
    steps = max(50, int(seconds / workload.computation_seconds))
    spec = Spec("null", batch_size=workload.batch_size, sample_bytes=1000, world_size=ranks)
    results = run_ranks(Job(spec, Loop(steps, 1, workload.computation_seconds)))
    return 100 * (figures.utilisation(results, workload.computation_seconds) or 0.0)


def dlio_ceiling(label: str, ranks: int, seconds: float) -> float:
    """Return DLIO's AU with a loader that returns one tensor, in percent."""
    from tests.dlio.runner import run

    workload = workloads.load(*label.split("/"))
    steps = max(50, int(seconds / workload.computation_seconds))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, count in (("train", 64), ("valid", 1)):
            (folder / "data" / part).mkdir(parents=True)
            for number in range(count):
                (folder / "data" / part / f"f{number:03d}.npz").touch()
        overrides = {
            "framework": "pytorch",
            "dataset.format": "npz",
            "dataset.data_folder": folder / "data",
            "dataset.num_files_train": 64,
            # DLIO counts steps by samples; one a step is as many as our batches.
            "dataset.num_samples_per_file": -(-steps * ranks // 64),
            "reader.batch_size": 1,
            "reader.data_loader_classname": "benchmarks.dlio_null.Null",
            "reader.data_loader_sampler": "iterative",
            "train.epochs": 1,
            "train.computation_time": workload.computation_seconds,
            "workflow.generate_data": False,
            "workflow.train": True,
            "workflow.checkpoint": False,
            "output.folder": folder / "out",
        }
        return run("unet3d_h100", overrides, ranks=ranks).au_percent


def ceilings(repeats: int, seconds: float, with_dlio: bool) -> list[dict[str, Any]]:
    """Return medians of both, measured in turns."""
    rows = []
    for label, published in PUBLISHED.items():
        for ranks in (1, 2):
            ours, theirs = [], []
            for _ in range(repeats):
                ours.append(ceiling(label, ranks, seconds))
                if with_dlio:
                    theirs.append(dlio_ceiling(label, ranks, seconds))
            rows.append(
                {
                    "workload": label,
                    "ranks": ranks,
                    "ours_percent": round(statistics.median(ours), 1),
                    "ours_range": [round(min(ours), 1), round(max(ours), 1)],
                    "dlio_percent": round(statistics.median(theirs), 1) if theirs else None,
                    "dlio_range": [round(min(theirs), 1), round(max(theirs), 1)]
                    if theirs
                    else None,
                    "published_percent": published if ranks == 1 else None,
                }
            )
    return rows


def main() -> None:
    """Run what was asked for, print tables, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="under a minute")
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--ceilings", action="store_true", help="only the ceilings")
    parser.add_argument("--dlio", action="store_true", help="run DLIO beside them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reports", type=Path, default=None, help="keep the HTML reports here")
    options = parser.parse_args()
    seconds = 1.0 if options.small else 5.0
    result: dict[str, Any] = {"page_cache": "warm", "emulated": "accelerators"}
    if not options.ceilings:
        result["feeding"] = _feed_all(options)
    repeats = 1 if options.small else options.repeats
    result["ceilings"] = ceilings(repeats, seconds, options.dlio)
    headings = ["ceiling", "ranks", "ours, AU %", "range", "DLIO, AU %", "range", "published"]
    print(harness.table(headings, [tuple(row.values()) for row in result["ceilings"]]))
    name = "accelerators_small" if options.small else "accelerators"
    print(harness.save("ceilings" if options.ceilings else name, result))


def _feed_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for case in SMALL if options.small else CASES:
        with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
            report = feeding(case, Path(scratch))
        if options.reports is not None:
            print(reports.write(report, options.reports / case.workload)[0])
        for run in report["runs"]:
            sweep = report["sweeps"][run["source"]]
            rows.append(
                {
                    "workload": f"{case.workload}/{case.accelerator}",
                    "volume": report["simulated_volume"],
                    "source": run["source"],
                    "utilisation_percent": round(100 * run["utilisation"], 1),
                    "ceiling_percent": round(100 * report["ceiling"]["utilisation"], 1),
                    "samples_per_second": round(run["samples_per_second"]),
                    "fed": sweep["most"],
                    "highest_tried": sweep["highest_tried"],
                    "cpu_per_thousand_samples": round(run["cpu_per_thousand_samples"], 3),
                    "points": sweep["points"],
                }
            )
    headings = [
        "emulated, simulated volume",
        "source",
        "AU % of one",
        "ceiling",
        "samples/s",
        "fed",
    ]
    keys = (
        "workload", "source", "utilisation_percent", "ceiling_percent", "samples_per_second", "fed"
    )  # fmt: skip
    print(harness.table(headings, [tuple(row[key] for key in keys) for row in rows]))
    return rows


if __name__ == "__main__":
    main()
