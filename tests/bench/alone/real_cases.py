"""Real steps of real models, fed from a lake and from plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lakefeed import Lake
from lakefeed.bench import page, pixels, verdict
from lakefeed.bench.models import CLASSES, SIDES, trainer
from lakefeed.bench.real import RealOptions, train_really
from lakefeed.bench.training import Limits, TrainOptions
from lakefeed.bench.workloads import Workload
from lakefeed.demo.pictures import write_digits
from lakefeed.errors import Corrupt, Invalid
from lakefeed.transfer.importing import ImportOptions, import_tree

FRAMEWORKS = [pytest.param("keras", marks=pytest.mark.tf), "torch"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    write_digits(root / "images")
    with Lake.create(root / "lake") as lake:
        import_tree(lake, root / "images", ImportOptions())
    return root / "lake"


def measured(lake: Path, workload: Workload, chosen: RealOptions, **more: Any) -> dict[str, Any]:
    options = TrainOptions(str(lake), workload, limits=Limits(steps=5), **more)
    return train_really(options, chosen, lambda line: None, lambda *_: lambda lives: None)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_three_phases_split_a_samples_time(
    framework: str, digits: Path, workload: Workload
) -> None:
    chosen = RealOptions("cpu", framework, "cnn", 16)
    facts = measured(digits, workload, chosen, sources=("lake", "plain"))
    assert [run["source"] for run in facts["runs"]] == ["lake", "plain"]
    for run in facts["runs"]:
        assert run["steps"] == 5
        assert sum(run["stalls"].values()) == pytest.approx(1)
        assert 0 < run["utilisation"] <= 1
        assert run["read_bytes"] > 0
    assert facts["passed"] is None
    # On a machine that others keep busy the ceiling may be slow, and is no ceiling then.
    split = not all(map(verdict.is_ceiling_slow, facts["runs"]))
    assert ("Where the time goes" in page.render(facts)) == split


@pytest.mark.slow
def test_a_missing_gpu_is_a_value(digits: Path, workload: Workload) -> None:
    facts = measured(digits, workload, RealOptions("cuda", "torch", "cnn", 16))
    missing = facts["real"]["trained_on"] != "gpu"
    assert ("no GPU" in facts["verdict"]) is missing
    assert (facts["runs"][0]["gpu"]["busy"] is None) is missing
    assert any("no GPU" in note for note in facts["notes"]) is missing


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("model", ["cnn", "resnet50"])
def test_a_step_learns(framework: str, model: str) -> None:
    chance = np.random.default_rng(0)
    made = trainer(framework, model, "cpu", 0)
    count, steps = (1, 1) if model == "resnet50" else (4, 30)
    pictures = chance.random((count, SIDES[model], SIDES[model], 3), np.float32)
    batch = made.ready(pictures, np.arange(count, dtype=np.int64) % CLASSES)
    losses = [made.step(batch) for _ in range(steps)]
    assert all(np.isfinite(losses))
    if model == "cnn":
        assert losses[-1] < losses[0]


@pytest.mark.slow
def test_resnet50_is_resnet50() -> None:
    made: Any = trainer("torch", "resnet50", "cpu", 0)
    count = sum(weights.numel() for weights in made._model.parameters())
    # 25,557,032 with 1,000 classes; 2,049 weights for each class.
    assert count == 25_557_032 - 990 * 2049


def test_a_framework_serves_its_own_devices() -> None:
    with pytest.raises(Invalid, match="torch on cuda"):
        trainer("keras", "cnn", "cuda", 0)


def test_pictures_and_noise_become_pixels(tmp_path: Path) -> None:
    write_digits(tmp_path)
    png = (tmp_path / "3" / "0003.png").read_bytes()
    found = pixels.pictures([png, b"\x00\xff", b""], 8)
    assert found.shape == (3, 8, 8, 3)
    assert found.dtype == np.float32
    assert found[0].max() > 0.5
    assert set(np.unique(found[1])) == {0.0, 1.0}
    assert found[2].max() == 0
    for damaged in (png[:40], b"\xff\xd8\xff\xe0" + bytes(9)):
        with pytest.raises(Corrupt, match="picture"):
            pixels.pictures([damaged], 8)
