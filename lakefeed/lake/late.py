"""Packs that were finished before the newest commit that is known, and committed behind it.

Writers overlap: one finishes its pack, another's commit comes first. Where the log lost its end,
the first one's commit is lost, and its pack is older than what is known. Such a pack

1. is named by none of the commits from what its writer saw up to the newest that is known, all of
   which can be read;
2. is younger than the grace of garbage collection was at the time of that one: no writer waits for
   longer;
3. has no path that a later pack has: whoever died before a commit is run again, and writes them.

Those of compaction are none: what they moved is still there, and its tombstones may be gone. Reads;
changes nothing.
"""

from __future__ import annotations

from contextlib import suppress

from lakefeed.errors import Corrupt, NotFound
from lakefeed.format.commit import State
from lakefeed.lake.evidence import Evidence, look_for_repeated
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.garbage import GRACE_SECONDS
from lakefeed.lake.log import Log


def late_packs(log: Log, files: OpenFiles, known: State, packs: list[Evidence]) -> set[str]:
    """Return the ids of those packs that may have been committed behind what is known."""
    old_ns = known.time_ns - int(GRACE_SECONDS * 1e9)
    some = [pack for pack in packs if pack.implied and pack.sealed.id not in known.packs
            and old_ns < pack.mtime_ns <= known.time_ns]  # fmt: skip
    some = _named_by_none(log, known.number, some)
    if not some:
        return set()
    first = min(pack.order for pack in some)
    ids = {pack.sealed.id for pack in some}
    later = [pack for pack in packs if pack.order > first and pack.sealed.id not in ids]
    return ids - look_for_repeated(files, some, later)


def _named_by_none(log: Log, newest: int, packs: list[Evidence]) -> list[Evidence]:
    """Return those packs that no commit names, as far as all are there that could."""
    number, named = newest, set[str]()
    oldest = min((pack.base for pack in packs), default=newest)
    with suppress(Corrupt, NotFound):
        while number > oldest:
            named.update(pack.id for pack in log.read(number).changes.add_packs)
            number -= 1
    return [pack for pack in packs if pack.base >= number and pack.sealed.id not in named]
