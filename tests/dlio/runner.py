"""Run a DLIO workload under MPI and return what it printed about itself.

    result = run("retinanet", {"dataset.data_folder": folder}, ranks=2)
    result.metrics["Training Accelerator Utilization [AU] (%)"]

Workloads are DLIO's own (`unet3d_h100`, `cosmoflow_h100`, …) or those in `conf/workload`. Each rank
takes three seconds of processor time to start; seven more were TensorFlow's, which DLIO imports
whatever the framework, and which is loaded only where it is used (`later/`).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.dlio.environment import ROOT, environment

HERE = Path(__file__).parent
# What a rank's Python finds first.
LATER = HERE / "later"
# The number, and its deviation over the epochs in brackets where DLIO gives one.
_METRIC = re.compile(r"\[METRIC\] (?P<name>[^=].*?): +(?P<value>[-\d.]+|\w+)(?: \([-\d.na]+\))? *$")
THROUGH_A_LAKE = {
    "reader.data_loader_classname": "lakefeed.adapters.dlio.Loader",
    "reader.data_loader_sampler": "iterative",
}


@dataclass(frozen=True, slots=True)
class Result:
    """The METRIC lines by name, numbers as numbers, and everything that was printed."""

    metrics: dict[str, float | str]
    output: str

    @property
    def au_percent(self) -> float:
        """DLIO's training AU: the mean over ranks and epochs."""
        return float(self.metrics["Training Accelerator Utilization [AU] (%)"])

    @property
    def samples_per_second(self) -> float:
        """DLIO's training throughput: the sum over ranks, the mean over epochs."""
        return float(self.metrics["Training Throughput (samples/second)"])


def run(
    workload: str,
    overrides: Mapping[str, object],
    *,
    ranks: int = 2,
    timeout_seconds: float = 600,
) -> Result:
    """Run a workload with settings below its top level changed; RuntimeError with its output."""
    programs = environment()
    settings = [f"++workload.{name}={value}" for name, value in overrides.items()]
    known = (HERE / "conf/workload" / f"{workload}.yaml").exists()
    folder = [f"--config-dir={HERE / 'conf'}"] if known else []
    command = [
        *(str(programs / "mpirun"), "--oversubscribe", "-np", str(ranks)),
        *(str(programs / "dlio_benchmark"), *folder, f"workload={workload}", *settings),
    ]
    scratch = Path(str(overrides["output.folder"])).parent
    done = subprocess.run(
        command,
        cwd=scratch,
        env={**os.environ, **_environment(programs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"DLIO ended with {done.returncode}\n{done.stdout[-6000:]}")
    return Result(metrics(done.stdout), done.stdout)


def metrics(output: str) -> dict[str, float | str]:
    """Return the METRIC lines of DLIO's output; DLIO logs them with a place behind, once."""
    found: dict[str, float | str] = {}
    for line in output.splitlines():
        match = _METRIC.search(line.split(" [/")[0])
        if match:
            value = match["value"]
            found[match["name"].strip()] = float(value) if re.match(r"[-\d.]+$", value) else value
    return found


def _environment(programs: Path) -> dict[str, str]:
    return {
        "PATH": f"{programs}:{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(map(str, (LATER, ROOT))),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # Ranks that wait spin, and would take the processor from those that import TensorFlow.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
        "HYDRA_FULL_ERROR": "1",
    }
