"""What do small files cost to make durable, and to read back at random?

Writing. Expected: a file costs a create, a write, an fsync and a close of its own on a filesystem;
in a lake ten thousand files share one pack, three fsyncs and one link, so what remains is some 20
microseconds of Python for each. Baseline: create + write + fsync + close of the same bytes on the
same filesystem, from as many threads.

Reading. Expected: a warm 4 KiB `preadv` takes 2 microseconds, a checksum 0.4, a look-up 1. Baseline
and limit: a bare `preadv` loop over the very same extents, whose places are known beforehand, into
one buffer used again and again (`reused`), and `pread` into objects that are kept, as a caller of
`get_many` has them afterwards (`kept`; most of its time is page faults of fresh memory).

    python -m benchmarks.small_files [--small] [--files 100000] [--dir DIR] [--repeats 7]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import harness
from lakefeed import Lake, Snapshot, WriterOptions
from lakefeed.lake import layout

SIZE_BYTES = 4096
PLAIN_FILES = 4000
READ_FILES = 10_000


def payloads(count: int) -> list[bytes]:
    """Return unique incompressible payloads, so that no cache or codec can help."""
    noise = os.urandom(count * SIZE_BYTES)
    return [noise[start : start + SIZE_BYTES] for start in range(0, len(noise), SIZE_BYTES)]


def put_all(where: Path, data: list[bytes], threads: int) -> None:
    """Put every payload from `threads` threads; return when all of them are durable."""
    shutil.rmtree(where, ignore_errors=True)
    with Lake.create(where) as lake, lake.writer(WriterOptions(merge_after=0)) as writer:

        def put(thread: int) -> None:
            for number in range(thread, len(data), threads):
                writer.put(f"class{number % 100:02d}/{number:08d}.bin", data[number])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(put, range(threads)))


def write_all(where: Path, data: list[bytes], threads: int) -> None:
    """Create, write, fsync and close a plain file for every payload."""
    shutil.rmtree(where, ignore_errors=True)
    for number in range(100):
        (where / f"class{number:02d}").mkdir(parents=True)

    def put(thread: int) -> None:
        for number in range(thread, len(data), threads):
            name = where / f"class{number % 100:02d}" / f"{number:08d}.bin"
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(fd, data[number])
            os.fsync(fd)
            os.close(fd)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(threads)))


def writing(scratch: Path, data: list[bytes], repeats: int) -> dict[str, dict[str, object]]:
    """Time both ways from one and from four threads; rates are files a second."""
    contestants: dict[str, Callable[[], object]] = {}
    counts = {}
    few = data[:PLAIN_FILES]
    for threads in (1, 4):
        contestants[f"lake, {threads} threads"] = partial(put_all, scratch / "put", data, threads)
        contestants[f"plain, {threads} threads"] = partial(
            write_all, scratch / "plain", few, threads
        )
        counts[f"lake, {threads} threads"] = len(data)
        counts[f"plain, {threads} threads"] = len(few)
    timings = harness.interleave(contestants, repeats)
    facts = {name: timing.facts() for name, timing in timings.items()}
    for name, timing in timings.items():
        facts[name]["files_per_second"] = round(counts[name] / timing.median)
    return facts


def reading(snapshot: Snapshot, where: Path, repeats: int) -> dict[str, dict[str, object]]:
    """Time 10,000 random files through the lake and as bare reads of their extents."""
    paths = [path for table in snapshot.scan() for path in table["path"].to_pylist()]
    wanted = random.Random(6).sample(paths, READ_FILES)
    table = snapshot.locate(wanted)
    handles = {
        pack: os.open(where / layout.pack_path(pack), os.O_RDONLY)
        for pack in set(table["pack"].to_pylist())
    }
    extents = [
        (handles[pack], offset)
        for pack, offset in zip(table["pack"].to_pylist(), table["offset"].to_pylist(), strict=True)
    ]
    one = [memoryview(bytearray(SIZE_BYTES))]

    def reused() -> None:
        for handle, offset in extents:
            os.preadv(handle, one, offset)

    def kept() -> list[bytes]:
        return [os.pread(handle, SIZE_BYTES, offset) for handle, offset in extents]

    timings = harness.interleave(
        {
            "get_many": lambda: snapshot.get_many(wanted),
            "locate alone": lambda: snapshot.locate(wanted),
            "pread, kept": kept,
            "preadv, reused": reused,
        },
        repeats,
    )
    for handle in handles.values():
        os.close(handle)
    facts = {name: timing.facts() for name, timing in timings.items()}
    for name, timing in timings.items():
        facts[name]["files_per_second"] = round(len(wanted) / timing.median)
    return facts


def main() -> None:
    """Run both parts, print their tables and ratios, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the files, three rounds")
    parser.add_argument("--files", type=int, default=100_000, help="10,000 or more")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    if options.small:
        options.files, options.repeats = READ_FILES, 3
    if options.files < READ_FILES:
        parser.error(f"--files: {READ_FILES:,} or more, as many as are read at once")
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        scratch = Path(name)
        data = payloads(options.files)
        written = writing(scratch, data, max(3, options.repeats // 2))
        where = scratch / "read"
        put_all(where, data, 1)
        with Lake.open(where) as lake:
            lake.merge_index(everything=True)
            read = reading(lake.snapshot(), where, options.repeats)
    ratios = {
        f"put / plain, {n} threads": _ratio(written, f"lake, {n} threads", f"plain, {n} threads")
        for n in (1, 4)
    }
    ratios |= {
        f"get_many / {how}": _ratio(read, "get_many", how)
        for how in ("pread, kept", "preadv, reused")
    }
    headings = ["", "median s", "range s", "median CPU s", "repeats", "files/s"]
    for facts in (written, read):
        print(harness.table(headings, [(key, *value.values()) for key, value in facts.items()]))
    print(harness.table(["ratio of files/s", ""], list(ratios.items())))
    result = {"files": options.files, "size_bytes": SIZE_BYTES, "page_cache": "warm",
              "writing": written, "reading": read, "ratios": ratios}  # fmt: skip
    print(harness.save("small_files_small" if options.small else "small_files", result))


def _ratio(facts: dict[str, dict[str, object]], one: str, other: str) -> float:
    rates = [float(str(facts[name]["files_per_second"])) for name in (one, other)]
    return round(rates[0] / rates[1], 2)


if __name__ == "__main__":
    main()
