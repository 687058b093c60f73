"""Are the packs and segments still there that a commit is about to name?

Whoever was asleep since writing one, longer than the grace of garbage collection, comes too late:

1. it is deleted by now;
2. or it will be: a collection says in the log what it sweeps away before it looks at the log for
   the last time, so a commit behind that must not name it, although it is there still.

Clocks are set, and a collection may have gone by a wrong one. So a pack is swept only by commits
that its writer had not seen; one that is older than a sweep by its time alone is none of those that
were there. A segment does not say what its writer saw: it counts as there where the clock is back
before the sweep, and `lakefeed repair` writes it anew if that was wrong. Keeps I2. Reads; changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lakefeed.errors import Conflict, Corrupt, Invalid, NotFound
from lakefeed.format.columns import ColumnsReader
from lakefeed.format.commit import Changes, Commit, State
from lakefeed.format.pack import open_pack
from lakefeed.lake import layout
from lakefeed.lake.together import in_order
from lakefeed.volume.base import Volume


@dataclass(frozen=True, slots=True)
class Presence:
    """What can be told of files that a commit behind `state` is the first to name."""

    volume: Volume
    state: State
    read: Callable[[int], Commit]

    def check(self, changes: Changes, now_ns: int) -> None:
        """Raise Conflict where what `changes` add is deleted, or being deleted; `now_ns` is the
        file server's time."""
        packs = [layout.pack_path(pack.id) for pack in changes.add_packs]
        segments = [layout.segment_path(segment.id) for segment in changes.add_segments
                    if segment.id not in self.state.segments]  # fmt: skip
        paths = [*packs, *segments]
        times = dict(zip(paths, in_order(self._changed_ns, paths), strict=True))
        swept_ns = self.state.swept_ns
        old = {path: time for path, time in times.items() if time is not None and time <= swept_ns}
        gone = next((path for path in paths if times[path] is None), None)
        if gone is None and swept_ns < now_ns:
            gone = next((path for path in segments if path in old), None)
        gone = gone or self._swept({path: old[path] for path in packs if path in old})
        if gone is not None:
            raise Conflict(f"commit to {self.volume.name}", expected=gone, found="none",
                           hint="garbage collection took it, as it waited for so long; repeat",
                           )  # fmt: skip

    def _changed_ns(self, path: str) -> int | None:
        # Opening asks the server. A stat may be answered out of a cache of up to a minute ago, and
        # of any age in a machine that slept: its clocks stood still.
        try:
            with self.volume.open(path) as file:
                return file.stat().changed_ns
        except NotFound:
            return None

    def _swept(self, times: dict[str, int]) -> str | None:
        """Return one of some packs, with the time of each, that a commit behind what its writer
        saw sweeps away; None: there is none."""
        bases = {path: base_of(self.volume, path) or 0 for path in times}
        oldest = min(bases.values(), default=self.state.number)
        for number in range(self.state.number, oldest, -1):
            swept_ns = self.read(number).changes.swept_ns or 0
            for path, base in bases.items():
                if base < number and times[path] <= swept_ns:
                    return path
        return None


def base_of(volume: Volume, path: str) -> int | None:
    """Return the newest snapshot that a pack's writer saw, None for what is no complete pack."""
    try:
        with volume.open(path) as file:
            reader = ColumnsReader(file.read_at, file.size, path)
            open_pack(reader, layout.id_of(path), path)
            base = reader.meta.get("lakefeed.base", "")
    except (Corrupt, Invalid, NotFound):
        return None
    return int(base) if base.isdecimal() else None
