"""The daemon's sign of life to its watchdog; without either."""

from __future__ import annotations

import io
import os

import pytest

pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

from lakefeed.adapters.fuse import heart as heart_module  # noqa: E402
from lakefeed.adapters.fuse.guard import BEAT, GOODBYE  # noqa: E402
from lakefeed.adapters.fuse.heart import Heart  # noqa: E402
from lakefeed.adapters.fuse.pace import Pace  # noqa: E402


def test_a_loop_that_waits_for_the_volume_is_well_and_one_that_hangs_is_not() -> None:
    pace, seen = Pace(), []
    heart = Heart(pace, io.BytesIO())

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heart.turn)
            await trio.testing.wait_all_tasks_blocked()
            seen.append(heart.is_well())
            # From here on the loop does not turn any more.
            seen.append(pace.here(0, heart.is_well))
            seen.append(heart.is_well())
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert seen == [True, True, False]


def test_a_daemon_beats_until_it_says_good_bye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart_module, "BEAT_SECONDS", 0.0)
    read_end, write_end = os.pipe()
    pace = Pace()
    with open(read_end, "rb", buffering=0) as said, open(write_end, "wb") as pipe:
        heart = Heart(pace, pipe)
        heart.start()
        # The loop does not turn, but waits for the volume.
        assert pace.here(0, said.read, 1) == BEAT
        assert pace.here(0, said.read, 1) == BEAT
        heart.stop()
        pipe.close()
        assert said.readall().strip(BEAT) == GOODBYE
