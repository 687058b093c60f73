"""fsck: is the lake what its log says, down to every row, and on request down to every byte?

1. The log is whole, and checkpoints equal the commits they stand for (`check_log`).
2. Every pack and segment of the snapshot is the file its commit recorded (`check_files`).
3. Together they give one clear view, the one that the packs alone give (`check_view`).
4. With `deep`, every live payload has its checksum (`check_payloads`).
5. Tags and pins name snapshots that are whole (`check_refs`).
6. Files that no commit names are counted: they are work for garbage collection, not damage; but
   complete packs where there is no commit at all are what a lost log leaves, or a first writer.
   Packs whose writers saw later commits than there are, are counted as well: a log that lost its
   end leaves them, and so does a copy that was made beside writers.

Re-verifies I1, I2, I3, I5 and I7 and changes nothing, so it runs on a read-only volume and beside
writers. Never stops at a finding; a volume that cannot be read is VolumeFailed, as anywhere. It
opens every file anew, so what a cache still holds does not hide what the volume lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from lakefeed.errors import Corrupt, SnapshotExpired
from lakefeed.format.commit import State
from lakefeed.lake import layout
from lakefeed.lake.catalogue import Catalogue, pack_source, sources_of
from lakefeed.lake.check_files import FileCheck
from lakefeed.lake.check_log import LogChecked, check_log
from lakefeed.lake.check_payloads import PayloadCheck
from lakefeed.lake.check_refs import check_refs
from lakefeed.lake.check_view import ViewCheck, check_order
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import Collector, Progress, Report, silent
from lakefeed.lake.garbage import stored_files
from lakefeed.lake.lake import Lake
from lakefeed.lake.lost import lost_packs
from lakefeed.lake.scan import scan

# Everything is read once, in order: keeping more of it would help nothing.
_CACHE_BYTES = 32 << 20


def check(
    lake: Lake,
    snapshot_at: int | str | None = None,
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Return everything that is wrong with the log and with one snapshot (default: the newest).

    NotFound or SnapshotExpired for a snapshot that is not there. VolumeFailed when the volume
    cannot be read: then nothing is known.
    """
    show = progress or silent
    found = Collector()
    log = check_log(lake.volume, found, show)
    _count_orphans(lake, log, found, show)
    try:
        state = lake.snapshot(snapshot_at).state
    except Corrupt as error:
        # Most often step 1 has named the damaged commit that hides every snapshot after it.
        if not found.total:
            found.add_error("ref", error)
        return found.report(0, deep)
    if log.state is not None and log.state.number == state.number and log.state != state:
        found.add("log", f"snapshot {state.number}", "the state that all commits give", "another")
    check_refs(lake, state, found)
    files = OpenFiles(lake.volume)
    try:
        _check_state(lake, files, state, (deep, found, show))
    finally:
        files.close()
    return found.report(state.number, deep)


def _check_state(
    lake: Lake, files: OpenFiles, state: State, job: tuple[bool, Collector, Progress]
) -> None:
    deep, found, show = job
    catalogue = Catalogue(files, _CACHE_BYTES)
    before = found.total
    index = FileCheck(files, catalogue, state)
    index.run(found, show)
    check_order(state, found)
    if found.total > before:
        _refuse_expired(lake, state)
    if not index.damaged:
        ViewCheck(catalogue, state).run(found, show)
    if deep:
        payloads = PayloadCheck(files, state, index.damaged)
        payloads.run(_live_rows(catalogue, state, index.damaged), found, show)


def _live_rows(catalogue: Catalogue, state: State, damaged: set[str]) -> Iterator[pa.Table]:
    """Yield the snapshot's rows; where index files are damaged, what the sound packs still say."""
    if not damaged:
        return scan(catalogue, sources_of(state))
    sound = [info for id_, info in state.packs.items() if id_ not in damaged]
    sources = sorted(map(pack_source, sound), key=lambda source: (-source.seq_max, source.first))
    return scan(catalogue, sources)


def _refuse_expired(lake: Lake, state: State) -> None:
    """Tell a damaged snapshot from one that garbage collection removed during the check."""
    head = lake.log.head()
    if state.number < head.horizon and state.number not in lake.kept():
        raise SnapshotExpired(
            f"snapshot {state.number} of {lake.name}",
            found="garbage collection gave it up during the check",
            hint="check a newer one",
        )


def _count_orphans(lake: Lake, log: LogChecked, found: Collector, show: Progress) -> None:
    orphans = [path for path in stored_files(lake.volume) if layout.id_of(path) not in log.named]
    found.count("orphans", len(orphans))
    if not orphans or "log" in found.kinds:
        return  # what is wrong with the log explains them
    # Asked after the listing: who wrote what is listed saw no later commit than this one.
    number = lake.log.head().number
    lost = lost_packs(lake.volume, orphans, number, show)
    if lost and not number:
        found.add("log", f"log of {lake.name}", f"the commits of {len(lost)} packs",
                  "no commit", 'if it was not lost, a writer has not made the first one yet, '
                  'or died before; else, with nobody at work, run "lakefeed repair --log"',
                  )  # fmt: skip
    found.count("ahead", len(lost) if number else 0)
