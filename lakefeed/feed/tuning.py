"""How big windows and reads should be, from what was seen so far and what the budget allows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lakefeed.errors import Invalid, LakefeedError
from lakefeed.feed.pace import Pace
from lakefeed.feed.planning import Draft, Plan
from lakefeed.feed.slots import Limits
from lakefeed.feed.window import Means, Tuning, Window

if TYPE_CHECKING:
    from lakefeed.feed.stats import Recorder

# A window's size where reads are quick: enough samples that planning them together is cheap, and
# that every worker finds a few tasks of the best size in it (`flights`).
_WINDOW_BYTES = 40 << 20
# All of a selection is enough, if it is no smaller than this. Hundreds of epochs of a tiny one
# would fill such windows, ten thousand batches, made beside a training that is being compiled.
_WINDOW_BYTES_MIN = 4 << 20
# What the order mixes in one window is read at once, up to this size: each part of it would read
# the same stretches.
_MIXED_BYTES_MAX = 80 << 20
_AHEAD_WINDOWS = 2
_SLOW_AHEAD_WINDOWS = 4
# Where reads are slow, neighbours that can share one are worth a quarter of the budget: small ones
# always, big ones where the whole of a window that the order is mixed in (`order`) fits into it.
# Runs that by themselves are worth a call share nothing more in a bigger window.
# Else big samples have a read of their own anyway, and a window hands out nothing before all of it
# is there: then windows are small, a few batches, so that planning them takes nobody's turn for
# long, and many of them are under way.
_SMALL_BYTES = 32 << 10
_SHARED_SHARE = 4
_RUN_BYTES = 200_000
_BIG_WINDOW_BYTES = 16 << 20
_SLOW_AHEAD_SHARE = 4
# How many times as big the next window is until they are big enough. Where neighbours share reads,
# a window of many times the samples takes hardly more reads.
_GROWTH = 2
_SHARED_GROWTH = 4
_READ_BYTES = 1 << 20
_SLOW_READ_BYTES = 4 << 20
_GAP_BYTES_MIN, _GAP_BYTES_MAX = 4 << 10, 1 << 20
# Out of a page cache a call takes two microseconds, and what seems to make it longer is the time
# that threads wait for their turn, which is not saved by reading more.
_CACHED_GAP_BYTES_MAX = 16 << 10
# Before anything is known: costs a millisecond or two at most where it was not worth it.
_FIRST_GAP_BYTES = 256 << 10
# A volume is slow when its reads wait rather than copy: half of them longer than this. Its calls
# are dear then, and also where reads are announced because they would have to wait.
_SLOW_SECONDS = 300e-6
_SLOW_WIDTH = 4
# A read is a straggler after four times what nearly all others took, at least 30 ms: a disk's
# seek under load is none.
_STRAGGLER_FACTOR = 4
_STRAGGLER_SECONDS = 0.03


class Tuner:
    """Chooses; used by one planning worker at a time."""

    def __init__(self, limits: Limits, recorder: Recorder, plan: Plan) -> None:
        self._limits = limits
        self._recorder = recorder
        self._count = plan.count
        self._mixed = plan.shuffle.window  # samples that the order mixes; 0: not in windows
        # Neighbours that are wanted together, of which other ranks and processes take their shares.
        shares = plan.partition.world_size * plan.every
        self._run = (plan.shuffle.run or plan.count) / shares
        self._run_bytes = 0.0
        self._samples = 1
        self._most = 1  # samples of as many batches as a window may have
        self._sample_bytes = 0.0
        self._window_needs = 0
        self._slow = self._dear = False
        self.hedge_seconds = _STRAGGLER_SECONDS

    @property
    def window_bytes(self) -> int:
        """The size that windows grow to: some of them fit into the budget."""
        most = self._limits.bytes_max // _SHARED_SHARE
        if self._dear and self._share:
            whole_runs = self._run_bytes >= _RUN_BYTES and self._mixed_bytes <= most
            return min(max(_WINDOW_BYTES, self._mixed_bytes), most) if whole_runs else most
        whole = max(int(self._count * self._sample_bytes), _WINDOW_BYTES_MIN)
        usual = _BIG_WINDOW_BYTES if self._slow else min(_WINDOW_BYTES, whole)
        return min(max(usual, min(self._worth_bytes, whole)), most)

    @property
    def _mixed_bytes(self) -> int:
        """What the order mixes in one window."""
        return math.ceil(self._mixed * self._sample_bytes)

    @property
    def _worth_bytes(self) -> int:
        """How much is worth reading at once because small samples that are near then meet.

        Of a selection that is small beside the budget that is a half: where every second sample is
        wanted the next one is near, in a global order as well, and to read what lies between takes
        less than another call. With a third that is not so any more.
        """
        if self._sample_bytes >= _SMALL_BYTES:
            return 0
        if self._mixed:
            return self._mixed_bytes if self._mixed_bytes <= _MIXED_BYTES_MAX else 0
        half = self._count * self._sample_bytes / 2
        return int(half) if half <= self._limits.bytes_max / _SHARED_SHARE else 0

    @property
    def _share(self) -> bool:
        """Whether samples of a window can share reads."""
        most = self._limits.bytes_max / _SHARED_SHARE
        return self._sample_bytes < _SMALL_BYTES or 0 < self._mixed_bytes <= most

    @property
    def ahead_bytes(self) -> int:
        """How much lies ready or under way before planning rests.

        Some windows: more would only be more memory to touch for the first time, which costs as
        much as reading it does.
        """
        if not (self._dear if self._share else self._slow):
            return min(_AHEAD_WINDOWS * self.window_bytes, self._limits.bytes_max)
        if not self._share:
            return self._limits.bytes_max // _SLOW_AHEAD_SHARE
        return min(self._limits.bytes_max, _SLOW_AHEAD_WINDOWS * self._window_needs)

    def samples(self) -> int:
        """Return how many samples to draft."""
        if not self._sample_bytes:
            return 1
        most = min(self._samples, self._most)
        return max(1, min(most, int(self.window_bytes / self._sample_bytes)))

    def sized(self, means: Means, draft: Draft, pace: Pace) -> tuple[Window, Draft]:
        """Return a window that fits into the budget beside another one, or holds one batch.

        What would go wrong again concerns some batch: those before it make a window without it.
        """
        tuning = self.tuning(pace)
        while True:
            try:
                window = Window(means, draft, tuning)
            except LakefeedError as error:
                if error.retryable or len(draft) == 1:
                    raise
            else:
                if len(draft) == 1 or self.fits(window):
                    break
            draft = draft.first(len(draft) // 2)
        if window.needed_bytes > self._limits.bytes_max:
            name = str(means.selection.paths(draft.numbers[:1])[0].as_py())
            raise Invalid(
                f"batch with {name!r}",
                expected=f"at most {self._limits.bytes_max} bytes",
                found=f"{window.needed_bytes} bytes in {draft.splits[1]} samples",
                hint="raise memory_bytes or lower batch_size",
            )
        self.planned(window)
        return window, draft

    def tuning(self, pace: Pace) -> Tuning:
        """Return how to read the next window."""
        typical = self._recorder.read_seconds(0.5)
        waits = pace.width.target >= _SLOW_WIDTH and typical > _SLOW_SECONDS
        self._slow = waits and not pace.announces
        self._dear = self._slow or pace.announces
        if self._slow:
            usual = self._recorder.read_seconds(0.95)
            self.hedge_seconds = max(_STRAGGLER_SECONDS, _STRAGGLER_FACTOR * usual)
        most = _GAP_BYTES_MAX if self._dear or pace.waits else _CACHED_GAP_BYTES_MAX
        gap = int(min(max(pace.costs.gap_bytes, _GAP_BYTES_MIN), most, _GAP_BYTES_MAX))
        if pace.unknown:
            gap = min(_FIRST_GAP_BYTES, _GAP_BYTES_MAX)
        size = _SLOW_READ_BYTES if self._dear else _READ_BYTES
        return Tuning(gap, size, self._slow)

    def fits(self, window: Window) -> bool:
        """Tell whether another window of this size would fit beside it."""
        half = self._limits.bytes_max // 2
        batches = len(window.batch_bytes)
        return window.needed_bytes <= half and batches <= self._batches_max

    @property
    def _batches_max(self) -> int:
        return max(1, self._limits.depth // 2)

    def planned(self, window: Window) -> None:
        """Let windows grow."""
        samples = len(window.rows)
        self._sample_bytes = max(1.0, sum(window.held_bytes) / max(1, samples))
        # Without what small batches take beside their samples, which nobody reads.
        self._run_bytes = self._run * sum(window.batch_bytes) / max(1, samples)
        self._most = self._batches_max * -(-samples // len(window.batch_bytes))
        growth = _SHARED_GROWTH if self._dear and self._share else _GROWTH
        self._samples = max(self._samples, samples) * growth
        self._window_needs = max(self._window_needs, window.needed_bytes)
