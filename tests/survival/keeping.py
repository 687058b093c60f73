"""One who keeps snapshots by pins that are renewed, and a disk that damages payloads meanwhile."""

from __future__ import annotations

from lakefeed import Lake
from lakefeed.errors import Corrupt, SnapshotExpired
from lakefeed.format.rows import Kind, Row, rows_from_table
from lakefeed.lake import layout
from lakefeed.lake.refs import Pin
from lakefeed.lake.scrub import Scrubbed, ScrubOptions, scrub
from lakefeed.lake.snapshot import Snapshot
from tests.survival.oracle import Model, shown
from tests.survival.world import ROUNDS, World

# Some dozen files are made in it, and the server's clock may be set beyond it at any time.
LIFETIME_SECONDS = 60
# Until the damage comes.
LOOKS_MAX = 80


def hold_on(here: World, actor: str) -> None:
    """Keep snapshots by pins that are renewed: they are there until the server's clock has said
    that a pin ran out."""
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for _ in range(ROUNDS):
            number = numbers.randint(here.base_number, lake.snapshot().number)
            asked = here.clock.asked
            try:
                pin = lake.pin(number, holder=actor, lifetime_seconds=LIFETIME_SECONDS)
            except SnapshotExpired:
                continue
            first: Model | None = None
            for _ in range(numbers.randint(1, 5)):
                try:
                    found = shown(lake.snapshot(number), here.damaged)
                    renewed = lake.renew(pin, LIFETIME_SECONDS)
                except SnapshotExpired:
                    _check_over(here, pin, asked)
                    break
                assert first in (None, found), f"pinned {number}"
                first, pin = found, renewed
            lake.refs.unpin(pin)


def _check_over(here: World, pin: Pin, asked: int) -> None:
    latest_ns = here.clock.latest_since(asked)
    assert latest_ns >= pin.expires_ns, f"pinned {pin.snapshot} until {pin.expires_ns}"


def rot(here: World, actor: str) -> None:
    """Damage a payload of the newest snapshot, in the middle of everything."""
    numbers = here.dice(actor)
    with here.open(actor) as lake:
        for _ in range(numbers.randint(1, LOOKS_MAX)):
            lake.log.head()
        snapshot = lake.snapshot()
        try:
            rows = [row for table in snapshot.scan() for row in rows_from_table(table)]
        except SnapshotExpired:
            return
        held = [row for row in rows if row.kind is Kind.FILE and row.length]
        if held:
            row = numbers.choice(held)
            path, at = layout.pack_path(row.pack), row.offset + numbers.randrange(row.length)
            here.damaged.add((row.size, row.crc32c))
            here.volume.rot(path, at)


def check_scrubbed(here: World, lake: Lake) -> None:
    """Whatever of the newest snapshot cannot be read is named by who looks at all payloads."""
    done = scrub(lake, ScrubOptions(restart=True))
    check_named(here, done)
    snapshot = lake.snapshot()
    rows = {row.path: row for table in snapshot.scan() for row in rows_from_table(table)}
    damaged = {_place(row) for row in rows.values()
               if (row.size, row.crc32c) in here.damaged and not _reads(snapshot, row)}  # fmt: skip
    # A payload that several paths read is named once.
    named = {_place(rows[one.path]) for one in done.damaged if one.path in rows}
    assert damaged <= named, f"scrub names {done.damaged}, of {damaged}"


def check_named(here: World, done: Scrubbed) -> None:
    """Nothing is named that was not damaged; by its bytes, as a file may have another name now."""
    damaged = {f"{size} bytes with checksum {crc:08x}" for size, crc in here.damaged}
    # What is no frame any more does not come to have bytes.
    damaged |= {"a zstd frame"} if damaged else set()
    assert {one.expected for one in done.damaged} <= damaged


def _place(row: Row) -> tuple[str, int]:
    return row.pack, row.offset


def _reads(snapshot: Snapshot, row: Row) -> bool:
    try:
        snapshot.read_row(row)
    except Corrupt:
        return False
    return True
