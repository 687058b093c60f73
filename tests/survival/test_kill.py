"""Eight writer processes on one lake, killed with SIGKILL at random, lose nothing acknowledged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.lake import layout
from lakefeed.lake.garbage import Retention, collect
from tests.survival.journal import losses, told
from tests.survival.lakes import audit, picture
from tests.survival.nursery import Config
from tests.survival.programs import play

pytestmark = pytest.mark.slow


def test_killed_writers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    lake, journals = tmp_path / "lake", tmp_path / "journals"
    journals.mkdir()
    Lake.create(lake).close()
    seed = int.from_bytes(os.urandom(3), "little")
    config = Config(
        str(lake), str(journals), writers=8, readers=1, seconds=12.0, batches=20, kills=11,
        seed=seed,
    )  # fmt: skip
    assert int(play("nursery", config, 600)) >= config.kills
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
