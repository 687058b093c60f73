"""`bench volume`: what a mounted directory can do by itself, with no lake: reads and calls.

Files are made in a directory of its own below the one asked about, and removed afterwards. Each
cell of the table runs one kind of call from some threads for a fixed time: reads by size (the
file's pages dropped from the page cache before each cell, where the kernel lets us), and opens,
stats, creates, fsyncs, links, renames. Rates over the number of requests in flight show a knee.

This is the one place of lakefeed, beside `probing` and the plain readers, that calls the disk
directly: the calls themselves are what is measured. They are made in a process of its own
(`apart`), which can be ended where the volume does not answer.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from lakefeed.bench import environment, metrics, mountstats, probing
from lakefeed.bench.apart import Line, run_apart
from lakefeed.bench.lending import lent
from lakefeed.bench.mounts import mount_of
from lakefeed.bench.ranks import TIMEOUT_SECONDS
from lakefeed.bench.reports import SCHEMA
from lakefeed.bench.verdict import TOO_SMALL
from lakefeed.errors import Invalid, from_os_error

LARGEST_BYTES = 1 << 20
SMALL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """How much to measure: `file_bytes` of one big file, `files` small ones, seconds a cell."""

    directory: str
    file_bytes: int = 256 << 20
    files: int = 1000
    seconds: float = 0.5
    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    sizes: tuple[int, ...] = (4096, 65536, LARGEST_BYTES)
    seed: int = 0
    timeout_seconds: float = TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of call from one number of threads."""

    name: str
    concurrency: int
    calls: int
    seconds: float
    calls_per_second: float
    bytes_per_second: float
    p50_seconds: float
    p99_seconds: float
    knee: int | None = None


Progress = Callable[[str, int, int], object]


def measure(options: VolumeOptions, progress: Progress) -> dict[str, Any]:
    """Return the report of a directory; NotFound if it is none.

    VolumeFailed once a call has taken `timeout_seconds`; 0 waits for ever.
    """
    if options.file_bytes < LARGEST_BYTES:
        found = f"{options.file_bytes:,} bytes"
        raise Invalid("file size", expected="1 MiB or more, as the largest read", found=found)
    patience = options.timeout_seconds
    with lent(options.directory, ".lakefeed-probe-", patience) as place:
        # A cell says that it waits when it begins, and takes its time.
        patience += options.seconds if patience else 0.0
        return run_apart(partial(measured, options, Path(place)), progress, patience)


def measured(options: VolumeOptions, place: Path, line: Line) -> dict[str, Any]:
    """Return the report of a directory. Its files are made in `place`; who lent it removes them."""
    line.waits()
    verdicts = probing.examine(options.directory)["verdicts"]
    mount = mount_of(options.directory)
    point = mount.point if mount is not None and mount.is_nfs else None
    before, began = _counters(point), time.monotonic()
    try:
        bench = _Bench(options, place, line)
        try:
            reads, calls = bench.run()
        finally:
            bench.close()
    except OSError as error:
        raise from_os_error(error, options.directory) from error
    after, seconds = _counters(point), time.monotonic() - began
    rpcs = mountstats.between(before, after, seconds) if before and after else []
    return _report(options, {"reads": reads, "calls": calls, "rpcs": rpcs}, verdicts)


def _counters(point: str | None) -> mountstats.NfsMount | None:
    return None if point is None else mountstats.read(point)


class _Bench:
    """The files, and the cells over them."""

    def __init__(self, options: VolumeOptions, place: Path, line: Line) -> None:
        self._options = options
        self._place = place
        self._line = line
        self._cells = (2 * len(options.sizes) + 6) * len(options.concurrency)
        self._done = 0
        self._names = itertools.count()
        self._chance = random.Random(options.seed)
        self._files: list[BinaryIO] = []

    def run(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Make the files, run every cell; return reads and calls."""
        self._line.tell("making files", 0, self._cells)
        big, small = self._make()
        reads: list[dict[str, Any]] = []
        # Large ones first: read front to back they say what the volume gives without being asked.
        for size in sorted(self._options.sizes, reverse=True):
            call = self._sequential(big, size)
            reads += self._sweep({f"sequential {_human(size)}": (size, call)}, big)
        for size in self._options.sizes:
            call = self._random(big, size)
            reads += self._sweep({f"random {_human(size)}": (size, call)}, big)
        work: dict[str, tuple[int, Callable[[], object]]] = {
            "open + close": (0, self._open(small)),
            "stat": (0, self._stat(small)),
            "create 4 KiB": (SMALL_BYTES, self._create(sync=False)),
            "create + fsync": (SMALL_BYTES, self._create(sync=True)),
            "link": (0, self._link(small)),
            "rename": (0, self._rename()),
        }
        return reads, self._sweep(work, None)

    def close(self) -> None:
        """Close every thread's descriptor."""
        while self._files:
            self._files.pop().close()

    def _make(self) -> tuple[Path, list[Path]]:
        big = self._place / "big"
        piece = os.urandom(LARGEST_BYTES)
        with big.open("wb") as file:
            for left in range(self._options.file_bytes, 0, -len(piece)):
                file.write(piece[:left])
                self._line.waits()
            file.flush()
            os.fsync(file.fileno())
        small = [self._place / f"small{number}" for number in range(self._options.files)]
        for path in small:
            path.write_bytes(piece[:SMALL_BYTES])
            self._line.waits()
        return big, small

    def _sweep(
        self, work: dict[str, tuple[int, Callable[[], object]]], cold: Path | None
    ) -> list[dict[str, Any]]:
        rows = []
        for name, (size_bytes, call) in work.items():
            cells = []
            for concurrency in self._options.concurrency:
                self._line.waits()
                if cold is not None:
                    forget(cold)
                cells.append(run_cell(name, call, (concurrency, size_bytes), self._options.seconds))
                self._done += 1
                self._line.tell(name, self._done, self._cells)
            knee = metrics.knee({cell.concurrency: cell.calls_per_second for cell in cells})
            rows += [{**asdict(cell), "knee": knee} for cell in cells]
        return rows

    # -- calls -----------------------------------------------------------------------------------

    def _sequential(self, big: Path, size: int) -> Callable[[], object]:
        pieces = max(1, self._options.file_bytes // size)
        turn = itertools.count()
        descriptor = self._descriptor(big)

        def read() -> None:
            os.pread(descriptor(), size, next(turn) % pieces * size)

        return read

    def _random(self, big: Path, size: int) -> Callable[[], object]:
        places = max(1, self._options.file_bytes // size)
        descriptor = self._descriptor(big)

        def read() -> None:
            os.pread(descriptor(), size, self._chance.randrange(places) * size)

        return read

    def _descriptor(self, path: Path) -> Callable[[], int]:
        """Return one descriptor for each thread: they do not share a read-ahead window."""
        mine = threading.local()

        def get() -> int:
            file = mine.__dict__.get("file")
            if file is None:
                file = mine.__dict__["file"] = path.open("rb", buffering=0)
                self._files.append(file)
            return int(file.fileno())

        return get

    def _open(self, small: Sequence[Path]) -> Callable[[], object]:
        turn = itertools.cycle(small)
        return lambda: os.close(os.open(next(turn), os.O_RDONLY))

    def _stat(self, small: Sequence[Path]) -> Callable[[], object]:
        turn = itertools.cycle(small)
        return lambda: os.stat(next(turn))

    def _create(self, *, sync: bool) -> Callable[[], object]:
        data = os.urandom(SMALL_BYTES)

        def create() -> None:
            name = self._place / f"new{next(self._names)}"
            descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(descriptor, data)
            if sync:
                os.fsync(descriptor)
            os.close(descriptor)

        return create

    def _link(self, small: Sequence[Path]) -> Callable[[], object]:
        turn = itertools.cycle(small)
        return lambda: os.link(next(turn), self._place / f"link{next(self._names)}")

    def _rename(self) -> Callable[[], object]:
        mine = threading.local()

        def rename() -> None:
            name = mine.__dict__.get("name")
            if name is None:
                name = self._place / f"renamed{next(self._names)}"
                name.write_bytes(b"")
            mine.__dict__["name"] = self._place / f"renamed{next(self._names)}"
            os.rename(name, mine.__dict__["name"])

        return rename


def run_cell(name: str, call: Callable[[], object], how: tuple[int, int], seconds: float) -> Cell:
    """Call from `how[0]` threads for some seconds; `how[1]` is the bytes that a call moves."""
    concurrency, size_bytes = how
    began = time.perf_counter()
    deadline = began + seconds

    def repeat(_: int) -> list[float]:
        times: list[float] = []
        # Once at least, however slow the volume: a cell without calls has no rate.
        while not times or time.perf_counter() < deadline:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return times

    with ThreadPoolExecutor(concurrency, "lakefeed-bench-volume") as pool:
        times = [one for each in pool.map(repeat, range(concurrency)) for one in each]
    took = time.perf_counter() - began
    spread = metrics.quantiles(times)
    rate = len(times) / took
    return Cell(
        name, concurrency, len(times), took, rate, rate * size_bytes, spread.p50, spread.p99
    )


def forget(path: Path) -> None:
    """Drop a file's clean pages from the page cache; a hint that the kernel follows for files."""
    with _opened(path) as descriptor:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# -- words -----------------------------------------------------------------------------------------


def _report(
    options: VolumeOptions, measured: dict[str, Any], verdicts: list[dict[str, str]]
) -> dict[str, Any]:
    lines = conclusions(measured["reads"], measured["calls"])
    bad = [verdict for verdict in verdicts if verdict["level"] != "ok"]
    advice = (
        f"{bad[0]['name']}: {bad[0]['advice']}"
        if bad
        else 'nothing about the mount stands out; "lakefeed bench feed" shows what a lake gets'
    )
    small = options.seconds < 0.3 or options.file_bytes < 64 << 20
    if small:
        lines[0] = f"{TOO_SMALL} ({options.seconds:g} s a cell). {lines[0]}"
    return {
        "schema": SCHEMA,
        "kind": "volume",
        "title": f"Volume {os.path.abspath(options.directory)}",
        **measured,
        "verdicts": verdicts,
        "seed": options.seed,
        "notes": [
            "the file's own pages are dropped before each cell of reads; pages that a cell reads "
            "twice, and caches of the server, stay warm"
        ],
        "lines": lines,
        "verdict": lines[0],
        "next": advice,
        "environment": environment.describe(options.directory),
    }


def conclusions(reads: Sequence[dict[str, Any]], calls: Sequence[dict[str, Any]]) -> list[str]:
    """Return the few sentences that a table of cells comes to."""
    best = max(reads, key=lambda cell: cell["bytes_per_second"])
    fewest = min(cell["concurrency"] for cell in reads)
    single = next(cell for cell in reads if cell["concurrency"] == fewest)
    lines = [
        f"reads at most {best['bytes_per_second'] / 1e6:,.0f} MB/s ({best['name']}, "
        f"{best['concurrency']} in flight); {fewest} in flight front to back get "
        f"{single['bytes_per_second'] / 1e6:,.0f} MB/s"
    ]
    opens = [cell for cell in calls if cell["name"] == "open + close"]
    if opens:
        top = max(opens, key=lambda cell: cell["calls_per_second"])
        lines.append(
            f"opens at most {top['calls_per_second']:,.0f} files/s ({top['concurrency']} in "
            "flight): plain small files cannot be read faster than that, whatever their size"
        )
    knees = {cell["name"]: cell["knee"] for cell in reads if cell["knee"]}
    text = ", ".join(f"{name} {knee}" for name, knee in knees.items())
    lines.append(f"requests in flight behind which nothing is gained: {text}")
    return lines


def _human(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
