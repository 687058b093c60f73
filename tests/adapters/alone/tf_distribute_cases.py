"""Strategies of tf.distribute: real processes that train together, each on its own share."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest

import lakefeed.tf
from tests.adapters.alone import tf_worker
from tests.adapters.alone.preloaded import Preloaded
from tests.adapters.alone.tf_trainer import SAMPLES, make_lake
from tests.adapters.alone.tf_worker import BATCH
from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import kept_port

pytestmark = [pytest.mark.tf, pytest.mark.slow]

STEPS = -(-SAMPLES // BATCH)


def train(where: Path, *, workers: int, replicas: int, strike: bool = False) -> list[Any]:
    """Run the workers of one training; return what each said, or its exit status."""
    with ExitStack() as kept:
        ports = [kept.enter_context(kept_port()) for _ in range(workers)]
        return train_at(ports, where, replicas, strike)


def train_at(ports: list[int], where: Path, replicas: int, strike: bool) -> list[Any]:
    processes, workers = [], len(ports)
    for rank in range(workers):
        environment = {}
        if workers > 1:
            cluster = {"worker": [f"localhost:{port}" for port in ports]}
            task = {"type": "worker", "index": rank}
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        arguments = (str(where / "lake"), str(where / "checkpoints"), replicas, strike)
        log = where / f"log-{rank}"
        processes.append(
            Preloaded.begin(tf_worker.main, *arguments, log=log, environment=environment)
        )
    results: list[Any] = []
    try:
        if strike:
            # The survivor would wait half a minute for the dead one's heart.
            connection.wait([each.process.sentinel for each in processes], timeout=PATIENCE_SECONDS)
            for each in processes:
                each.kill()
        for each in processes:
            said = [*each.sayings()]
            whole = each.process.exitcode == 0
            results.append(said[-1] if whole else each.process.exitcode)
            assert whole or strike, each.log.read_text()[-3000:]
    finally:
        for each in processes:
            each.kill()
    return results


def test_two_workers_killed_and_begun_again_share_every_epoch(tmp_path: Path) -> None:
    make_lake(tmp_path / "lake")
    killed = train(tmp_path, workers=2, replicas=1, strike=True)
    assert -signal.SIGKILL in killed
    first, second = train(tmp_path, workers=2, replicas=1)
    assert (first["place"], second["place"]) == ((0, 2), (1, 2))
    for facts in (first, second):
        assert facts["replicas"] == 2
        assert facts["begun"] == STEPS  # the checkpoint of the epoch's end
        assert facts["seen"] == [2] * SAMPLES
        assert facts["step"] == 2 * STEPS
        assert (facts["state"]["epoch"], facts["state"]["position"]) == (2, 0)
    assert first["weight"] == second["weight"]


def test_keras_fit_with_two_replicas_in_one_process(tmp_path: Path) -> None:
    make_lake(tmp_path / "lake")
    (facts,) = train(tmp_path, workers=1, replicas=2)
    assert (facts["place"], facts["replicas"]) == ((0, 1), 2)
    assert facts["seen"] == [2] * SAMPLES
    assert facts["step"] == facts["iterations"] == 2 * STEPS
    assert (facts["state"]["epoch"], facts["state"]["position"]) == (2, 0)
    assert facts["epoch"] == 2  # Keras counts twice as many steps an epoch


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (("chief", 0), (0, 3)),
        (("worker", 0), (1, 3)),
        (("worker", 1), (2, 3)),
        (("evaluator", 0), (0, 1)),
    ],
)
def test_the_rank_comes_from_tf_config(
    monkeypatch: pytest.MonkeyPatch, task: tuple[str, int], expected: tuple[int, int]
) -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": [], "evaluator": ["e:1"]}
    config = {"cluster": cluster, "task": {"type": task[0], "index": task[1]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert lakefeed.tf.place() == expected
    monkeypatch.delenv("TF_CONFIG")
    assert lakefeed.tf.place() == (0, 1)


@pytest.mark.parametrize("kind", ["chief", "worker", "ps"])
def test_beside_parameter_servers_a_dataset_is_whole(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
    config = {"cluster": cluster, "task": {"type": kind, "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert lakefeed.tf.place() == (0, 1)
