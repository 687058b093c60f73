"""The demo's last step: plain files and a lake feed emulated accelerators from a slow volume.

The pictures of the demo are too few and too small to be slow to read. So here are made samples of
two published workloads, RetinaNet and ResNet-50, on a volume that answers like a busy file server:
1 ms a call, 5,000 calls and 1 GB a second. The accelerators are emulated and the volume is
simulated, and every line that shows a figure says so. `lakefeed bench train` does it at length.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lakefeed.bench import preparing, workloads
from lakefeed.bench.emulation import NAS
from lakefeed.bench.training import Limits, TrainOptions, train
from lakefeed.lake.lake import Lake

SOURCES = ("plain", "lake")


@dataclass(frozen=True, slots=True)
class Case:
    """A workload, how many samples are made, how many steps are taken and accelerators tried."""

    workload: str
    accelerator: str
    samples: int
    steps: int
    sweep_max: int


CASES = (Case("retinanet", "b200", 960, 40, 4), Case("resnet50", "h100", 3200, 8, 2))


def feed(directory: Path, say: Callable[[str], object], cases: Sequence[Case] = CASES) -> list[Any]:
    """Return the facts of each case; what it made is gone afterwards."""
    facts = []
    for case in cases:
        where = directory / f"bench-{case.workload}"
        try:
            facts.append(_one(case, where, say))
        finally:
            shutil.rmtree(where, ignore_errors=True)
    return facts


def _one(case: Case, where: Path, say: Callable[[str], object]) -> dict[str, Any]:
    workload = workloads.load(case.workload, case.accelerator)
    with Lake.create(where) as lake:
        preparing.generate(lake, workload, case.samples)
    options = TrainOptions(
        str(where),
        workload,
        sources=SOURCES,
        delays=NAS,
        limits=Limits(steps=case.steps, epochs=1, sweep_max=case.sweep_max),
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
        "threshold": workload.utilisation_min,
        "volume": report["simulated_volume"],
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


def picture(facts: Sequence[Any], colours: dict[str, str], style: Any) -> bytes:
    """AU over the number of accelerators, one panel for each workload, as a PNG."""
    with style:
        figure = Figure((7.4, 3.0), layout="constrained")
        for axes, case in zip(figure.subplots(1, len(facts)), facts, strict=True):
            for source, found in case["sources"].items():
                at = [point["accelerators"] for point in found["points"]]
                busy = [100 * point["utilisation"] for point in found["points"]]
                axes.plot(at, busy, "o-", color=colours[source], label=source)
            axes.axhline(100 * case["threshold"], color="#5d6f78", linestyle="--", linewidth=1)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set(title=case["workload"], xlabel="emulated accelerators", ylim=(0, 103))
        figure.axes[0].set_ylabel("AU (%), simulated volume")
        figure.axes[0].legend()
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=144)
        return out.getvalue()
