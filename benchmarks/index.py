"""How small and how quick is the offset index of a lake of a million files?

Expected: 13 to 16 bytes a file (4 of them the checksum, which does not compress); opening reads a
footer and one group, so milliseconds on top of the imports; a look-up of many random paths decodes
every group once and probes a hash table, so about a microsecond a path; listing 10,000 entries
decodes two or three groups.

Baselines: a Python dictionary of the same million paths (what a loader with a list of files holds
in memory), `os.scandir` plus `stat` of a plain directory of the same 10,000 names, and the
interpreter's own start. The lake holds a million real files of a few hundred bytes; the bytes a
file are also given for rows with the sizes and times of big real collections, whose payloads would
not fit here.

    python -m benchmarks.index [--small] [--files 1000000] [--dir DIR] [--repeats 7]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import harness
from lakefeed import Lake, WriterOptions
from lakefeed.format import rows as rows_format
from lakefeed.format.columns import MAGIC, ColumnsWriter

LOOKUPS = 100_000
OPEN = """
import sys, time
start = time.perf_counter()
from lakefeed import Lake
imported = time.perf_counter()
with Lake.open(sys.argv[1]) as lake:
    data = lake.snapshot().get(sys.argv[2])
    end = time.perf_counter()
    facts = {"import_seconds": imported - start, "open_and_get_seconds": end - imported,
             "total_seconds": end - start, "cpu_seconds": time.process_time()}
"""


def paths_of(count: int) -> list[str]:
    """Return sorted paths like those of three real collections, in equal parts."""
    rng = np.random.default_rng(1)
    third = count // 3
    synsets = [f"n{10_000_000 + 977 * number:08d}" for number in range(1000)]
    images = [
        f"imagenet/train/{synsets[i % 1000]}/{synsets[i % 1000]}_{n}.JPEG"
        for i, n in enumerate(rng.permutation(3 * third)[:third].tolist())
    ]
    stamps = np.sort(rng.integers(0, 30 * 86_400_000, third)).tolist()
    camera = [
        f"cameras/line{i % 8}/2026/{1 + t // 86_400_000:02d}/{t % 86_400_000:08d}_{i:06x}.jpg"
        for i, t in enumerate(stamps)
    ]
    rest = count - 2 * third
    speech = [f"speech/{i // 400:05d}/{i // 40:06d}/{i:09d}-{(i * 7919) % 9973:04d}.flac"
              for i in range(rest)]  # fmt: skip
    return sorted({*images, *camera, *speech})


def build(where: Path, paths: list[str]) -> None:
    """Make the lake: small real files through a writer, a flat directory, then one sorted run."""
    noise = os.urandom(1 << 20)
    sizes = np.random.default_rng(2).integers(100, 700, len(paths)).tolist()
    with Lake.create(where) as lake:
        with lake.writer(WriterOptions(flush_files=100_000)) as writer:
            for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
                start = number * 131 % (1 << 19)
                writer.put(path, noise[start : start + size])
        with lake.writer() as writer:
            for number in range(10_000):
                writer.put(f"flat/{number:05d}.bin", noise[number : number + 100])
        lake.merge_index(everything=True)


def bytes_per_file(where: Path) -> dict[str, float]:
    """Return index bytes a file: the lake's segments, and its packs' own columns."""
    with Lake.open(where) as lake:
        state = lake.snapshot().state
        packs = [info.sealed for info in state.packs.values()]
        rows = sum(segment.rows for segment in state.segments.values())
        return {
            "segments": sum(segment.bytes for segment in state.segments.values()) / rows,
            "packs": sum(pack.bytes - pack.payload_end for pack in packs)
            / sum(pack.rows for pack in packs),
        }


def synthetic_bytes(paths: list[str], times: str) -> float:
    """Return segment bytes a file for rows with the sizes and times of big collections.

    Sizes are log-normal around 60 kB; `times` is "seconds" (an unpacked archive) or "nanoseconds"
    (files written one by one, 20 ms apart in path order, with jitter).
    """
    rng = np.random.default_rng(3)
    count = len(paths)
    size = rng.lognormal(11, 0.8, count).astype(np.uint64)
    offset = np.cumsum((size + 511) // 512 * 512) - size
    ticks = np.cumsum(rng.integers(0, 40_000_000, count)) + 1_700_000_000_000_000_000
    if times == "seconds":
        ticks = ticks // 10**9 * 10**9
    pack = np.minimum(np.arange(count) // (count // 60 + 1), 59).astype(np.int32)
    names = pa.array([f"{number:032x}" for number in range(60)])
    table = pa.table(
        {
            "path": pa.array(paths),
            "kind": pa.array(np.zeros(count, np.int8)),
            "pack": pa.DictionaryArray.from_arrays(pa.array(pack), names),
            "offset": pa.array(offset.astype(np.uint64)),
            "length": pa.array(size),
            "size": pa.array(size),
            "codec": pa.array(np.zeros(count, np.int8)),
            "crc32c": pa.array(rng.integers(0, 2**32, count, dtype=np.uint32)),
            "mtime_ns": pa.array(ticks),
            "mode": pa.array(np.full(count, 0o644, np.uint32)),
            "attrs": pa.nulls(count, rows_format.MEMORY_SCHEMA.field("attrs").type),
            "seq": pa.array(np.full(count, 3, np.uint64)),
        },
        schema=rows_format.MEMORY_SCHEMA,
    )
    written = 0

    def write(parts: Sequence[bytes]) -> int:
        nonlocal written
        written += sum(map(len, parts))
        return written

    writer = ColumnsWriter(write, len(MAGIC), {"kind": "segment", "id": "0" * 32})
    writer.add(rows_format.to_file(table, "", None))
    writer.close()
    return written / count


def open_cost(where: Path, paths: list[str], repeats: int) -> dict[str, float]:
    """Return the medians of opening the lake and reading one file, each in a fresh process."""
    chosen = random.Random(4).choices(paths, k=repeats)
    runs = [harness.in_fresh_process(OPEN, str(where), path) for path in chosen]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def speeds(where: Path, paths: list[str], repeats: int, scratch: Path) -> dict[str, object]:
    """Time locate and ls beside their baselines."""
    wanted = random.Random(5).sample(paths, LOOKUPS)
    plain = scratch / "flat"
    plain.mkdir()
    for number in range(10_000):
        (plain / f"{number:05d}.bin").touch()
    held = {path: number for number, path in enumerate(paths)}
    lake = Lake.open(where)

    def locate_first() -> object:
        with Lake.open(where) as fresh:
            return fresh.snapshot().locate(wanted)

    def ls_first() -> object:
        with Lake.open(where) as fresh:
            return fresh.snapshot().ls("flat")

    snapshot = lake.snapshot()
    timings = harness.interleave(
        {
            "locate 100k, lake just opened": locate_first,
            "locate 100k": lambda: snapshot.locate(wanted),
            "dict 100k": lambda: [held[path] for path in wanted],
            "ls 10k, lake just opened": ls_first,
            "ls 10k": lambda: snapshot.ls("flat"),
            "scandir+stat 10k": lambda: [(e.name, e.stat()) for e in os.scandir(plain)],
        },
        repeats,
    )
    lake.close()
    return {name: timing.facts() for name, timing in timings.items()}


def main() -> None:
    """Run the benchmark, print its table, write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the files, two rounds")
    parser.add_argument("--files", type=int, default=1_000_000, help="100,000 or more")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    if options.small:
        options.files, options.repeats = LOOKUPS, 2
    if options.files < LOOKUPS:
        parser.error(f"--files: {LOOKUPS:,} or more, as many as are looked up at once")
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        paths = paths_of(options.files)
        where = Path(scratch) / "lake"
        build(where, paths)
        size = bytes_per_file(where)
        size["60 kB files, times in seconds"] = synthetic_bytes(paths, "seconds")
        size["60 kB files, times in nanoseconds"] = synthetic_bytes(paths, "nanoseconds")
        opening = open_cost(where, paths, options.repeats)
        timed = speeds(where, paths, options.repeats, Path(scratch))
    print(harness.table(["index bytes a file", ""], [(k, f"{v:.1f}") for k, v in size.items()]))
    print(harness.table(["open and read one file, fresh process", ""],
                        [(k, f"{v:.3f}") for k, v in opening.items()]))  # fmt: skip
    rows = [(name, *facts.values()) for name, facts in timed.items()]  # type: ignore[attr-defined]
    print(harness.table(["", "median s", "range s", "median CPU s", "repeats"], rows))
    facts = {"files": len(paths), "page_cache": "warm", "bytes_per_file": size,
             "open": opening, "speeds": timed}  # fmt: skip
    print(harness.save("index_small" if options.small else "index", facts))


if __name__ == "__main__":
    main()
