"""What is done for a lake besides its inboxes: compaction, garbage collection, verification.

Each job is a plain function that blocks, asks its guard often whether to go on, and returns facts.
When, by whom and after which failure it is done again is left to `keeper`. What may be done once a
day or less often leaves a lease in the lake that ends when it does: so neither a daemon that starts
anew nor another replica puts it off, or does it twice, and what an interval is may change.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from lakefeed.errors import Conflict
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact, within
from lakefeed.lake.garbage import Collected, collect, orphans_of
from lakefeed.lake.lake import Lake
from lakefeed.lake.repacking import CopyOptions
from lakefeed.lake.scrub import Scrubbed, ScrubOptions, scrub
from lakefeed.service.options import ServiceOptions
from lakefeed.service.threads import Guard, Stopped, lower_priority
from lakefeed.service.window import Window

Rare = Literal["gc", "sweep", "scrub"]
Result = Literal["done", "nothing", "conflict", "damaged"]
# Unmerged packs each cost every look-up a probe; so many are worth a merge of their rows.
MERGE_FROM = 16
# The slow pass over all packs: once a day.
SWEEP_SECONDS = 24 * 3600.0
# Who has done a job, where the lake only says since when it waits for that.
NOBODY = "nobody yet"
WINDOW_RUN_BYTES = 4 << 30
# Of the time that is left in a window, at a rate: the rest is for the plan and the index, and for
# readers that the copying makes way for.
WINDOW_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class CompactionDone:
    """What one run of compaction did. `left` packs are worth another run."""

    result: Result
    read_bytes: int = 0
    written_bytes: int = 0
    left: int = 0
    damages: tuple[str, ...] = ()


def in_window(options: ServiceOptions) -> bool:
    """Tell whether compaction may run at this time of day."""
    return options.window is None or options.window.holds(datetime.now())


def run_compaction(lake: Lake, options: ServiceOptions, guard: Guard) -> CompactionDone:
    """Rewrite one run's share of what is worth it; Stopped when the guard says so.

    The thread that calls this goes on with low priority, and should end soon after.
    """
    lower_priority()

    def go_on(*_: object) -> None:
        guard.check()
        if not in_window(options):
            raise Stopped("the time of day for compaction is over")

    how = CopyOptions(rate_bytes=options.rate_bytes)
    before = _segment_bytes(lake)
    try:
        done = compact(lake, _share(options, how), how, go_on)
    except Conflict:
        return CompactionDone("conflict")
    if done.plan.empty and not done.damages:
        return CompactionDone("nothing")
    written = done.added_bytes + max(_segment_bytes(lake) - before, 0)
    damages = tuple(f"{damage.path} in pack {damage.pack}" for damage in done.damages)
    result: Result = "damaged" if damages else "done"
    if done.snapshot is None:
        # What could be moved is not worth it while damaged payloads stay where they are.
        return CompactionDone(result, done.payload_bytes, 0, 0, damages)
    return CompactionDone(result, done.payload_bytes, written, done.plan.left, damages)


def _share(options: ServiceOptions, how: CopyOptions) -> CompactionOptions:
    """Return what one run may take on: in a window little, and the next one comes soon."""
    if options.window is None:
        return options.compaction
    share = share_of(options.window, options.compaction, how, datetime.now())
    return replace(share, bytes_max=min(share.bytes_max, WINDOW_RUN_BYTES))


def share_of(
    window: Window, options: CompactionOptions, how: CopyOptions, now: datetime
) -> CompactionOptions:
    """Return what a run that begins now may take on to be done, at its rate, before the window
    closes, which would throw away what it has copied."""
    return within(options, how, window.left_seconds(now) * WINDOW_SHARE)


def merge_rows(lake: Lake, least: int) -> int:
    """Merge the rows of unmerged packs into segments; return the bytes written, 0 if not due."""
    head = lake.log.head()
    if sum(not info.indexed for info in head.packs.values()) < least:
        return 0
    before = set(head.segments)
    try:
        lake.merge_index()
    except Conflict:
        return 0
    segments = lake.log.head().segments
    return sum(segment.bytes for id_, segment in segments.items() if id_ not in before)


def _segment_bytes(lake: Lake) -> int:
    return sum(segment.bytes for segment in lake.log.head().segments.values())


def run_collection(
    lake: Lake, options: ServiceOptions, guard: Guard, orphans: bool
) -> tuple[Collected, int | None]:
    """Delete what no kept snapshot needs; return what was done, and the bytes of orphans left."""

    def go_on(stage: str, done: int, total: int) -> None:
        guard.check()

    collected = collect(lake, options.retention, orphans=orphans, progress=go_on)
    left_bytes = None
    if orphans:
        left_bytes = orphans_of(lake, go_on).bytes
        _note(lake, "sweep", options.name)
    _note(lake, "gc", options.name)
    return collected, left_bytes


def run_scrub(lake: Lake, options: ServiceOptions, guard: Guard) -> Scrubbed:
    """Verify payloads for a while, from where the last run ended; with low priority, too."""
    lower_priority()

    def go_on(done: int, total: int, verified_bytes: int) -> None:
        guard.check()

    how = ScrubOptions(max_seconds=options.scrub_seconds, rate_bytes=options.rate_bytes)
    scrubbed = scrub(lake, how, go_on)
    _note(lake, "scrub", options.name)
    return scrubbed


def rest_seconds(lake: Lake, job: Rare, options: ServiceOptions) -> float:
    """Return how long a job need not be done yet; 0: it is due. Whichever replica did it counts; in
    a lake where none ever did, the time begins now."""
    interval = {
        "gc": options.gc_interval_seconds,
        "sweep": SWEEP_SECONDS,
        "scrub": options.scrub_interval_seconds,
    }[job]
    lease = lake.leases.read(job)
    if lease is None:
        _note(lake, job, NOBODY)
        return interval
    ago_seconds = (lake.refs.server_time_ns() - lease.expires_ns) / 1e9
    # What ends in the future was noted by a clock that was wrong.
    return max(interval - ago_seconds, 0.0) if ago_seconds >= 0 else 0.0


def done_at(lake: Lake, job: Rare) -> tuple[float, bool] | None:
    """Return when a job was last done, by whichever replica, in seconds of the file server's clock,
    or, and False, since when the lake waits for that; None where nobody can tell. Writes nothing:
    it is asked of full volumes, too."""
    lease = lake.leases.read(job)
    if lease is None or not lease.holder:
        return None
    return lease.expires_ns / 1e9, lease.holder != NOBODY


def _note(lake: Lake, job: Rare, holder: str) -> None:
    with suppress(Conflict):  # another replica has just done it, too
        current = lake.leases.read(job)
        if current is not None and current.expires_ns > lake.refs.server_time_ns():
            # By a clock that was wrong: it would be due, and told to be just done, until then.
            lake.leases.renew(current, 0.0)
        lake.leases.acquire(job, holder, 0.0)
