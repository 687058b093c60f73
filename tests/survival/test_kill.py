"""Eight writer processes on one lake, killed with SIGKILL at random, lose nothing acknowledged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.lake import layout
from lakefeed.lake.garbage import Retention, collect
from tests.survival.journal import losses, told
from tests.survival.lakes import audit, picture
from tests.survival.nursery import Config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_killed_writers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    lake, journals = tmp_path / "lake", tmp_path / "journals"
    journals.mkdir()
    Lake.create(lake).close()
    seed = int.from_bytes(os.urandom(3), "little")
    config = Config(
        str(lake), str(journals), writers=8, readers=1, seconds=12.0, batches=20, kills=11,
        seed=seed,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.survival.nursery", json.dumps(asdict(config))],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert int(done.stdout) >= config.kills
    assert losses(journals, picture(lake).files) == []
    stories = told(journals).values()
    assert sum(story.batches for story in stories) >= config.batches
    assert audit(lake) >= max(story.snapshot for story in stories)
    sweep(lake)


def sweep(lake_path: Path) -> None:
    """What the dead left behind is harmless, and garbage collection takes all of it away."""
    before = picture(lake_path)
    with Lake.open(lake_path) as lake:
        collect(lake, Retention(keep_seconds=0.0, grace_seconds=0.0))
        assert [*lake.volume.list(layout.TMP)] == []
    audit(lake_path)
    assert picture(lake_path) == before
