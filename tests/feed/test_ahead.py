"""Workers come and go while the feed reads; there is always one left while there is work."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from lakefeed.feed.ahead import Ahead
from lakefeed.feed.control import Width
from lakefeed.feed.flights import Task
from lakefeed.feed.order import Shuffle
from lakefeed.feed.stats import Recorder
from lakefeed.feed.tuning import Limits


def test_workers_that_look_around_together_do_not_all_leave() -> None:
    """Each sees that there is one too many; only one of them is."""
    means: Any = SimpleNamespace(recorder=Recorder(None))
    plan: Any = SimpleNamespace(count=10, shuffle=Shuffle(1))
    ahead = Ahead(means, plan, Limits(8, 1 << 20), threading.Event())
    one, other = threading.Thread(), threading.Thread()
    ahead._calling = {one: False, other: False}
    reads = SimpleNamespace(length=[10])
    flight: Any = SimpleNamespace(window=SimpleNamespace(reads=reads), ahead_of=lambda size: (0, 0))
    ahead._tasks.append(Task(flight, 0, 1, None))
    ahead._pace.width = Width(1)
    assert ahead._next_job(one) is None
    assert ahead._next_job(other) is not None  # before the first one is gone
