"""Is a training that stopped anywhere, and goes on with other ranks, given every sample once?

Expected: yes, always. The order is a function of the position, and the position counts samples of
all ranks together (I8), so there is nothing that could be lost with a buffer or a worker. The table
has a row for each number of ranks before the stop and a column for each behind it; every cell sums
over the stop points: samples repeated / samples missing. A stop point is a random number of steps
of a random shuffle and seed. All ranks must also save the same state, of at most 200 bytes.

    python -m benchmarks.resume [--small] [--stops 50] [--files 509]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from benchmarks import harness
from lakefeed import Lake
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.selection import Selection, resolve
from lakefeed.lake.snapshot import Snapshot

WORLDS = (1, 2, 3, 4, 8)
TOGETHER = 24  # samples of a step, all ranks together: every world size divides it
SHUFFLES = ("global", "runs=8", "runs=64", None)


@dataclass(frozen=True, slots=True)
class Data:
    """What is served."""

    snapshot: Snapshot
    selection: Selection


def served(
    data: Data, options: FeedOptions, state: str | None, steps: int | None
) -> tuple[Counter[bytes], str]:
    """Return what all ranks get from a state on, in `steps` steps or to the end, and their state.

    Every payload is its own number, so what is counted are the bytes that came, not the plan.
    """
    seen: Counter[bytes] = Counter()
    states = set()
    for rank in range(options.world_size):
        mine = replace(options, rank=rank, batch_size=TOGETHER // options.world_size)
        with Feed(data.snapshot, data.selection, mine) as feed:
            if state is not None:
                feed.restore(json.loads(state))
            for batch in feed if steps is None else islice(feed, steps):
                seen.update(bytes(view) for view in batch.views()[: batch.real])
            states.add(json.dumps(feed.state()))
    (one,) = states
    return seen, one


def table(data: Data, count: int, stops: int) -> dict[str, object]:
    """Return repeated and missing samples for every pair of world sizes, and the largest state."""
    chance = random.Random(17)
    wrong = {f"{before} -> {behind}": [0, 0] for before in WORLDS for behind in WORLDS}
    largest = 0
    for stop in range(stops):
        shuffle, seed = SHUFFLES[stop % len(SHUFFLES)], chance.randrange(1 << 32)
        steps = chance.randrange(1, count // TOGETHER)
        options = FeedOptions(shuffle=shuffle, seed=seed, memory_bytes="16MiB")
        for before in WORLDS:
            seen, state = served(data, replace(options, world_size=before), None, steps)
            largest = max(largest, len(state))
            for behind in WORLDS:
                rest, _ = served(data, replace(options, world_size=behind), state, None)
                times = seen + rest
                cell = wrong[f"{before} -> {behind}"]
                cell[0] += times.total() - len(times)
                cell[1] += count - len(times)
    return {"repeated and missing": wrong, "largest state, bytes": largest}


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="three stop points")
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--files", type=int, default=509)
    options = parser.parse_args()
    stops = 3 if options.small else options.stops
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, Lake.create(Path(scratch) / "lake") as lake:
        with lake.writer() as writer:
            for number in range(options.files):
                writer.put(f"{number:06d}", b"%d" % number)
        lake.merge_index(everything=True)
        snapshot = lake.snapshot()
        facts = table(Data(snapshot, resolve(snapshot, "")), options.files, stops)
    wrong: dict[str, list[int]] = facts["repeated and missing"]  # type: ignore[assignment]
    rows = [
        [f"{before} ranks", *("{} / {}".format(*wrong[f"{before} -> {after}"]) for after in WORLDS)]
        for before in WORLDS
    ]
    print(harness.table(["repeated / missing", *(f"on {after}" for after in WORLDS)], rows))
    resumes = stops * len(WORLDS) ** 2
    facts |= {"stop points": stops, "resumes": resumes, "files": options.files,
              "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
    print(harness.save("resume_small" if options.small else "resume", facts))


if __name__ == "__main__":
    main()
