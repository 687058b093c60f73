"""DLIO 2.0.0 runs its workloads through a feed: two ranks under MPI, every sample once an epoch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lakefeed.bench import figures
from lakefeed.lake.lake import Lake
from tests.dlio import records
from tests.dlio.environment import ROOT, NotInstallable, environment
from tests.dlio.runner import LATER, THROUGH_A_LAKE, Result, metrics, run
from tests.feed.lakes import QUIET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("dlio")]

READ = re.compile(r"lakefeed: rank (\d+) read (\d+) samples, (\d+) bytes of (\w+) in epoch (\d+)")


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return environment() / "python"
    except NotInstallable as reason:
        pytest.skip(f"DLIO cannot be installed: {reason}")


def read(result: Result) -> list[tuple[int, int, int, str, int]]:
    """What each rank says it read: rank, samples, bytes, part, epoch."""
    found = {
        (int(rank), int(samples), int(size), part, int(epoch))
        for rank, samples, size, part, epoch in READ.findall(result.output)
    }
    return sorted(found)


def fill(folder: Path, train: int, valid: int, size_bytes: int) -> None:
    with Lake.create(folder / "lake") as lake, lake.writer(QUIET) as writer:
        for part, count in (("train", train), ("valid", valid)):
            for at in range(count):
                writer.put(f"{part}/{at:05d}.jpeg", at.to_bytes(2, "big") * (size_bytes // 2))


def stand_in(python: Path, folder: Path, suffix: str) -> dict[str, object]:
    """Call the helper in DLIO's environment, where alone it can be imported."""
    code = (
        "import json, sys; from lakefeed.adapters.dlio import stand_in; "
        "print(json.dumps(stand_in(sys.argv[1], sys.argv[2])))"
    )
    done = subprocess.run(
        [python, "-c", code, folder, suffix],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    return {f"dataset.{name}": count for name, count in counts.items()}


def test_two_ranks_train_and_evaluate_through_the_feed(python: Path, tmp_path: Path) -> None:
    fill(tmp_path, train=96, valid=24, size_bytes=32_000)
    counts = stand_in(python, tmp_path, "jpeg")
    assert counts == {
        "dataset.num_files_train": 4,
        "dataset.num_files_eval": 1,
        "dataset.num_samples_per_file": 24,
    }
    result = run(
        "retinanet_b200",
        {
            **THROUGH_A_LAKE,
            **counts,
            "dataset.data_folder": tmp_path,
            "output.folder": tmp_path / "out",
            "dataset.record_length": 32_000,
            "reader.batch_size": 6,
            "workflow.evaluation": True,
            "reader.batch_size_eval": 6,
            "evaluation.eval_time": 0.001,
        },
    )
    shares = [(rank, 48, 48 * 32_000, "train", epoch) for rank in (0, 1) for epoch in (1, 2)]
    shares += [(rank, 12, 12 * 32_000, "valid", epoch) for rank in (0, 1) for epoch in (1, 2)]
    assert read(result) == sorted(shares)
    assert result.metrics["Number of Simulated Accelerators"] == 2
    assert 0 < result.au_percent <= 100
    assert result.samples_per_second > 0
    # Our formulas on DLIO's own record of this run give what it printed, to the printed digits.
    ours = figures.utilisation(records.read(tmp_path / "out", 2, batch_size=6), 0.04755)
    assert ours is not None
    assert 100 * ours == pytest.approx(result.au_percent, abs=1e-4)
    assert result.metrics["train_au_meet_expectation"] in ("success", "fail")


def test_a_data_set_that_dlio_generated_is_imported_and_served(
    python: Path, tmp_path: Path
) -> None:
    where = {"dataset.data_folder": tmp_path, "output.folder": tmp_path / "out"}
    small = {
        "dataset.num_files_train": 8,
        "dataset.record_length": 40_000,
        "dataset.record_length_stdev": 10_000,
        "dataset.record_length_resize": 40_000,
        "reader.batch_size": 2,
        "reader.read_threads": 0,
        "train.epochs": 1,
        "train.computation_time": 0.01,
        "workflow.checkpoint": False,
    }
    generate = {"workflow.generate_data": True, "workflow.train": False}
    run("unet3d_h100", {**where, **small, **generate}, ranks=1)
    files = sorted((tmp_path / "train").glob("*.npz"))
    assert len(files) == 8
    command = [sys.executable, "-m", "lakefeed"]
    subprocess.run([*command, "create", tmp_path / "lake"], cwd=ROOT, check=True)
    source = [tmp_path / "train", tmp_path / "lake", "--prefix", "train"]
    subprocess.run([*command, "import", *source], cwd=ROOT, check=True)
    result = run("unet3d_h100", {**where, **small, **THROUGH_A_LAKE})
    assert [samples for _, samples, *_ in read(result)] == [4, 4]
    assert sum(size for _, _, size, *_ in read(result)) == sum(f.stat().st_size for f in files)


COUNTED = """
import sys
from dlio_benchmark.common.enumerations import DatasetType
from dlio_benchmark.utils.config import ConfigArguments
from dlio_benchmark.utils.utility import DLIOMPI
DLIOMPI.get_instance().initialize()
args = ConfigArguments.get_instance()
args.data_folder, args.total_samples_train, args.total_samples_eval = sys.argv[1], 95, 0
from lakefeed.adapters.dlio import Loader
Loader(None, DatasetType.TRAIN, 1).read()
"""


def test_a_lake_of_another_number_of_samples_is_refused(python: Path, tmp_path: Path) -> None:
    fill(tmp_path, train=96, valid=0, size_bytes=100)
    done = subprocess.run(
        [python, "-c", COUNTED, tmp_path],
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "expected 95 (num_files x num_samples_per_file), found 96" in done.stderr


LATE = """
import sys
from sitecustomize import Later
assert isinstance(sys.modules["tensorflow"], Later)
early = sys.modules["xml"] = Later("xml")
import xml
assert xml is early and not hasattr(xml, "__wrapped__") and sys.modules["xml"] is early
from xml.dom import minidom
assert sys.modules["xml"] is not early and early.dom.minidom is minidom
"""


def test_what_stands_for_a_module_is_that_module_once_it_is_used() -> None:
    subprocess.run([sys.executable, "-c", LATE], env={"PYTHONPATH": str(LATER)}, check=True)


def test_metric_lines_are_parsed_as_dlio_prints_them() -> None:
    text = """[OUTPUT] x [/a.py:1]
Averaged metric over all epochs
[METRIC] ==========================================================
[METRIC] Number of Simulated Accelerators: 2
[METRIC] Training Accelerator Utilization [AU] (%): 96.4866 (0.4880)
[METRIC] Training Throughput (samples/second): 606.7106 (nan)
[METRIC] train_au_meet_expectation: success
[METRIC] ==========================================================
 [/site-packages/dlio_benchmark/utils/statscounter.py:185]"""
    assert metrics(text) == {
        "Number of Simulated Accelerators": 2,
        "Training Accelerator Utilization [AU] (%)": 96.4866,
        "Training Throughput (samples/second)": 606.7106,
        "train_au_meet_expectation": "success",
    }
