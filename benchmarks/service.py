"""What does the packing service sustain, what does it cost, and what do readers notice of it?

Expected: a file from the inbox is opened, read, renamed and removed, which is 8 or so system calls
and 60 to 80 microseconds of Python, and its producer pays three more calls; so some thousand files
a second on the core that the daemon has. Through a Writer there is no file system in between: some
tens of thousands. A byte is written once when it arrives and about once more when sixteen packs
become one, with the index on top: an amplification near 2.2 (limit: 2.5). The index settles at 11
to 16 bytes a row (limit: 16). Compaction reads, verifies and writes what it moves, so it should
reach at least half of what `cp` of the same packs does, both until the bytes are durable. A reader
shares processor and page cache with it: at most twice its idle p99, and no errors.

Baselines: the producer alone (how fast files appear in a directory nobody empties), and `cp` with
`sync`. The daemon is the real one, `lakefeed compactd`, in a process of its own.

    python -m benchmarks.service [--small] [--dir DIR] [--files N] [--seconds S]

Everything is read warm (the page cache holds what was just written); the result says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.service_load import (
    FILE_BYTES,
    SETTLE_SECONDS,
    compactd,
    produce,
    settle,
    wait_until,
    write_files,
)
from lakefeed import Lake
from lakefeed.format.commit import PackInfo
from lakefeed.lake import layout
from lakefeed.lake.catalogue import pack_source
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.volume.base import read_file
from lakefeed.volume.posix import PosixVolume

WRITERS = 2


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    files: int
    compaction_bytes: int
    repeats: int
    reads: int


FULL = Scale(files=160_000, compaction_bytes=512 << 20, repeats=5, reads=20_000)
SMALL = Scale(files=12_000, compaction_bytes=64 << 20, repeats=2, reads=2_000)


# -- ingest ----------------------------------------------------------------------------------------


def through_inbox(work: Path, scale: Scale) -> dict[str, Any]:
    """Return what happens to files dropped as fast as one process can, with the daemon at work."""
    lake, inbox = work / "inbox-lake", work / "inbox"
    inbox.mkdir()
    Lake.create(lake).close()
    alone = work / "alone"
    alone.mkdir()
    count = max(scale.files // 10, 1000)
    began = time.perf_counter()
    produce(str(alone), 0, count, str(work / "alone.npy"))
    alone_rate = count / (time.perf_counter() - began)
    shutil.rmtree(alone)
    times = work / "dropped.npy"
    words = ("--inbox", str(inbox), "--inbox-quiet", "0s", "--pack-age", "1s")
    with compactd(lake, *words), Lake.open(lake) as opened:
        wait_until(lambda: opened.leases.read("compactor") is not None)
        producer = get_context("spawn").Process(
            target=produce, args=(str(inbox), 0, scale.files, str(times))
        )
        producer.start()
        producer.join()
        produced_ns = time.time_ns()
        wait_until(lambda: taken(opened) >= scale.files)
    dropped = np.load(times)
    lags, commits, last_ns = lags_of(lake, dropped)
    seconds = (last_ns - int(dropped[0])) / 1e9
    return {
        "files": scale.files,
        "file_bytes": FILE_BYTES,
        "files_per_second": round(scale.files / seconds),
        "producer_files_per_second": round(scale.files / ((produced_ns - int(dropped[0])) / 1e9)),
        "producer_alone_files_per_second": round(alone_rate),
        "lag_seconds_p50": round(float(np.percentile(lags, 50)), 3),
        "lag_seconds_p99": round(float(np.percentile(lags, 99)), 3),
        "commits_per_second": round(commits / seconds, 2),
        "files_per_commit": round(scale.files / commits),
    }


def taken(lake: Lake) -> int:
    """Return how many files the inbox has committed."""
    return sum(
        pack.rows
        for commit in lake.history()
        if commit.operation == "inbox"
        for pack in commit.changes.add_packs
    )


def lags_of(where: Path, dropped: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return the seconds from drop to commit of each file, the commits, and when the last was."""
    lags: list[np.ndarray] = []
    commits = last_ns = 0
    with Lake.open(where) as lake:
        for commit in lake.history():
            if commit.operation != "inbox":
                continue
            commits += 1
            last_ns = max(last_ns, commit.time_ns)
            for sealed in commit.changes.add_packs:
                source = pack_source(PackInfo(sealed, commit.number))
                groups = len(lake.catalogue.reader(source).groups)
                paths = lake.catalogue.rows(source, 0, groups)["path"].to_pylist()
                numbers = np.array([int(path.rpartition("/")[2]) for path in paths])
                lags.append((commit.time_ns - dropped[numbers]) / 1e9)
    return np.concatenate(lags), commits, last_ns


def through_writers(work: Path, scale: Scale) -> dict[str, Any]:
    """Return what several processes with a Writer each sustain, with the daemon at work."""
    lake = work / "writers-lake"
    Lake.create(lake).close()
    context = get_context("spawn")
    results = context.Queue()
    each = scale.files // WRITERS
    with compactd(lake), Lake.open(lake) as opened:
        wait_until(lambda: opened.leases.read("compactor") is not None)
        writers = [
            context.Process(target=write_files, args=(str(lake), n * each, each, results))
            for n in range(WRITERS)
        ]
        began = time.perf_counter()
        for writer in writers:
            writer.start()
        lags = [second for _ in writers for second in results.get()]
        for writer in writers:
            writer.join()
        seconds = time.perf_counter() - began
        commits = sum(commit.operation == "write" for commit in opened.history())
    return {
        "writers": WRITERS,
        "files": each * WRITERS,
        "files_per_second": round(each * WRITERS / seconds),
        "lag_seconds_p50": round(float(np.percentile(lags, 50)), 3),
        "lag_seconds_p99": round(float(np.percentile(lags, 99)), 3),
        "commits_per_second": round(commits / seconds, 2),
    }


def life(where: Path) -> dict[str, Any]:
    """Return what a file's whole life cost, from the log: every pack, segment and commit."""
    volume = PosixVolume(where)
    packs: dict[str, int] = {}
    segments: dict[str, int] = {}
    log_bytes = ingested = 0
    with Lake.open(where) as lake:
        for commit in lake.history():
            packs.update({pack.id: pack.bytes for pack in commit.changes.add_packs})
            segments.update({one.id: one.bytes for one in commit.changes.add_segments})
            log_bytes += len(read_file(volume, layout.commit_path(commit.number)))
            if commit.operation in ("inbox", "write"):
                ingested += sum(pack.rows for pack in commit.changes.add_packs)
        state = lake.log.head()
    written = sum(packs.values()) + sum(segments.values()) + log_bytes
    rows = sum(segment.rows for segment in state.segments.values())
    index_bytes = sum(segment.bytes for segment in state.segments.values())
    return {
        "files": ingested,
        "write_amplification": round(written / (ingested * FILE_BYTES), 3),
        "packs_written_bytes": sum(packs.values()),
        "segments_written_bytes": sum(segments.values()),
        "log_bytes": log_bytes,
        "packs_left": len(state.packs),
        "index_bytes_per_file": round(index_bytes / rows, 2),
    }


# -- compaction ------------------------------------------------------------------------------------


def small_packs(where: Path, size_bytes: int) -> list[str]:
    """Fill a lake with packs of 8 MiB of files of 4 to 64 KiB; return the paths."""
    numbers = np.random.default_rng(7)
    noise = numbers.bytes(1 << 20)
    paths: list[str] = []
    with Lake.create(where) as lake:
        written = 0
        while written < size_bytes:
            with lake.writer() as writer:
                batch = 0
                while batch < 8 << 20:
                    length = int(numbers.integers(4096, 65536))
                    start = int(numbers.integers(0, len(noise) - length))
                    path = f"d{len(paths) % 97:02d}/{len(paths):07d}"
                    writer.put(path, noise[start : start + length])
                    paths.append(path)
                    batch += length
                writer.flush()
                written += batch
        lake.merge_index(everything=True)
    return paths


def bandwidth(work: Path, scale: Scale) -> dict[str, Any]:
    """Return how fast compaction moves payloads, beside `cp` and `sync` of the same packs."""
    made, copy, target = work / "bandwidth-made", work / "bandwidth-lake", work / "bandwidth-cp"
    small_packs(made, scale.compaction_bytes)

    def prepare() -> None:
        for old in (copy, target):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(made, copy)
        target.mkdir()
        os.sync()

    def compacting() -> None:
        with Lake.open(copy) as lake:
            if compact(lake, CompactionOptions()).snapshot is None:
                sys.exit("nothing was compacted")

    def copying() -> None:
        subprocess.run(["cp", "-r", str(copy / "packs"), str(target)], check=True)
        subprocess.run(["sync", "-f", str(target)], check=True)

    contestants = {"compaction": compacting, "cp": copying}
    timing = harness.interleave(contestants, scale.repeats, prepare=prepare)
    size = sum(path.stat().st_size for path in made.glob("packs/*/*.pack"))
    ratio = timing["cp"].median / timing["compaction"].median
    return {
        "pack_bytes": size,
        "compaction": timing["compaction"].facts(),
        "cp_and_sync": timing["cp"].facts(),
        "compaction_mb_per_second": round(size / 1e6 / timing["compaction"].median),
        "cp_mb_per_second": round(size / 1e6 / timing["cp"].median),
        "ratio": round(ratio, 2),
        "cache": "warm",
    }


def readers(work: Path, scale: Scale) -> dict[str, Any]:
    """Return what a reader of single files notices of a compaction beside it."""
    where = work / "readers-lake"
    paths = small_packs(where, scale.compaction_bytes)
    idle = read_latencies(where, paths, scale.reads, lambda: False)
    running = subprocess.Popen(
        [sys.executable, "-c", _COMPACT, str(where)], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    running.stdout.readline()
    busy = read_latencies(where, paths, scale.reads * 20, lambda: running.poll() is not None)
    if running.wait(SETTLE_SECONDS):
        sys.exit("the compaction beside the reader failed")
    p99 = {name: float(np.percentile(found, 99)) for name, found in
           (("idle", idle), ("busy", busy))}  # fmt: skip
    return {
        "reads_idle": len(idle),
        "reads_during_compaction": len(busy),
        "idle_p50_us": round(float(np.percentile(idle, 50)) * 1e6),
        "during_p50_us": round(float(np.percentile(busy, 50)) * 1e6),
        "idle_p99_us": round(p99["idle"] * 1e6),
        "during_p99_us": round(p99["busy"] * 1e6),
        "ratio_p99": round(p99["busy"] / p99["idle"], 2),
        "errors": 0,
        "cache": "warm",
    }


# Rewritten again and again, so that there is a compaction for as long as the reader needs.
_COMPACT = """
import sys
from lakefeed import Lake
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.service.threads import lower_priority
lower_priority()  # as the service does
print("ready", flush=True)
with Lake.open(sys.argv[1]) as lake:
    for target in (32 << 20, 96 << 20, 1 << 30):
        compact(lake, CompactionOptions(target_bytes=target))
"""


def read_latencies(
    where: Path, paths: list[str], reads: int, over: Callable[[], bool]
) -> np.ndarray:
    """Read single files at random, a fresh snapshot every hundred; wrong bytes end the run."""
    numbers = np.random.default_rng(3)
    seconds: list[float] = []
    with Lake.open(where) as lake:
        for path in numbers.choice(paths, 200):  # warm
            lake.snapshot().get(str(path))
        while len(seconds) < reads and not over():
            snapshot = lake.snapshot()
            for path in numbers.choice(paths, 100):
                began = time.perf_counter()
                snapshot.get(str(path))
                seconds.append(time.perf_counter() - began)
    return np.array(seconds)


# -- all of it -------------------------------------------------------------------------------------


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="under a minute, nothing is saved")
    parser.add_argument("--dir", help="where to work; a temporary directory by default")
    parser.add_argument("--files", type=int, help="how many files are taken in, each way")
    options = parser.parse_args()
    scale = SMALL if options.small else FULL
    if options.files:
        scale = Scale(options.files, scale.compaction_bytes, scale.repeats, scale.reads)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        work = Path(name)
        facts: dict[str, Any] = {"inbox": through_inbox(work, scale)}
        settle(work / "inbox-lake")
        facts["inbox_life"] = life(work / "inbox-lake")
        shutil.rmtree(work / "inbox-lake")
        facts["writers"] = through_writers(work, scale)
        settle(work / "writers-lake")
        facts["writers_life"] = life(work / "writers-lake")
        shutil.rmtree(work / "writers-lake")
        facts["bandwidth"] = bandwidth(work, scale)
        facts["readers"] = readers(work, scale)
    show(facts)
    if not options.small:
        print(f"saved {harness.save('service', facts)}")
    return 0


def show(facts: dict[str, Any]) -> None:
    """Print the figures that were asked for, with their limits."""
    inbox, writers = facts["inbox"], facts["writers"]
    rows = [
        ("files/s through the inbox", inbox["files_per_second"],
         f"producer alone {inbox['producer_alone_files_per_second']}"),
        ("ingest lag p99, inbox", f"{inbox['lag_seconds_p99']} s", ""),
        ("commits/s, inbox", inbox["commits_per_second"], ""),
        ("files/s through Writers", writers["files_per_second"], f"{writers['writers']} processes"),
        ("durable p99, Writers", f"{writers['lag_seconds_p99']} s", ""),
        ("commits/s, Writers", writers["commits_per_second"], ""),
    ]  # fmt: skip
    for name in ("inbox", "writers"):
        cost = facts[f"{name}_life"]
        rows.append((f"write amplification, {name}", cost["write_amplification"], "limit 2.5"))
        rows.append((f"index bytes a file, {name}", cost["index_bytes_per_file"], "limit 16"))
    band, read = facts["bandwidth"], facts["readers"]
    rows += [
        ("compaction / cp", f"{band['ratio']}x", f"limit 0.5x; {band['compaction_mb_per_second']} "
         f"and {band['cp_mb_per_second']} MB/s, warm"),
        ("reader p99 during / idle", f"{read['ratio_p99']}x", f"limit 2x; "
         f"{read['during_p99_us']} and {read['idle_p99_us']} us, warm"),
        ("read errors", read["errors"], "limit 0"),
    ]  # fmt: skip
    print(harness.table(["figure", "value", "beside"], rows))


if __name__ == "__main__":
    sys.exit(main())
