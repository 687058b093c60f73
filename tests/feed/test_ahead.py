"""Workers come and go while the feed reads; there is always one left while there is work."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from lakefeed.errors import Corrupt
from lakefeed.feed.ahead import Ahead
from lakefeed.feed.control import Width
from lakefeed.feed.flights import Slot, Task
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


def test_a_batch_that_fails_leaves_the_reads_for_those_before_it() -> None:
    """Two windows are opened at the same time, and the later one's reads are done first."""
    means: Any = SimpleNamespace(recorder=Recorder(None))
    plan: Any = SimpleNamespace(count=10, shuffle=Shuffle(1))
    ahead = Ahead(means, plan, Limits(8, 1 << 20), threading.Event())

    def batch(number: int) -> None:
        raise Corrupt("train/a")

    earlier: Any = SimpleNamespace(slots=[Slot(0)])
    later: Any = SimpleNamespace(slots=[Slot(0)], batches_left=1, extra_bytes=0)
    later.window = SimpleNamespace(batch=batch)
    ahead._slots.extend([*earlier.slots, *later.slots])
    waiting = Task(earlier, 0, 1, None)
    ahead._tasks.append(waiting)
    ahead._finish(later, 0)
    assert list(ahead._tasks) == [waiting]
    assert isinstance(later.slots[0].error, Corrupt)
