"""The demo's last step: plain files and a lake feed emulated accelerators from a slow volume.

The pictures of the demo are too few and too small to be slow to read. So here are made samples of
two published workloads, RetinaNet and ResNet-50, on a volume that answers like a busy file server:
1 ms a call, 5,000 calls and 1 GB a second. The accelerators are emulated and the volume is
simulated, and every line that shows a figure says so. `lakefeed bench train` does it at length.

A run counts 50 steps, behind a warm-up that uses up what was read ahead, so that AU is what the
source sustains and not what it had in store. ResNet-50's batches are a fifth of the published
ones and computed in a fifth of the time: the same samples a second in shorter steps.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lakefeed.bench import preparing, workloads
from lakefeed.bench.emulation import NAS
from lakefeed.bench.training import Limits, TrainOptions, train
from lakefeed.bench.workloads import Workload
from lakefeed.lake.lake import Lake

SOURCES = ("plain", "lake")
NAMES = {"plain": "plain files", "lake": "lake"}


@dataclass(frozen=True, slots=True)
class Case:
    """A workload, how many samples are made, what a batch is divided by, accelerators tried."""

    workload: str
    accelerator: str
    samples: int
    divisor: int
    sweep_max: int


CASES = (Case("retinanet", "b200", 960, 1, 10), Case("resnet50", "h100", 1600, 5, 8))
STEPS = 50
# Half more than the sources read ahead (16 batches): the first ones fill the pipeline, the last
# come at the volume's own pace.
WARMUP_STEPS = 24


def feed(directory: Path, say: Callable[[str], object], cases: Sequence[Case] = CASES) -> list[Any]:
    """Return the facts of each case; what it made is gone afterwards."""
    facts = []
    for case in cases:
        # A name of its own: what else lies in the directory is the user's.
        with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as scratch:
            facts.append(_one(case, Path(scratch) / case.workload, say))
    return facts


def _one(case: Case, where: Path, say: Callable[[str], object]) -> dict[str, Any]:
    published = workloads.load(case.workload, case.accelerator)
    workload = replace(
        published,
        batch_size=published.batch_size // case.divisor,
        computation_seconds=published.computation_seconds / case.divisor,
    )
    with Lake.create(where) as lake:
        preparing.generate(lake, workload, case.samples)
    options = TrainOptions(
        str(where),
        workload,
        sources=SOURCES,
        delays=NAS,
        limits=Limits(STEPS, 1, case.sweep_max, repeat=True, warmup_steps=WARMUP_STEPS),
    )
    report = train(options, lambda line: None, lambda source, count: lambda lives: None)
    for run in report["runs"]:
        sweep = report["sweeps"][run["source"]]
        more = " or more" if sweep["most"] == sweep["highest_tried"] else ""
        say(
            f"{workload.label} from {run['source']}: AU {run['utilisation']:.1%}, feeds "
            f"{sweep['most']}{more} (emulated accelerators, {NAS.label})"
        )
    return {
        "workload": workload.label,
        "batch_size": workload.batch_size,
        "batch_size_published": published.batch_size,
        "computation_seconds": workload.computation_seconds,
        "computation_seconds_published": published.computation_seconds,
        "steps": STEPS,
        "warmup_steps": WARMUP_STEPS,
        "sample_bytes": workload.sample_bytes,
        "threshold": workload.utilisation_min,
        "volume": report["simulated_volume"],
        "allows": allows(workload),
        "ceiling": report["ceiling"]["utilisation"],
        "sources": {
            run["source"]: {
                "utilisation": run["utilisation"],
                "samples_per_second": run["samples_per_second"],
                **{key: report["sweeps"][run["source"]][key] for key in ("most", "highest_tried")},
                "points": report["sweeps"][run["source"]]["points"],
            }
            for run in report["runs"]
        },
    }


def allows(workload: Workload) -> dict[str, float]:
    """Return how many accelerators the simulated volume could feed at the threshold, by its rates.

    A plain file takes two calls, open and read; a sample of a lake in a global order takes one.
    """
    each = workload.demand.samples_per_second * workload.utilisation_min
    by_bytes = NAS.bytes_per_second / workload.sample_bytes / each
    by_calls = NAS.calls_per_second / each
    return {"plain": min(by_calls / 2, by_bytes), "lake": min(by_calls, by_bytes)}


def picture(facts: Sequence[Any], colours: dict[str, str], style: Any) -> bytes:
    """AU over the number of accelerators, one panel for each workload, as a PNG."""
    with style:
        figure = Figure((7.4, 3.5), layout="constrained")
        figure.suptitle(f"emulated accelerators, {facts[0]['volume']}", fontsize=9.5)
        for axes, case in zip(figure.subplots(1, len(facts)), facts, strict=True):
            for source, found in case["sources"].items():
                at = [point["accelerators"] for point in found["points"]]
                busy = [100 * point["utilisation"] for point in found["points"]]
                label = f"{NAMES[source]}: feeds {found['most']}"
                axes.plot(at, busy, "o-", color=colours[source], label=label)
            threshold = 100 * case["threshold"]
            axes.axhline(threshold, color="#5d6f78", linestyle="--", linewidth=1)
            most = max(found["highest_tried"] for found in case["sources"].values())
            axes.set_xticks(range(1, most + 1))
            least = min(p["utilisation"] for f in case["sources"].values() for p in f["points"])
            low = min(50, 100 * least - 5)
            axes.set(title=case["workload"], xlim=(0.6, most + 0.4), ylim=(low, 102))
            axes.text(0.65, threshold - 0.6, f"{threshold:.0f} % wanted", fontsize=8.5,
                      va="top", color="#5d6f78")  # fmt: skip
            axes.set_xlabel("accelerators on the volume")
            axes.legend(loc="lower left")
        figure.axes[0].set_ylabel("AU (%)")
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=144)
        return out.getvalue()
