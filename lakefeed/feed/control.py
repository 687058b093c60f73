"""How many reads to keep under way, and what a call costs on this volume: found out while reading.

`Width` climbs: from a few workers it doubles while the rate of reading grows with it, and settles
on the last width that paid (the knee). A page cache stays at one or two, a volume that takes a
millisecond for every answer ends in the dozens. Settled, it tries a neighbouring width now and
then, because volumes change: up must pay to be kept, down must cost nothing.

`Costs` fits seconds = calls * c + bytes * b to what was seen, with the older observations fading.
c / b is the gap that is worth reading: 15 kB in a page cache, 200 kB on a filer with 200
microseconds a call and 1 GB/s.

Both are pure: they are told what happened and how long it took. Not safe for threads; the
scheduler calls them under its lock.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH_MAX = 64
# Doubling must bring this much to go on, less would be noise: the knee of a rate-limited volume
# shows as 1.0; 1.1 for half a step.
_CLIMB_GAIN = 1.15
_PROBE_GAIN = 1.1
_PROBE_LOSS = 0.97
# Reads within this factor of each other are alike.
_ALIKE = 2
# Observations between two tries at another width once settled.
_PATIENCE = 40
# What a call costs besides its bytes in the rate's measure, unless the caller knows better.
CALL_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class _Seen:
    """Reads and bytes a second at some width."""

    reads: float
    read_bytes: float

    def gain(self, before: _Seen, call_bytes: float) -> float:
        """Return how many times as much work this is as before."""
        worth = before.read_bytes + before.reads * call_bytes
        return (self.read_bytes + self.reads * call_bytes) / max(worth, 1e-9)

    def resembles(self, before: _Seen) -> bool:
        """Tell whether the reads were of about the same size."""
        ours, theirs = self.read_bytes * before.reads, before.read_bytes * self.reads
        return theirs <= ours * _ALIKE and ours <= theirs * _ALIKE


class Width:
    """The number of workers; `target` is what it should be now."""

    def __init__(self, start: int = 1) -> None:
        self.target = start
        self._width_max = WIDTH_MAX
        self._settled = False
        self._before: tuple[int, _Seen] | None = None
        self._observed = 0
        self._direction = 1
        self._went_back = False

    def allow(self, width_max: int) -> None:
        """Stay at or below a width from now on."""
        self._width_max = width_max
        self.target = min(self.target, width_max)

    def jump(self, width: int) -> None:
        """Begin to climb from a greater width: the first reads said that waiting dominates."""
        if not self._settled and width > self.target:
            self.target, self._before = min(width, self._width_max), None

    def begin_anew(self) -> None:
        """Forget what was seen at the width before this one: it cannot be compared."""
        if self._before is not None:
            self.target, self._before = self._before[0], None

    def note(
        self, reads: int, read_bytes: int, seconds: float, call_bytes: float = CALL_BYTES
    ) -> None:
        """Take in one observation at the present width: what came back in how much busy time.

        `call_bytes` is how many bytes cost as much as a call: small reads and big ones that come
        one after the other are no reason to change the width.
        """
        if seconds > 0:
            seen = _Seen(reads / seconds, read_bytes / seconds)
            before = None if self._before is None else self._before[1]
            if before is not None:
                if not (self._went_back or seen.resembles(before)):
                    self._go_back()
                    return
                self._went_back = False
            gain = 0.0 if before is None else seen.gain(before, call_bytes)
            if not self._settled:
                self._climb(seen, gain)
            else:
                self._probe(seen, gain)

    def _go_back(self) -> None:
        """Reads of another size say nothing about the width: begin anew at the one before.

        But not twice in a row: where sizes take turns, they have to be compared by their worth.
        """
        assert self._before is not None
        self.target, self._before, self._went_back = self._before[0], None, True

    def _climb(self, seen: _Seen, gain: float) -> None:
        if self._before is not None and gain < _CLIMB_GAIN:
            self.target = self.target if gain > _PROBE_GAIN else self._before[0]
            self._settled, self._before = True, None
        elif self.target >= self._width_max:
            self._settled, self._before = True, None
        else:
            self._before = (self.target, seen)
            self.target = min(self.target * 2, self._width_max)

    def _probe(self, seen: _Seen, gain: float) -> None:
        if self._before is None:
            self._observed += 1
            if self._observed < _PATIENCE:
                return
            self._observed = 0
            self._before = (self.target, seen)
            step = max(1, self.target // 2) * self._direction
            self.target = min(max(1, self.target + step), self._width_max)
            return
        width = self._before[0]
        up = self.target > width
        if gain < (_PROBE_GAIN if up else _PROBE_LOSS):
            self.target = width
            self._direction = -self._direction
        elif up:
            self._observed = _PATIENCE  # it was too low: on at once
        self._before = None


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before anything was seen: a warm page cache."""

    call_seconds: float = 2e-6
    byte_seconds: float = 1.3e-10


# And of a volume whose first reads made their callers wait: a gigabyte a second, a millisecond's
# wait shared by a dozen reads.
WAITING = Prior(8e-5, 1e-9)


class Costs:
    """Seconds a call and seconds a byte, by least squares."""

    _KEEP = 0.9

    def __init__(self, prior: Prior | None = None) -> None:
        prior = prior or Prior()
        self.call_seconds = prior.call_seconds
        self.byte_seconds = prior.byte_seconds
        self._ratio = prior.call_seconds / prior.byte_seconds
        # Sums over observations: reads^2, reads*bytes, bytes^2, reads*seconds, bytes*seconds.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def note(self, reads: int, read_bytes: int, seconds: float) -> None:
        """Take in one stretch of reading; bytes are counted in units of the prior's gap."""
        if not reads or seconds <= 0:
            return
        # Every stretch weighs the same, however long it is.
        n, b, t = reads / seconds, read_bytes / self._ratio / seconds, 1.0
        new = (n * n, n * b, b * b, n * t, b * t)
        self._sums = tuple(  # type: ignore[assignment]
            old * self._KEEP + fresh for old, fresh in zip(self._sums, new, strict=True)
        )
        self._fit()

    def _fit(self) -> None:
        nn, nb, bb, nt, bt = self._sums
        # The ridge pulls both costs towards the same value, which is the prior's ratio.
        scale = (nt + bt) / (nn + 2 * nb + bb)
        ridge = 0.002 * (nn + bb)
        nn, bb = nn + ridge, bb + ridge
        nt, bt = nt + ridge * scale, bt + ridge * scale
        determinant = nn * bb - nb * nb
        if determinant <= 0:
            return
        call = (nt * bb - bt * nb) / determinant
        unit = (bt * nn - nt * nb) / determinant
        floor = scale * 1e-3
        self.call_seconds = max(call, floor)
        self.byte_seconds = max(unit, floor) / self._ratio

    @property
    def gap_bytes(self) -> float:
        """The gap whose bytes take as long as a call."""
        return self.call_seconds / self.byte_seconds
