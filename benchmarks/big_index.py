"""How quick and how frugal is the offset index of a lake of 20 million files?

Expected: a merge reads, sorts and writes about half a million rows a second on one core, in some
hundred megabytes of memory, whatever the size of the lake. A look-up in a lake just opened decodes
one row group of 8192 rows in each level that may hold the path, a listing those of its directory.
A million rows stay decoded after that (100 bytes a row). Twenty million do not; of a lake that big
the rows are kept as addresses (29 bytes a row) once look-ups have decoded as much as there is, and
then look-ups of one path or of many take as long as with a million. Two things cannot be as quick:
the first batch of random paths in a lake just opened, which has to decode a group for each path, or
all of them, twenty times as many; and listing a directory that was not listed before, whose groups
are decoded, while those of a million rows all are already.

A lake that is written to has its rows in several runs, and a look at a place decodes a group of
each; `lakefeed merge --all` leaves one run, as the baseline has. Both are measured.

The rows are synthetic: real-looking paths, sizes, times and checksums, in packs that hold no
payloads. Each pack of 200,000 rows has files from everywhere (the worst case for merging), and the
index is merged after each 8 packs as a busy writer does. The baseline is the same with a million
rows, in the same run. Page cache: warm. "Just opened": by a process that has decoded nothing of
this lake so far. "Warm": after batches of random paths. On a busy machine the ratios of processor
times count; they are in the saved result.

    python -m benchmarks.big_index [--rows 20000000] [--small] [--dir DIR] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from lakefeed import Lake
from lakefeed.format.columns import GROUP_ROWS
from lakefeed.format.commit import Commit
from lakefeed.format.pack import PackWriter
from lakefeed.format.rows import MEMORY_SCHEMA
from lakefeed.lake.leveling import plan_merge, runs_of
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.snapshot import Snapshot

BASE_ROWS = 1_000_000
PACK_ROWS = 200_000
PACKS_A_MERGE = 8
DIRECTORY_FILES = 1000
LOOKUPS = 100


def path_of(number: int) -> str:
    """Return the path of a file; neighbours lie in one directory."""
    directory = number // DIRECTORY_FILES
    return (
        f"cameras/{directory // 100:05d}/{directory:07d}/{number:010d}_{number * 7919 % 9973}.jpg"
    )


def directory_of(number: int) -> str:
    """Return the directory of a file."""
    return path_of(number).rpartition("/")[0]


def rows_of(numbers: np.ndarray, pack: str, seed: int) -> pa.Table:
    """Return index rows as of files of some 60 kB that came one after the other."""
    rng = np.random.default_rng(seed)
    count = len(numbers)
    size = rng.lognormal(11, 0.8, count).astype(np.uint64)
    ticks = np.cumsum(rng.integers(0, 40_000_000, count)) + 1_700_000_000_000_000_000
    columns = {
        "path": pa.array([path_of(number) for number in numbers.tolist()]),
        "kind": pa.array(np.zeros(count, np.int8)),
        "pack": pa.array([pack] * count).dictionary_encode(),
        "offset": pa.array(np.cumsum((size + 511) // 512 * 512) - size),
        "length": pa.array(size),
        "size": pa.array(size),
        "codec": pa.array(np.zeros(count, np.int8)),
        "crc32c": pa.array(rng.integers(0, 2**32, count, dtype=np.uint32)),
        "mtime_ns": pa.array(ticks),
        "mode": pa.array(np.full(count, 0o644, np.uint32)),
        "attrs": pa.nulls(count, MEMORY_SCHEMA.field("attrs").type),
        "seq": pa.array(np.zeros(count, np.uint64)),
    }
    return pa.table(columns, schema=MEMORY_SCHEMA)


def add_pack(lake: Lake, rows: int, number: int, packs: int) -> None:
    """Commit one pack with every `packs`-th path."""
    numbers = np.arange(number, rows, packs)

    def fill(writer: PackWriter, now_ns: int) -> None:
        writer.add_rows(rows_of(numbers, writer.id, number))

    sealed = new_pack(lake.volume, 0, fill)
    lake.append([sealed], Draft("synthetic"))


def build(where: Path, rows: int) -> dict[str, object]:
    """Make the lake, merging as it grows; return how the merging went."""
    packs = rows // PACK_ROWS
    seconds, written = 0.0, [0]
    with Lake.create(where) as lake:
        for number in range(packs):
            add_pack(lake, rows, number, packs)
            if number % PACKS_A_MERGE == PACKS_A_MERGE - 1 or number == packs - 1:
                began, before = time.perf_counter(), lake.snapshot().number
                while not plan_merge(lake.snapshot().state).empty:
                    lake.merge_index()
                seconds += time.perf_counter() - began
                newest = lake.snapshot().number
                written += [written_by(commit) for commit in lake.log.history(newest, before + 1)]
        state = lake.snapshot().state
        runs = [run.rows for run in runs_of(state)]
        size_bytes = sum(segment.bytes for segment in state.segments.values())
    return {
        "rows": sum(runs),
        "levels": runs,
        "segments": len(state.segments),
        "index_bytes_a_row": round(size_bytes / sum(runs), 2),
        "merges": len(written) - 1,
        "merge_seconds": round(seconds, 2),
        "merged_rows_a_second": round(sum(written) / seconds),
        "settled_rows_a_second": round(rows / seconds),
        "written_rows_a_row": round(sum(written) / rows, 2),
        "largest_merge_rows": max(written),
        "peak_mb": peak_mb(),
    }


def settle(where: Path, rows: int) -> dict[str, object]:
    """Merge the whole index into one run; return how that went."""
    began = time.perf_counter()
    with Lake.open(where) as lake:
        lake.merge_index(everything=True)
        runs = runs_of(lake.snapshot().state)
    seconds = time.perf_counter() - began
    return {"runs": len(runs), "rows_a_second": round(rows / seconds), "peak_mb": peak_mb()}


def written_by(commit: Commit) -> int:
    """Return how many rows a merge wrote; segments that only changed their level are not."""
    changes = commit.changes
    return sum(one.rows for one in changes.add_segments if one.id not in changes.remove_segments)


def look(where: Path, rows: int) -> dict[str, object]:
    """Return the median seconds of look-ups and listings, of the processor, too, and the memory."""
    rng = random.Random(7)
    batches = {
        size: [path_of(rng.randrange(rows)) for _ in range(size)]
        for size in (1000, 10_000, 100_000)
    }
    facts: dict[str, tuple[float, float]] = {}
    with opened(where) as snapshot:
        facts |= first_looks(snapshot, rows, rng)
    for size, paths in batches.items():
        with opened(where) as snapshot:
            facts[f"just opened: locate {size:,} random paths"] = median(snapshot.locate, [paths])
    with opened(where) as snapshot:
        for paths in (*batches.values(), *batches.values()):
            snapshot.locate(paths)
        facts |= warm_looks(snapshot, rows, rng)
        for size, paths in batches.items():
            facts[f"warm: locate {size:,} random paths"] = median(snapshot.locate, [paths] * 5)
        held = snapshot.addresses_bytes >> 20
    wall = {name: pair[0] for name, pair in facts.items()}
    busy = {f"{name}, CPU": pair[1] for name, pair in facts.items()}
    return {**wall, **busy, "addresses_mb": held, "peak_mb": peak_mb()}


@contextmanager
def opened(where: Path) -> Iterator[Snapshot]:
    """Open the lake and the footers of its index files."""
    with Lake.open(where) as lake:
        snapshot = lake.snapshot()
        for source in snapshot.sources:
            lake.catalogue.reader(source)
        yield snapshot


def first_looks(
    snapshot: Snapshot, rows: int, rng: random.Random
) -> dict[str, tuple[float, float]]:
    """Return what looks at single places take in a lake just opened."""
    # So far apart that no two places share a row group: each first look is a cold one.
    step = rows // min(LOOKUPS, rows // (2 * GROUP_ROWS))
    numbers = [at + rng.randrange(step // 2) for at in range(0, rows - step // 2, step)]
    rng.shuffle(numbers)
    places, listed = numbers[::2], numbers[1::2]
    return {
        "just opened: stat": median(snapshot.stat, map(path_of, places)),
        "just opened: ls of 1,000": median(snapshot.ls, map(directory_of, listed)),
        "ls of 1,000 again": median(snapshot.ls, map(directory_of, listed)),
    }


def warm_looks(snapshot: Snapshot, rows: int, rng: random.Random) -> dict[str, tuple[float, float]]:
    """Return what looks at single places take where look-ups have been at work."""
    some = [path_of(rng.randrange(rows)) for _ in range(LOOKUPS)]
    near = [path_of(number) for number in range(10_000)]
    return {
        "warm: locate one path": median(snapshot.locate, [[path] for path in some]),
        "warm: stat": median(snapshot.stat, [path_of(rng.randrange(rows)) for _ in some]),
        "warm: stat of what is not there": median(snapshot.exists, [f"{path}~" for path in some]),
        "warm: ls of 1,000": median(
            snapshot.ls, [directory_of(rng.randrange(rows)) for _ in some[::2]]
        ),
        "warm: locate 10,000 neighbours": median(snapshot.locate, [near] * 5),
    }


def median(action: Callable[[Any], object], places: Iterable[object]) -> tuple[float, float]:
    """Return the median seconds of an action over some places, each once, and of the processor."""
    seconds, busy = [], []
    for place in places:
        cpu, began = time.process_time(), time.perf_counter()
        action(place)
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - cpu)
    return statistics.median(seconds), statistics.median(busy)


def peak_mb() -> int:
    """Return the most memory that this process held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def apart(step: str, where: Path, rows: int) -> dict[str, object]:
    """Do one step in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.big_index", "--step", step]
    command += ["--rows", str(rows), "--dir", str(where)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


def looks(lakes: dict[str, tuple[Path, int]], repeats: int) -> dict[str, dict[str, float]]:
    """Look into both lakes in turns; return the median of each figure."""
    found: dict[str, list[dict[str, object]]] = {name: [] for name in lakes}
    for _ in range(repeats):
        for name, (where, rows) in lakes.items():
            found[name].append(apart("look", where, rows))
    return {
        name: {key: statistics.median(float(str(facts[key])) for facts in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def ratios_of(looked: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return how many times as long the big lake takes."""
    base = looked["base"]
    return {key: round(value / base[key], 2) for key, value in looked["big"].items() if base[key]}


def main() -> int:
    """Build both lakes, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--small", action="store_true", help="2 million rows against 200,000")
    parser.add_argument("--dir", type=Path, help="where to work; default: the temporary directory")
    parser.add_argument("--repeats", type=int, default=3)
    steps = {"build": build, "look": look, "settle": settle}
    parser.add_argument("--step", choices=steps, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(steps[options.step](options.dir, options.rows)))
        return 0
    big, base = (2_000_000, PACK_ROWS) if options.small else (options.rows, BASE_ROWS)
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        lakes = {"base": (Path(scratch) / "base", base), "big": (Path(scratch) / "big", big)}
        built = {name: apart("build", *lake) for name, lake in lakes.items()}
        repeats = 2 if options.small else options.repeats
        looked = looks(lakes, repeats)
        settled = apart("settle", *lakes["big"])
        looked_settled = looks(lakes, repeats)
    ratios, settled_ratios = ratios_of(looked), ratios_of(looked_settled)
    merging = [(key, built["base"][key], value) for key, value in built["big"].items()]
    print(harness.table(["merging", f"{base:,} rows", f"{big:,} rows"], merging))
    print()
    rows = []
    for key, seconds in looked["big"].items():
        if not key.endswith(("_mb", "CPU")):
            base_ms, big_ms = looked["base"][key] * 1e3, seconds * 1e3
            settled_ms = looked_settled["big"][key] * 1e3
            rows.append((key, f"{base_ms:.3f}", f"{big_ms:.3f}", ratios[key],
                         f"{settled_ms:.3f}", settled_ratios[key]))  # fmt: skip
    headings = ["ms", f"{base:,} rows", f"{big:,} rows", "ratio", "in one run", "ratio"]
    print(harness.table(headings, rows))
    peaks = [(key, looked["base"][key], looked["big"][key]) for key in ("addresses_mb", "peak_mb")]
    print(harness.table(["MB", *headings[1:3]], peaks))
    facts: dict[str, object] = {"rows": "synthetic", "page_cache": "warm", "ratios": ratios,
                                "built": built, "looked": looked, "settled": settled,
                                "settled_ratios": settled_ratios,
                                "looked_settled": looked_settled}  # fmt: skip
    if not options.small:
        print(f"\nsaved: {harness.save('big_index', facts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
