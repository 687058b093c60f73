"""How well does each shuffle mix, and what does it cost in reads?

Expected: `global` is uniform and reads each sample by itself; `runs=K` needs about 1/K of the reads
and leaves traces of the path order: a sample's nearest neighbour by path is in the same window with
it, and some end up in one batch. Measured on the order itself, for classes that lie one behind the
other by path (the worst case for a batch), and on a real lake of tiny files for the reads.

- correlation: of position and path order (0 is uniform, 1 is none);
- neighbours: share of samples whose next file by path is in their batch (uniform: batch / count);
- classes: different classes in a batch, as a share of what a uniform draw has;
- between epochs: correlation of two epochs' orders (0 is uniform).

    python -m benchmarks.shuffle [--small] [--files 200000] [--dir DIR]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import harness
from lakefeed import Lake, WriterOptions
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.order import Shuffle

SHUFFLES = [None, "runs=512", "runs=64", "runs=64,window=0", "runs=8", "runs=8,window=0", "global"]
BATCH = 256
CLASSES = 1000


def quality(shuffle: str | None, count: int) -> dict[str, float]:
    """Return how far an epoch's order is from uniform."""
    parsed = Shuffle.parse(shuffle)
    one, other = (parsed.samples(np.arange(count), count, (7, epoch)) for epoch in (0, 1))
    place = np.empty(count, np.int64)
    place[one] = np.arange(count)
    whole = count // BATCH * BATCH
    classes = (one[:whole] * CLASSES // count).reshape(-1, BATCH)
    different = np.mean([len(np.unique(batch)) for batch in classes[:500]])
    uniform = CLASSES * (1 - (1 - 1 / CLASSES) ** BATCH)
    return {
        "correlation": round(float(abs(np.corrcoef(np.arange(count), one)[0, 1])), 4),
        "neighbours": round(float(np.mean(place[:-1] // BATCH == place[1:] // BATCH)), 4),
        "classes": round(float(different / uniform), 3),
        "between epochs": round(float(abs(np.corrcoef(one, other)[0, 1])), 4),
    }


def reading(where: Path, shuffle: str | None) -> dict[str, float]:
    """Return what one epoch costs in reads."""
    with Feed(where, "", FeedOptions(BATCH, shuffle)) as feed:
        samples = sum(len(batch) for batch in feed)
        stats = feed.stats()
    return {
        "reads/sample": round(stats.reads / samples, 3),
        "read amplification": round(stats.read_amplification, 2),
        "samples/s (warm)": round(stats.samples / stats.wall_seconds),
    }


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    files = 20_000 if options.small else options.files
    rng = np.random.default_rng(3)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        where = Path(scratch) / "lake"
        with Lake.create(where) as lake:
            with lake.writer(WriterOptions(flush_bytes=256 << 20, flush_files=1 << 20)) as writer:
                for number, size in enumerate(rng.integers(2048, 6144, files).tolist()):
                    writer.put(f"{number:08d}", rng.bytes(size))
            lake.merge_index(everything=True)
        for shuffle in SHUFFLES:
            measured = {**quality(shuffle, files), **reading(where, shuffle)}
            rows.append({"shuffle": shuffle or "None", **measured})
    print(harness.table(list(rows[0]), [list(row.values()) for row in rows]))
    name = "shuffle_small" if options.small else "shuffle"
    print(harness.save(name, {"files": files, "batch": BATCH, "rows": rows}))


if __name__ == "__main__":
    main()
