"""How near does the feed come to what the volume and the machine allow?

Expected, on two cores. `img` (110 kB): a page cache gives a core some 4 GB/s, a checksum costs a
fifth of that, so 0.8 of the limit. `tiny` (2 to 6 KiB) by runs: whole stretches are read at
once, each sample into its place, and verified by the batch: half the limit.
`tiny` globally shuffled: a call for each sample, so the interpreter is the limit. `far` and `nas`:
calls in flight decide, and what can share one.

The limit is what a careful person writes by hand for one data set: a thread pool over packs whose
places are known, reads of up to 2 MiB of neighbours in place order inside a window of 128 MiB,
views of the samples, no checksum, nothing resumable. Every row gives both, their ratio, processor
seconds for a million samples and the peak of resident memory; each runs in a process of its own, in
turns. `far` (1 ms added to every open and read) and `nas` (1 ms a call, at most 5,000 calls/s and
1 GB/s) are simulated by `lakefeed.bench.emulation`; cold means that the page cache was dropped.

    python -m benchmarks.feed_core [--small] [--seconds 3] [--repeats 3] [--dir DIR] [--only tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import harness
from lakefeed import Lake, WriterOptions


@dataclass(frozen=True, slots=True)
class Kind:
    """A data set: how many files of which sizes, and how many make a batch."""

    files: int
    low: int
    high: int
    batch: int


KINDS = {
    "tiny": Kind(300_000, 2048, 6144, 256),
    "img": Kind(20_000, 80_000, 140_000, 64),
    "big": Kind(1_000, 2_000_000, 3_000_000, 8),
}
SMALL = {"tiny": 40_000, "img": 2_000, "big": 80}
# (data set, state of the volume, shuffle)
CELLS = [
    ("tiny", "warm", "runs=64"),
    ("tiny", "warm", "runs=8"),
    ("tiny", "warm", "global"),
    ("tiny", "cold", "runs=64"),
    ("tiny", "far", "runs=64"),
    ("tiny", "nas", "runs=64"),
    ("tiny", "nas", "global"),
    ("img", "warm", "global"),
    ("img", "cold", "global"),
    ("img", "far", "global"),
    ("img", "nas", "global"),
    ("img", "nas", "runs=8"),
    ("big", "warm", "global"),
    ("big", "cold", "global"),
    ("big", "nas", "global"),
]


def build(where: Path, kind: Kind, files: int) -> None:
    """Make a lake of unique incompressible files, its index one run."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(kind.low, kind.high, files).tolist()
    with Lake.create(where) as lake:
        with lake.writer(WriterOptions(flush_bytes=256 << 20, flush_files=1 << 20)) as writer:
            for number, size in enumerate(sizes):
                writer.put(f"c{number % 100:02d}/{number:07d}", rng.bytes(size))
        lake.merge_index(everything=True)


def measure(name: str, where: Path, cell: tuple[str, str, str], seconds: float) -> dict[str, float]:
    """Run one contestant of one cell in a fresh process."""
    kind, state, shuffle = cell
    if state == "cold" and not harness.drop_caches():
        raise SystemExit("cold cells need the right to drop the page cache")
    code = "from benchmarks.feed_contestants import main; main()"
    arguments = [name, str(where), state, shuffle, str(KINDS[kind].batch), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def main() -> None:
    """Run every cell, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a minute, to see that it works")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    if options.small:
        options.seconds, options.repeats = 0.7, 1
    cells = [cell for cell in CELLS if options.only in " ".join(cell)]
    results = []
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        for kind in dict.fromkeys(cell[0] for cell in cells):
            where = Path(scratch) / kind
            files = SMALL[kind] if options.small else KINDS[kind].files
            build(where, KINDS[kind], files)
            os.sync()
            for cell in [cell for cell in cells if cell[0] == kind]:
                results.append(_cell(where, cell, options.seconds, options.repeats))
                print(*results[-1].values(), sep="\t", flush=True)
            shutil.rmtree(where)
    headings = list(results[0])
    print(harness.table(headings, [list(row.values()) for row in results]))
    result = {"cells": results, "seconds": options.seconds, "small": options.small,
              "simulated": ["far", "nas"]}  # fmt: skip
    name = "feed_core_small" if options.small else "feed_core"
    print(harness.save(name, result))


def _cell(
    where: Path, cell: tuple[str, str, str], seconds: float, repeats: int
) -> dict[str, object]:
    runs: dict[str, list[dict[str, float]]] = {"limit": [], "feed": []}
    for _ in range(repeats):
        for name, found in runs.items():
            found.append(measure(name, where, cell, seconds))

    def median(name: str, fact: str) -> float:
        return statistics.median(run[fact] for run in runs[name])

    limit, feed = median("limit", "samples_per_second"), median("feed", "samples_per_second")
    return {
        "cell": " ".join(cell) + (" (simulated)" if cell[1] in ("far", "nas") else ""),
        "limit samples/s": round(limit),
        "feed samples/s": round(feed),
        "ratio": round(feed / limit, 2),
        "feed MB/s": round(median("feed", "bytes_per_second") / 1e6),
        "limit CPU s/M": round(median("limit", "cpu_per_million"), 2),
        "feed CPU s/M": round(median("feed", "cpu_per_million"), 2),
        "first batch s": round(median("feed", "first_seconds"), 3),
        "limit peak MB": round(median("limit", "peak_mb")),
        "feed peak MB": round(median("feed", "peak_mb")),
        "amplification": round(median("feed", "amplification"), 2),
        "reads in flight": round(median("feed", "workers")),
    }


if __name__ == "__main__":
    main()
