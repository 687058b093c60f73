"""NVIDIA's own bindings (`nvidia-ml-py`) against a stand-in library in C with the ABI of nvml.h.

Struct layouts, versioned calls and return codes are met as a driver has them; the figures behind
them are made up. No GPU has been seen by these tests: what a real driver says beyond nvml.h is not
covered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lakefeed.bench import gpu, gpu_gauges
from lakefeed.bench.gpu_nvml import NvmlProbe
from lakefeed.bench.gpu_probe import Reading
from lakefeed.metrics.gpu import GpuMetrics
from tests.bench.nvml import library
from tests.bench.nvml.library import Standin
from tests.support.patience import PATIENCE_SECONDS

NAME = "NVIDIA Stand-in"
EXTRA_JOULES = 2.0**33 / 1e3


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library.compiled(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def standin(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """Whatever a test does, it may leave nothing open and must have called nothing wrongly."""
    lent = library.lent(compiled, monkeypatch)
    lent.has(1)
    yield lent
    assert lent.left() == (0, 0, 0)


def second(probe: gpu.Probe) -> list[Reading]:
    """Return the second reading: GPM needs two."""
    try:
        probe.read()
        return probe.read()
    finally:
        probe.close()
        probe.close()


def test_every_gpu_is_read_with_what_it_has(standin: Standin) -> None:
    standin.has(2)
    standin.make_old(1)
    probe = NvmlProbe()
    assert (probe.names, probe.why) == ([NAME, NAME], "")
    assert probe.read()[0].sm is None, "GPM needs two samples"
    new, old = second(probe)
    assert (new.busy, new.sm, new.watts) == (0.8, 0.55, 300)
    assert new.joules is not None
    assert new.joules > EXTRA_JOULES, "a counter of 64 bits"
    assert old == Reading(1, 0.4, None, 300.0, None)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN, 4711])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (library.UTILIZATION, "busy"),
        (library.POWER, "watts"),
        (library.ENERGY, "joules"),
        (library.GPM, "sm"),
        (library.METRIC, "sm"),  # the call succeeds, its one metric does not
    ],
)
def test_what_a_gpu_refuses_is_none_and_the_rest_is_there(
    standin: Standin, call: int, name: str, code: int
) -> None:
    standin.refuse(0, call, code)
    (reading,) = second(gpu.find())
    told = {"busy", "sm", "watts", "joules"} - {name}
    assert getattr(reading, name) is None
    assert all(getattr(reading, other) is not None for other in told)


@pytest.mark.parametrize(
    "name",
    [
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmMetricsGet",
    ],
)
def test_what_a_driver_is_too_old_for_is_none(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    standin.run_process(0, os.getpid())
    library.take_away(name, monkeypatch)
    (reading,) = second(gpu.find())
    told = {"busy", "sm", "watts", "joules", "own"}
    known = {each for each in told if getattr(reading, each) not in (None, False)}
    assert len(known) == (5 if name == "nvmlDeviceGetMigMode" else 4)


def test_a_lost_gpu_costs_the_others_nothing(standin: Standin) -> None:
    standin.has(3)
    standin.refuse(1, library.HANDLE, pynvml.NVML_ERROR_GPU_IS_LOST)
    probe = gpu.find()
    assert (probe.names, probe.why) == ([NAME, NAME], "GPU 1: GPU is lost")
    assert gpu.left_out(probe) == ["GPUs left out, they cannot be read: GPU 1: GPU is lost"]
    assert [reading.busy for reading in second(probe)] == [0.8, 0.0]


def test_no_gpu_but_lost_ones_is_no_gpu(standin: Standin) -> None:
    standin.refuse(0, library.HANDLE, pynvml.NVML_ERROR_GPU_IS_LOST)
    probe = gpu.find()
    assert (probe.names, probe.why) == ([], "no GPU (GPU 0: GPU is lost)")


def test_a_gpu_that_is_lost_on_the_way_ends_nothing(standin: Standin) -> None:
    probe = NvmlProbe()
    probe.read()
    standin.refuse(0, library.HANDLE, pynvml.NVML_ERROR_GPU_IS_LOST)
    standin.refuse(0, library.SHUTDOWN, pynvml.NVML_ERROR_UNKNOWN)
    assert second(probe) == [Reading(0)]


def test_a_mig_instance_is_a_gpu_that_tells_its_sm_utilisation_alone(standin: Standin) -> None:
    standin.has(2)
    standin.cut(1)
    standin.run_process(1, os.getpid(), part=1)
    probe = NvmlProbe()
    assert probe.names == [NAME, f"{NAME} MIG 1g.10gb", f"{NAME} MIG 1g.10gb"]
    _, one, other = second(probe)
    assert one == Reading(1, sm=0.45)
    assert other == Reading(2, sm=0.35, own=True)


def test_a_process_knows_its_own_gpu_where_it_may(standin: Standin) -> None:
    standin.has(3)
    standin.run_process(0, os.getppid())
    for pid in (os.getppid(), os.getpid()):
        standin.run_process(1, pid)
    assert [reading.own for reading in second(NvmlProbe())] == [False, True, False]
    standin.refuse(1, library.PROCESS, pynvml.NVML_ERROR_NO_PERMISSION)
    assert [reading.own for reading in second(NvmlProbe())] == [False, False, False]


def test_energy_is_what_came_in_since_the_last_look(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.has(2)
    standin.make_old(1)
    registry = CollectorRegistry()
    probe = NvmlProbe()
    gauges = gpu_gauges.GpuGauges(GpuMetrics(registry), probe)
    clock = iter([0.0, 2.0, 3.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    for _ in range(3):
        gauges.read()
    gauges.close()
    lines = generate_latest(registry).decode().splitlines()
    # The first GPU counts, 60 J a call of two; the second does not, and draws 300 W.
    assert 'lakefeed_gpu_energy_joules_total{gpu="0"} 240.0' in lines
    assert 'lakefeed_gpu_energy_joules_total{gpu="1"} 900.0' in lines


@pytest.mark.slow
def test_a_training_is_reported_with_its_gpus(compiled: Path, tmp_path: Path) -> None:
    """A process of its own, which finds the library where the loader looks for it."""
    program = (
        "import sys, threading, lakefeed.monitor\n"
        "pause = threading.Event()\n"
        "for batch in lakefeed.monitor.watch([b'x'] * 30, sys.argv[1]): pause.wait(0.03)\n"
    )
    environment = {
        **os.environ, "LD_LIBRARY_PATH": str(compiled.parent), "NVML_STANDIN_GPUS": "2",
    }  # fmt: skip
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    subprocess.run(command, env=environment, check=True, timeout=PATIENCE_SECONDS)
    report = json.loads((tmp_path / "run.json").read_text())
    facts = report["runs"][0]["gpu"]
    assert facts["names"] == [NAME, NAME]
    assert facts["busy"] == pytest.approx(0.6)
    assert facts["watts"] == 300
    assert "GPU busy 60.0 %, mean of 2 GPUs, SM 55.0 %, 300 W" in report["verdict"]
