"""Two replicas of compactd, killed at random under live writers and readers, lose nothing.

LAKEFEED_CHAOS_SECONDS makes the storm longer than the 20 seconds of every run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.lake import layout
from lakefeed.lake.garbage import Retention, collect, orphans_of, stored_files
from tests.support.patience import PATIENCE_SECONDS
from tests.survival.chaos import Config
from tests.survival.journal import id_of, losses
from tests.survival.lakes import audit, picture
from tests.survival.programs import play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
SECONDS = float(os.environ.get("LAKEFEED_CHAOS_SECONDS", "20"))


def test_replicas_killed_at_random_lose_repeat_and_spoil_nothing(tmp_path: Path) -> None:
    lake, inbox, journals = (tmp_path / name for name in ("lake", "inbox", "journals"))
    inbox.mkdir()
    journals.mkdir()
    Lake.create(lake).close()
    seed = int.from_bytes(os.urandom(3), "little")
    config = Config(
        str(lake), str(inbox), str(journals), seconds=SECONDS, seed=seed, kills=3, drops=51
    )
    # It waits by itself until the inbox is empty, and until a daemon ends.
    told = json.loads(play("chaos", config, SECONDS + 3 * PATIENCE_SECONDS))
    assert told["kills"] >= config.kills
    assert told["drops"] >= config.drops
    files = picture(lake).files
    arrived = {path: id_of(data) for path, data in files.items() if path.startswith("in/")}
    gone = {*told["deleted"]}
    assert arrived == {p: i for p, i in told["dropped"].items() if p not in gone}, f"seed {seed}"
    written = {path: data for path, data in files.items() if not path.startswith("in/")}
    assert losses(journals, written) == [], f"seed {seed}"
    assert audit(lake) > 0
    assert_settles(lake, told["kills"])


def assert_settles(path: Path, kills: int) -> None:
    """What the dead left is bounded, and collection takes all of it away."""
    before = picture(path)
    with Lake.open(path) as lake:
        live_bytes = sum(info.sealed.bytes for info in lake.log.head().packs.values())
        # One killed replica leaves at most one run of compaction and one batch.
        assert orphans_of(lake).bytes <= (kills + 1) * 2 * (live_bytes + (1 << 20))
        for pin in lake.refs.pins():
            lake.refs.unpin(pin)  # of killed readers: in a minute they would have run out
        collect(lake, Retention(keep_seconds=0.0, grace_seconds=0.0))
        state = lake.log.head()
        wanted = {*map(layout.pack_path, state.packs), *map(layout.segment_path, state.segments)}
        assert {*stored_files(lake.volume)} == wanted
        assert [*lake.volume.list(layout.TMP)] == []
        assert not orphans_of(lake).files
    audit(path)
    assert picture(path) == before
