"""Those who carry bytes out of the lake while others change it: an export, and a feed; and one who
brings back what was moved to another lake.

Whatever they are given must be what their snapshot shows, to the byte; a feed that goes on later,
in another process and from a newer snapshot, misses nothing and repeats nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

from lakefeed import Feed, FeedOptions, Lake
from lakefeed.adapters.fsspec.local import store
from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import Kind, rows_from_table
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import export
from tests.survival.oracle import Model, shown
from tests.survival.world import LONG_SECONDS, MANUAL, ROUNDS, World


def bring_out(here: World, actor: str) -> None:
    """Export the newest snapshot, each time to a new directory."""
    with here.open(actor) as lake:
        for round_ in range(ROUNDS):
            pin = lake.pin(holder=actor, lifetime_seconds=LONG_SECONDS * 1000)
            snapshot = lake.snapshot(pin.snapshot)
            wanted = shown(snapshot, here.damaged)
            place = here.home / f"out {round_}"
            done = export(snapshot, DirectoryTarget(place))
            named = {problem.path for problem in done.problems}
            assert done.errors == len(named)
            _check_tree(place, wanted, named, {crc for _, crc in here.damaged})
            lake.refs.unpin(pin)


def _check_tree(place: Path, wanted: Model, named: set[str], damaged: set[int]) -> None:
    """Compare files with what the snapshot shows: all are there but those that were `named`."""
    files = {path: facts for path, facts in wanted.items() if facts.kind is Kind.FILE}
    for path, facts in files.items():
        if path in named:
            shadowed = any(f"{other}/".startswith(f"{path}/") for other in files if other != path)
            below = any(f"{path}/".startswith(f"{other}/") for other, one in wanted.items()
                        if other != path and one.kind is not Kind.DIR)  # fmt: skip
            assert shadowed or below or facts.crc32c in damaged, f"{path} was not exported"
        else:
            data = (place / path).read_bytes()
            assert (len(data), crc32c(data)) == (facts.size, facts.crc32c), f"{path} exported"
    there = {os.path.relpath(os.path.join(above, name), place)
             for above, _, names in os.walk(place) for name in names}  # fmt: skip
    assert there <= {path for path, facts in wanted.items() if facts.kind is not Kind.DIR}


def copy_in(here: World, actor: str) -> None:
    """Copy files of the other lake, while others move more there, as `cp` does."""
    numbers = here.dice(actor)
    for _ in range(ROUNDS):
        with here.open(actor) as lake, here.open_away(actor) as away:
            snapshot = away.snapshot()
            rows = [row for table in snapshot.scan() for row in rows_from_table(table)]
            with lake.writer(MANUAL, operation="cp") as writer:
                for row in numbers.sample(rows, min(len(rows), 2)):
                    store(writer, f"back/{row.path}", (snapshot, row), row.mtime_ns)


def feed_on(here: World, actor: str) -> None:
    """Serve an epoch in parts, each from the newest snapshot that has the same files, else from the
    first one. A part is served in one step: a feed has threads of its own."""
    numbers = here.dice(actor)
    options = FeedOptions(batch_size=numbers.choice((1, 3)), seed=numbers.randrange(9),
                          shuffle=numbers.choice(("global", "runs=2", None)),
                          on_corrupt="skip")  # fmt: skip
    with here.open(actor) as lake:
        pin = lake.pin(holder=actor, lifetime_seconds=LONG_SECONDS * 1000)
        model = shown(lake.snapshot(pin.snapshot), here.damaged)
        files = {path: facts for path, facts in model.items() if facts.kind is Kind.FILE}
        got: Counter[str] = Counter()
        state = None
        while files:
            part, state = _serve_part(here, pin.snapshot, options, state, numbers.randint(1, 3))
            for path, checksum in part:
                assert checksum in (files[path].crc32c, None), f"{path} was served otherwise"
            got.update(path for path, _ in part)
            if state is None:
                break
            lake.log.head()  # others go on here
        assert got == Counter(dict.fromkeys(files, 1))


def _serve_part(
    here: World, first: int, options: FeedOptions, state: object, batches: int
) -> tuple[list[tuple[str, int | None]], object]:
    """Return paths and checksums of the next batches, and where to go on; None at the end."""
    with Lake.open(here.volume) as lake:
        for at in (None, first):
            try:
                with Feed(lake.snapshot(at), "", options) as feed:
                    if state is not None:
                        feed.restore(state)  # type: ignore[arg-type]
                    elif at is None:
                        continue
                    return _served(feed, batches, here)
            except (Invalid, NotFound, SnapshotExpired):
                if at is not None:
                    raise
    raise AssertionError("no snapshot to serve")


def _served(feed: Feed, batches: int, here: World) -> tuple[list[tuple[str, int | None]], object]:
    found: list[tuple[str, int | None]] = []
    state: object = None
    for batch in islice(feed, batches):
        data = memoryview(batch.data)
        ends = batch.splits.tolist()
        sums = [crc32c(data[a:b]) for a, b in pairwise(ends)]
        found += zip(batch.paths, sums, strict=True)
        assert not batch.corrupt or here.damaged
        found += ((path, None) for path in batch.corrupt)
        state = batch.state
    is_over = feed.state()["epoch"] != 0
    return found, None if is_over or state is None else state
