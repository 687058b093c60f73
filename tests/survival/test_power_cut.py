"""A power cut loses nothing acknowledged, on a real filesystem with a real journal replay.

The negative control takes fsync away: if nothing is lost then, the rig cuts no power and the other
test proves nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.survival.mounts import skip_for, why_no_loop
from tests.survival.power import Config, Round
from tests.survival.programs import play

pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture(autouse=True)
def loop_devices(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_for(why_no_loop(tmp_path_factory.getbasetemp()))


def cut(directory: Path, rounds: int, *, sync: bool) -> list[Round]:
    seed = int.from_bytes(os.urandom(3), "little")
    config = Config(str(directory), rounds, writers=3, sync=sync, seed=seed)
    results = [Round(**json.loads(line)) for line in play("power", config, 600).splitlines()]
    assert len(results) == rounds
    assert all(result.acknowledged >= 2 for result in results)
    return results


def test_acknowledged_files_survive_a_power_cut(tmp_path: Path) -> None:
    for result in cut(tmp_path, 6, sync=True):
        assert (result.lost, result.damage) == ([], "")


def test_without_fsync_the_same_cut_loses_files(tmp_path: Path) -> None:
    results = cut(tmp_path, 3, sync=False)
    assert any(result.lost or result.damage for result in results)
