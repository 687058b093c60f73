"""How many accelerators do plain files and a lake feed from one slow volume; is our AU DLIO's?

Feeding. RetinaNet on B200 (323 kB files, 505 samples/s each) and ResNet-50 on H100 (115 kB, 1,786
samples/s each) on a simulated volume: 1 ms a call, 5,000 calls/s, 1 GB/s for all ranks together.
Expected: a plain file costs two calls, open and read, so 2,500 files/s for all: 5.8 B200 at AU 0.85
on RetinaNet, 1.6 H100 at AU 0.90 on ResNet-50. A sample of a lake in a global order costs one call:
then bytes decide on RetinaNet (1 GB/s feeds 7.2), calls on ResNet-50 (3.1). In runs of 16
neighbours, mixed within a batch, a call brings 1 MiB, and bytes decide there too: 5.4. All that as
far as two cores move and verify the bytes, and emulate accelerators and volume besides. A warm-up
uses up what was read ahead. Nothing here is an MLPerf result.

Ceilings. The AU of batches from memory, ours and that of DLIO 2.0.0 with a loader that returns one
tensor, in turns, where DLIO can be installed (`--dlio`; see tests/dlio). Expected within a point;
published for two cores: retinanet/b200 98.7 %, cosmoflow/h100 88.6 %, dlrm/b200 63.8 %.

Same run (`--dlio`). RetinaNet from one lake, no simulated volume: DLIO with our loader, and our own
ranks over the same steps. Expected within a point.

    python -m benchmarks.accelerators [--small] [--dir DIR] [--ceilings] [--dlio] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from lakefeed import Lake
from lakefeed.bench import figures, page, preparing, workloads
from lakefeed.bench.emulation import NAS
from lakefeed.bench.ranks import Job, run_ranks
from lakefeed.bench.sources import Reading, Spec
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
    sources: tuple[str, ...] = ("plain", "lake")
    shuffle: str = "global"
    window: int | None = None


CASES = (
    Case("retinanet", "b200", 3600, 120, 12),
    Case("resnet50", "h100", 8000, 50, 8),
    Case("resnet50", "h100", 8000, 50, 8, ("lake",), "runs=16", 400),
)
SMALL = (Case("retinanet", "b200", 900, 25, 2), Case("resnet50", "h100", 3200, 8, 2))
# Twice what the sources read ahead.
WARMUP_STEPS = 32


def feeding(case: Case, scratch: Path, warmup_steps: int) -> dict[str, Any]:
    """Return the report of plain files and lake, side by side and swept."""
    workload = workloads.load(case.workload, case.accelerator)
    where = scratch / case.workload
    with Lake.create(where) as lake:
        preparing.generate(lake, workload, case.samples)
    options = TrainOptions(
        str(where),
        workload,
        sources=case.sources,
        reading=Reading(case.shuffle, read_threads=workload.read_threads, window=case.window),
        delays=NAS,
        limits=Limits(case.steps, 1, case.sweep_max, repeat=True, warmup_steps=warmup_steps),
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


def same_run(repeats: int, samples: int, scratch: Path) -> list[dict[str, Any]]:
    """Return AU of the same lake and the same steps, our ranks and DLIO in turns."""
    from tests.dlio.runner import THROUGH_A_LAKE, run

    workload = workloads.load("retinanet", "b200")
    with Lake.create(scratch / "lake") as lake:
        preparing.generate(lake, replace(workload, name="train"), samples)
    for part, count in (("train", 1), ("valid", 0)):
        (scratch / part).mkdir()
        for number in range(count):
            (scratch / part / f"{number}.jpeg").touch()
    rows = []
    for ranks in (1, 2):
        ours, theirs = [], []
        for turn in range(repeats):
            loop = Loop(samples // (24 * ranks), 2, workload.computation_seconds)
            reading = Reading(seed=turn)
            spec = Spec("lake", str(scratch / "lake"), "train", None, 24, 1, ranks, reading)
            results = run_ranks(Job(spec, loop))
            ours.append(100 * (figures.utilisation(results, loop.computation_seconds) or 0.0))
            overrides = {
                **THROUGH_A_LAKE,
                "dataset.data_folder": scratch,
                "dataset.num_files_train": 1,
                "dataset.num_samples_per_file": samples,
                "output.folder": scratch / "out",
            }
            theirs.append(run("retinanet_b200", overrides, ranks=ranks).au_percent)
        rows.append({"workload": workload.label, "ranks": ranks, **_both(ours, theirs)})
    return rows


def _both(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in (("ours", ours), ("dlio", theirs)):
        found[f"{name}_percent"] = round(statistics.median(values), 1) if values else None
        found[f"{name}_range"] = [round(min(values), 1), round(max(values), 1)] if values else None
    return found


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
                    **_both(ours, theirs),
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
    if options.dlio:
        with tempfile.TemporaryDirectory(dir=options.dir) as name:
            result["same_run"] = same_run(repeats, 480 if options.small else 2400, Path(name))
        headings = ["from one lake", "ranks", "ours, AU %", "range", "DLIO, AU %", "range"]
        print(harness.table(headings, [tuple(row.values()) for row in result["same_run"]]))
    name = "accelerators_small" if options.small else "accelerators"
    print(harness.save("ceilings" if options.ceilings else name, result))


def _feed_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for case in SMALL if options.small else CASES:
        with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
            report = feeding(case, Path(scratch), 0 if options.small else WARMUP_STEPS)
        if options.reports is not None:
            where = options.reports / f"{case.workload}-{case.shuffle}"
            print(page.write(report, where)[0])
        for run in report["runs"]:
            sweep = report["sweeps"][run["source"]]
            rows.append(
                {
                    "workload": f"{case.workload}/{case.accelerator}",
                    "volume": report["simulated_volume"],
                    "source": run["source"],
                    "shuffle": case.shuffle,
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
        "order",
        "AU % of one",
        "ceiling",
        "samples/s",
        "fed",
    ]
    keys = (
        "workload", "source", "shuffle", "utilisation_percent", "ceiling_percent",
        "samples_per_second", "fed",
    )  # fmt: skip
    print(harness.table(headings, [tuple(row[key] for key in keys) for row in rows]))
    return rows


if __name__ == "__main__":
    main()
