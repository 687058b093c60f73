"""The training job, run as its pods would: real pictures, real ranks, and a kill in between."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.deploy.tools import KUSTOMIZE, ROOT

pytest.importorskip("torch", reason="PyPI torch")
datasets = pytest.importorskip("sklearn.datasets", reason="PyPI scikit-learn")
image = pytest.importorskip("PIL.Image", reason="PyPI pillow")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COUNT = 320


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of handwritten digits, one directory a class."""
    where = tmp_path_factory.mktemp("training") / "lake"
    digits = datasets.load_digits()
    with Lake.create(where) as made, made.writer() as writer:
        for number in range(COUNT):
            file = BytesIO()
            picture = (digits.images[number] * 15).astype("uint8")
            image.fromarray(picture).save(file, "PNG")
            writer.put(f"train/{digits.target[number]}/{number}.png", file.getvalue())
    return where


def train(lake: Path, *options: str) -> list[dict[str, float]]:
    """Run one rank to its end; return its lines."""
    done = subprocess.run(
        [sys.executable, str(KUSTOMIZE / "jobs" / "train.py"), str(lake), "--image-size=16",
         "--batch-size=16", "--epochs=2", *options],
        capture_output=True, text=True, timeout=500, cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_killed_run_goes_on_at_another_world_size(lake: Path, tmp_path: Path) -> None:
    run = f"--run-dir={tmp_path}"
    # One rank for 5 steps of 16, with a checkpoint behind the fourth: the fifth is lost.
    assert train(lake, run, "--checkpoint-steps=4", "--stop-after-steps=5") == []
    # Two ranks take over at sample 64 and finish both epochs together.
    pair = ("--world-size=2", f"--master=127.0.0.1:{free_port()}", run)
    with ThreadPoolExecutor(2) as pool:
        ranks = list(pool.map(lambda rank: train(lake, *pair, f"--rank={rank}"), (0, 1)))
    seen = [[line["samples"] for line in lines] for lines in ranks]
    assert [sum(epoch) for epoch in zip(*seen, strict=True)] == [COUNT - 64, COUNT]
    for first, second in ranks:
        assert second["loss"] < first["loss"]
    # Nothing is left to do, and nothing is done twice.
    assert train(lake, run) == []


def test_what_cannot_be_retried_ends_with_the_exit_code_that_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(KUSTOMIZE / "jobs" / "train.py"), str(tmp_path / "nowhere"),
         f"--run-dir={tmp_path}"],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "NotFound" in done.stderr
