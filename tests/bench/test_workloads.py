"""The constants of MLPerf Storage, and what a wrong workload is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed.bench import workloads
from lakefeed.errors import Invalid, NotFound

# batch, computation seconds, sample bytes, threshold; samples/s and MB/s at AU 1 as published.
PUBLISHED = {
    ("unet3d", "a100"): (7, 0.636, 146_600_628, 0.90, 11.0, 1613),
    ("unet3d", "h100"): (7, 0.323, 146_600_628, 0.90, 21.7, 3177),
    ("unet3d", "b200"): (7, 0.162, 146_600_628, 0.90, 43.2, 6335),
    ("resnet50", "a100"): (400, 0.435, 114_660, 0.90, 919.5, 105),
    ("resnet50", "h100"): (400, 0.224, 114_660, 0.90, 1785.7, 205),
    ("cosmoflow", "a100"): (1, 0.00551, 2_828_486, 0.70, 181.5, 513),
    ("cosmoflow", "h100"): (1, 0.00350, 2_828_486, 0.70, 285.7, 808),
    ("retinanet", "b200"): (24, 0.04755, 322_957, 0.85, 504.7, 163),
    ("retinanet", "mi355"): (32, 0.0634, 322_957, 0.85, 504.7, 163),
    ("flux", "b200"): (48, 1.35, 2_164_832, 0.90, 35.6, 77),
    ("flux", "mi355"): (72, 2.025, 2_164_832, 0.90, 35.6, 77),
    ("dlrm", "b200"): (16384, 0.000375, 761, 0.70, 43.7e6, 33_249),
}


@pytest.mark.parametrize("key", PUBLISHED, ids="/".join)
def test_a_workload_has_its_published_constants(key: tuple[str, str]) -> None:
    batch, seconds, size, threshold, rate, megabytes = PUBLISHED[key]
    found = workloads.load(*key)
    assert (found.batch_size, found.computation_seconds) == (batch, seconds)
    assert (found.sample_bytes, found.utilisation_min) == (size, threshold)
    assert found.demand.samples_per_second == pytest.approx(rate, rel=0.005)
    assert found.demand.bytes_per_second / 1e6 == pytest.approx(megabytes, rel=0.01)


def test_an_accelerator_may_have_samples_of_its_own() -> None:
    assert workloads.load("retinanet").accelerator == "b200"
    other = workloads.load("retinanet", "h100")
    assert (other.sample_bytes, other.batch_size, other.status) == (153_600, 16, "what-if")
    assert workloads.load("unet3d", "b200").samples == 7200
    assert workloads.load("resnet50").samples == 1024 * 1251


def test_every_workload_loads() -> None:
    assert set(workloads.names()) >= {
        "cosmoflow",
        "dlrm",
        "flux",
        "resnet50",
        "retinanet",
        "unet3d",
    }
    for name in workloads.names():
        assert workloads.load(name).label.startswith(name)


def test_unknown_names_say_what_is_known() -> None:
    with pytest.raises(NotFound, match="retinanet"):
        workloads.load("retinnet")
    with pytest.raises(Invalid, match="b200, mi355, h100"):
        workloads.load("retinanet", "tpu")


OWN = """
title = "t"
framework = "f"
format = "bin"
files = 10
sample_bytes = 100
utilisation_min = 0.5
[accelerators.x]
batch_size = 2
computation_seconds = 0.01
"""


def test_a_file_of_ones_own_works(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    assert workloads.load(str(path)).label == "mine/x"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(OWN.replace("t", "é", 1).encode("latin-1"))
    with pytest.raises(Invalid, match="expected TOML, found 'utf-8' codec"):
        workloads.load(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.replace("batch_size = 2", "batch_size = 0"), "batch_size"),
        (OWN.replace("files = 10", 'files = "many"'), "key files"),
        (OWN + "speed = 3\n", "accelerators.x.speed"),
        (OWN.replace("utilisation_min = 0.5", "utilisation_min = 85"), "utilisation_min"),
        ("title = ", "TOML"),
    ],
)
def test_a_bad_file_says_which_key(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        workloads.parse(text.encode(), "mine.toml")
