"""The training job, run as its pods would: real pictures, real ranks, and a kill in between."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.deploy.tools import KUSTOMIZE, ROOT
from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import kept_port

torch = pytest.importorskip("torch", reason="PyPI torch")
image = pytest.importorskip("PIL.Image", reason="PyPI pillow")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COUNT = 320


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of handwritten digits, one directory a class."""
    where = tmp_path_factory.mktemp("training") / "lake"
    # Here: it loads half of scipy, which each test process would do to collect this file.
    datasets = pytest.importorskip("sklearn.datasets", reason="PyPI scikit-learn")
    digits = datasets.load_digits()
    with Lake.create(where) as made, made.writer() as writer:
        for number in range(COUNT):
            file = BytesIO()
            picture = (digits.images[number] * 15).astype("uint8")
            image.fromarray(picture).save(file, "PNG")
            writer.put(f"train/{digits.target[number]}/{number}.png", file.getvalue())
    return where


def command(lake: Path, *options: str) -> list[str]:
    script = str(KUSTOMIZE / "jobs" / "train.py")
    return [sys.executable, script, str(lake), "--image-size=16", "--batch-size=16", *options]


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}


def train(lake: Path, *options: str) -> list[dict[str, float]]:
    """Run one rank to its end; return the lines of its epochs."""
    done = subprocess.run(
        command(lake, *options), capture_output=True, text=True, timeout=500, env=environment()
    )
    assert done.returncode == 0, done.stderr
    *epochs, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last["verdict"]
    return epochs


def kill_after_first_checkpoint(lake: Path, run: Path) -> dict[str, int]:
    """Kill a run that has saved a checkpoint; return the state of the feed that it saved last.

    Before that, look at the metrics that it serves.
    """
    endless = command(lake, f"--run-dir={run}", "--epochs=1000", "--checkpoint-steps=3")
    with (
        kept_port() as port,
        subprocess.Popen(
            [*endless, f"--metrics=127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL,
            env=environment(),
        ) as running,
    ):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (run / "checkpoint.pt").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline, "no checkpoint in time"
            time.sleep(0.01)
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS
        ) as answer:
            page = answer.read().decode()
        running.kill()
    assert "lakefeed_loader_wait_seconds_sum" in page
    assert float(page.split("\nlakefeed_loader_samples_total ")[1].split()[0]) > 0
    state: dict[str, int] = torch.load(run / "checkpoint.pt")["feed"]
    return state


def test_a_killed_run_goes_on_at_another_world_size(lake: Path, tmp_path: Path) -> None:
    state = kill_after_first_checkpoint(lake, tmp_path)
    epochs = state["epoch"] + 2
    # Two ranks take over behind the last sample that the checkpoint has seen.
    with kept_port() as port, ThreadPoolExecutor(2) as pool:
        both = ("--batch-size=8", f"--run-dir={tmp_path}", f"--epochs={epochs}", "--world-size=2",
                f"--master=127.0.0.1:{port}")  # fmt: skip
        ranks = list(pool.map(lambda rank: train(lake, *both, f"--rank={rank}"), (0, 1)))
    seen = [[int(line["samples"]) for line in lines] for lines in ranks]
    assert [sum(epoch) for epoch in zip(*seen, strict=True)] == [COUNT - state["position"], COUNT]
    # Nothing is left to do, and nothing is done twice.
    assert train(lake, f"--run-dir={tmp_path}", f"--epochs={epochs}") == []


def test_what_cannot_be_retried_ends_with_the_exit_code_that_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "nowhere", f"--run-dir={tmp_path}"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(),
    )
    assert done.returncode == 3, done.stderr
    assert "NotFound" in done.stderr
