"""How soon is the first batch there, and how much memory does a feed take, as the lake grows?

Expected: opening reads a footer, the first globally shuffled batch decodes the groups that its
samples lie in (with a million files all 122 of them, some 150 ms of a processor), and the table of
places takes 16 bytes for each file of the groups that were touched. So seconds and resident memory
hardly depend on the number of files: 16 MB at a million. The budget of 16 MiB is small, so that the
buffers are the same in every row. Each row is a fresh process, imports included in the peak but not
in the seconds; `plain` is the interpreter with the libraries loaded; medians of `--repeats`.

    python -m benchmarks.feed_open [--small] [--files 10000,100000,1000000] [--dir DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks import harness
from lakefeed import Lake, WriterOptions

CODE = """
import sys, time
from lakefeed.feed.feed import Feed, FeedOptions
import pyarrow, pyarrow.compute, pyarrow.parquet, numpy
batches = int(sys.argv[2])
facts = {}
if batches:
    start, cpu = time.perf_counter(), time.process_time()
    options = FeedOptions(256, sys.argv[3], epochs=None, memory_bytes="16MiB")
    with Feed(sys.argv[1], "", options) as feed:
        first = next(feed)
        facts["first_batch_seconds"] = time.perf_counter() - start
        facts["first_batch_cpu_seconds"] = time.process_time() - cpu
        facts["files"] = len(feed.selection)
        for _ in range(batches):
            next(feed)
"""


def build(where: Path, files: int) -> None:
    """Make a lake of small files, its index one run."""
    noise = os.urandom(1 << 20)
    with Lake.create(where) as lake:
        with lake.writer(WriterOptions(flush_files=200_000)) as writer:
            for number in range(files):
                start = number * 131 % (1 << 19)
                writer.put(f"c{number % 1000:03d}/{number:08d}.bin", noise[start : start + 400])
        lake.merge_index(everything=True)


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--files", default="10000,100000,1000000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    sizes = [2000, 10_000, 50_000] if options.small else [int(n) for n in options.files.split(",")]
    plain = harness.in_fresh_process(CODE, "", "0", "")
    rows = [["plain", "", "", "", str(round(plain["peak_mb"]))]]
    facts: dict[str, object] = {"plain_peak_mb": plain["peak_mb"]}
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        for files in sizes:
            where = Path(scratch) / str(files)
            build(where, files)
            for shuffle in ("global", "runs=64"):
                runs = [
                    harness.in_fresh_process(CODE, str(where), "200", shuffle)
                    for _ in range(options.repeats)
                ]
                found = {
                    name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]
                }
                facts[f"{files} {shuffle}"] = found
                rows.append([f"{files:,}", shuffle, f"{found['first_batch_seconds']:.3f}",
                             f"{found['first_batch_cpu_seconds']:.3f}",
                             str(round(found["peak_mb"]))])  # fmt: skip
    print(harness.table(["files", "shuffle", "first batch s", "CPU s", "peak MB"], rows))
    print(harness.save("feed_open_small" if options.small else "feed_open", facts))


if __name__ == "__main__":
    main()
