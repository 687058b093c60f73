"""Packs that may be all that is left of commits which are lost: no garbage, whatever their age.

What no commit names is garbage of writers that died, as long as the log is whole. Where commits are
missing, `repair --log` needs those packs, and the segments, which tell their order. That commits
are missing show:

1. the log, if any of it lies behind the place where it ends now: there is a gap;
2. a pack, if its writer saw a later snapshot than the newest, or if there is no commit at all. All
   that no commit names stay until the log has come that far again, as in a copy whose packs are
   newer than its log. What a commit did name was given up since, and is garbage there as well.

Reads the footers of packs that no commit since the horizon names, and where commits are missing
those before it. Changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress

from lakefeed.errors import Corrupt, NotFound
from lakefeed.format.commit import State
from lakefeed.lake import layout
from lakefeed.lake.findings import Progress
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Log
from lakefeed.lake.presence import base_of
from lakefeed.volume.base import Volume

_logger = logging.getLogger(__name__)


def listed_end(volume: Volume) -> int:
    """Return the highest number that a commit or a checkpoint has."""
    names = [entry.name for entry in volume.list(layout.LOG)]
    parsed = [parse(name) for name in names
              for parse in (layout.parse_commit, layout.parse_checkpoint)]  # fmt: skip
    return max((number for number in parsed if number is not None), default=0)


def refuse_gap(volume: Volume, listed: int, number: int) -> None:
    """Raise Corrupt where the log was `listed` to reach beyond its newest snapshot."""
    if listed > number:
        raise Corrupt(f"log of {volume.name}", expected=f"commits without a gap up to {listed}",
                      found=f"none after {number}",
                      hint='nothing was deleted; run "lakefeed fsck"')  # fmt: skip


def refuse_hidden(log: Log, number: int) -> None:
    """Raise Corrupt where a damaged commit follows snapshot `number`: its packs are no garbage."""
    try:
        log.read(number + 1)
    except NotFound:
        return


def kept_for_repair(
    lake: Lake, paths: Iterable[str], head: State, told: Progress
) -> frozenset[str]:
    """Return what stays of these packs and segments, which no commit since the horizon of `head`
    names, and warn of it: `lost_packs` and, where there are any, all segments, but for what a
    commit before the horizon names."""
    paths, number = frozenset(paths), head.number
    packs = frozenset(filter(layout.is_pack, paths))
    found = lost_packs(lake.volume, packs, number, told)
    if found:
        found = (found | paths - packs) - _named_before(lake.log, head.horizon, told)
    if found:
        _logger.warning(
            "%d files that no commit names stay, %s for one: there were more commits than the %d "
            "that there are, or a writer died before the first; was a part of the log lost?",
            len(found), max(found), number,
        )  # fmt: skip
    return found


def _named_before(log: Log, horizon: int, told: Progress) -> set[str]:
    """Return the paths of what the commits up to the horizon name, as far as they can be read:
    garbage collection needs none of it."""
    named: set[str] = set()
    for number in range(1, horizon + 1):
        told("reading the older log", number, horizon)
        with suppress(Corrupt, NotFound):
            changes = log.read(number).changes
            named.update(layout.pack_path(pack.id) for pack in changes.add_packs)
            named.update(layout.segment_path(segment.id) for segment in changes.add_segments)
    return named


def lost_packs(
    volume: Volume, paths: Collection[str], number: int, told: Progress
) -> frozenset[str]:
    """Return those packs of which commits behind the newest snapshot, `number`, may have told: all
    that are complete, or none where nothing shows that there were any."""
    bases: dict[str, int] = {}
    for done, path in enumerate(paths, 1):
        told("reading packs that no commit names", done, len(paths))
        base = base_of(volume, path)
        if base is not None:
            bases[path] = base
    lost = not number or max(bases.values(), default=0) > number
    return frozenset(bases) if lost else frozenset()
