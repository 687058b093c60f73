"""What only a machine with an NVIDIA GPU can show: its driver, its frameworks, no stand-in.

Anywhere else each of these skips and says why; docs/BENCH.md tells how to run them where there is
one. What is asserted holds for any GPU: figures that exist, within their bounds, and move.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest
from prometheus_client import CollectorRegistry

import lakefeed.monitor
from lakefeed import Lake
from lakefeed.bench import reports
from lakefeed.bench.gpu_gauges import GpuGauges
from lakefeed.bench.gpu_nvml import NvmlProbe
from lakefeed.bench.models import SIDES, trainer
from lakefeed.demo.pictures import write_digits
from lakefeed.metrics.gpu import GpuMetrics
from lakefeed.transfer.importing import ImportOptions, import_tree

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

# Loading CUDA, and TensorFlow's choice of kernels, take most of it.
SECONDS_MAX = 600
# How a framework says on how many GPUs it can train.
COUNTS = {
    "cuda": "import torch; print(torch.cuda.device_count())",
    "tf-gpu": "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))",
}


@pytest.fixture(scope="module")
def probe() -> Iterator[NvmlProbe]:
    try:
        found = NvmlProbe()
    except pynvml.NVMLError as error:
        pytest.skip(f"no NVIDIA GPU here: {error}")
    with closing(found):
        if not found.names:
            pytest.skip(f"no NVIDIA GPU here: {found.why or 'NVML finds none'}")
        yield found


@pytest.fixture(scope="module")
def lake(probe: NvmlProbe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gpu")
    write_digits(root / "images")
    with Lake.create(root / "lake") as made:
        import_tree(made, root / "images", ImportOptions())
    return root / "lake"


def python(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def must_see_a_gpu(device: str) -> None:
    """Skip where the framework was built for processors alone."""
    if not int(python("-c", COUNTS[device]).split()[-1]):
        pytest.skip(f"the framework of --device {device} sees no GPU: is it a build with CUDA?")


def has_sm() -> bool:
    """Tell whether all of the GPUs have GPM: Hopper and newer."""
    pynvml.nvmlInit()
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return all(pynvml.nvmlGpmQueryDeviceSupport(one).isSupportedDevice for one in handles)
    except pynvml.NVMLError:
        return False
    finally:
        pynvml.nvmlShutdown()


def check(facts: dict[str, Any]) -> None:
    """What is told of GPUs that trained."""
    assert facts["names"]
    assert facts["busy"] is None or 0 < facts["busy"] <= 1  # MIG tells none
    assert facts["watts"] is None or facts["watts"] > 0
    assert facts["joules"] is None or facts["joules"] > 0
    assert facts["sm"] is None or 0 < facts["sm"] <= 1
    assert facts["busy"] is not None or facts["sm"] is not None
    assert facts["sm"] is not None or not has_sm()


def test_the_driver_tells_figures_within_their_bounds(probe: NvmlProbe) -> None:
    before, after = probe.read(), probe.read()
    assert [one.gpu for one in after] == list(range(len(probe.names)))
    for then, one in zip(before, after, strict=True):
        assert one.busy is None or 0 <= one.busy <= 1
        assert one.sm is None or 0 <= one.sm <= 1
        assert one.watts is None or 0 < one.watts < 5000
        assert one.joules is None or one.joules >= (then.joules or 0) > 0


@pytest.mark.parametrize("device", ["cuda", "tf-gpu"])
@pytest.mark.parametrize("model", ["cnn", "resnet50"])
def test_a_real_training_is_measured_on_the_gpu(
    device: str, model: str, lake: Path, tmp_path: Path
) -> None:
    must_see_a_gpu(device)
    words = ("bench", "train", lake, "--device", device, "--model", model, "--json", "-q")
    facts = json.loads(python("-m", "lakefeed", *words, "--report", tmp_path / "run.html"))
    assert facts["real"]["trained_on"] == "gpu"
    assert f"{model} on gpu from lake" in facts["verdict"]
    assert "no GPU" not in facts["verdict"] + "".join(facts["notes"])
    (run,) = facts["runs"]
    check(run["gpu"])
    assert sum(run["stalls"].values()) == pytest.approx(1)
    line = run["timeline"]["gpu_busy"]
    assert len(line) == (0 if run["gpu"]["busy"] is None else len(run["timeline"]["seconds"]))
    assert "GPU busy" in (tmp_path / "run.html").read_text()


def test_a_users_own_training_is_measured_on_the_gpu(probe: NvmlProbe, tmp_path: Path) -> None:
    must_see_a_gpu("cuda")
    made = trainer("torch", "resnet50", "cuda", 0)
    chance = np.random.default_rng(0)
    pictures = chance.random((32, SIDES["resnet50"], SIDES["resnet50"], 3), np.float32)
    batches = [(pictures, np.arange(32, dtype=np.int64) % 10)] * 100
    for batch in lakefeed.monitor.watch(batches, tmp_path / "run.html"):
        made.step(made.ready(*batch))
    (run,) = reports.read(tmp_path / "run.json")["runs"]
    assert (run["steps"], run["samples"]) == (100, 3200)
    check(run["gpu"])


def test_prometheus_is_told_of_every_gpu(probe: NvmlProbe) -> None:
    registry = CollectorRegistry()
    with GpuGauges.start(GpuMetrics(registry)) as gauges:
        gauges.read()
        wanted = {one.gpu for one in probe.read() if one.watts is not None}
        for gpu in wanted:
            watts = registry.get_sample_value("lakefeed_gpu_power_watts", {"gpu": str(gpu)})
            assert watts is not None
            assert watts > 0
