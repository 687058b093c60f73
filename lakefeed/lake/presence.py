"""Are the packs and segments still there that a commit is about to name?

Whoever was asleep since writing one, longer than the grace of garbage collection, comes too late:

1. it is deleted by now;
2. or it will be: a collection says in the log what it sweeps away before it looks at the log for
   the last time, so a commit behind that must not name it, although it is there still.

By a clock that went back since the collection all would seem to be swept: then the second is not
asked. Keeps I2. Reads; changes nothing.
"""

from __future__ import annotations

from functools import partial

from lakefeed.errors import Conflict, NotFound
from lakefeed.format.commit import Changes, State
from lakefeed.lake import layout
from lakefeed.lake.together import in_order
from lakefeed.volume.base import Volume


def check_there(volume: Volume, changes: Changes, state: State, now_ns: int) -> None:
    """Raise Conflict where what `changes` add to a state is deleted, or being deleted; `now_ns` is
    the file server's time."""
    paths = [layout.pack_path(pack.id) for pack in changes.add_packs]
    paths += [layout.segment_path(segment.id) for segment in changes.add_segments
              if segment.id not in state.segments]  # fmt: skip
    swept_ns = state.swept_ns if state.swept_ns < now_ns else 0
    found = in_order(partial(_is_there, volume, swept_ns), paths)
    gone = next((path for path, there in zip(paths, found, strict=True) if not there), None)
    if gone is not None:
        raise Conflict(f"commit to {volume.name}", expected=gone, found="none",
                       hint="garbage collection took it, as it waited for so long; repeat",
                       )  # fmt: skip


def _is_there(volume: Volume, swept_ns: int, path: str) -> bool:
    # Opened: what a stat says on NFS may be a minute old, and no clock goes on in a machine that
    # sleeps.
    try:
        with volume.open(path) as file:
            return not swept_ns or file.stat().changed_ns > swept_ns
    except NotFound:
        return False
