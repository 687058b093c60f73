"""How fast do a lake's files reach tf.data, beside TFRecord and plain files?

Sketch: a picture of 110 kB is one read and one checksum (8 µs); as `buffer` TensorFlow takes the
memory over, so the volume's bandwidth is the limit. As `bytes` each payload is copied twice more
(20 µs), which is what the native TFRecordDataset does as well. Tiny files cost a Python bytes
object each (2 µs), so `bytes` should reach half of `buffer`.

Contestants run in processes of their own, in turns; the first epoch is a warm-up that checks the
bytes. The page cache is warm. Samples per second are medians; TFRecord reads in file order,
lakefeed shuffles pictures globally and tiny files in runs of 8, plain files are shuffled by name.
Several epochs are run through, so the start of each one is counted, by one iterator that repeats:
whoever drops an iterator waits, now and then, for TensorFlow's tuning thread, which misses the
signal to stop and sleeps on for as long as the iteration has lasted (docs/TENSORFLOW.md). That hits
all contestants at random, and the quickest hardest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

SHARDS = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of data: unique random bytes, because nothing may be compressed or found twice."""

    count: int
    low: int
    high: int
    batch: int
    shuffle: str


KINDS = {
    "img": Kind(8_000, 90_000, 130_000, 64, "global"),
    "tiny": Kind(150_000, 2_048, 6_144, 256, "runs=8"),
}
SMALL = {"img": Kind(2_000, 90_000, 130_000, 64, "global"),
         "tiny": Kind(30_000, 2_048, 6_144, 256, "runs=8")}  # fmt: skip


def prepare(where: Path, kind: Kind) -> None:
    """Write the same samples as a lake, as TFRecord shards and as plain files."""
    import tensorflow as tf

    from lakefeed import Lake

    chance = np.random.default_rng(1)
    sizes = chance.integers(kind.low, kind.high, kind.count)
    shards = [tf.io.TFRecordWriter(str(where / f"{at}.tfrecord")) for at in range(SHARDS)]
    with Lake.create(where / "lake") as lake, lake.writer() as writer:
        for number, size in enumerate(sizes.tolist()):
            data = chance.bytes(size)
            path = f"{number // 1000:04d}/{number:07d}.bin"
            writer.put(path, data)
            shards[number * SHARDS // kind.count].write(data)
            plain = where / "files" / path
            plain.parent.mkdir(parents=True, exist_ok=True)
            plain.write_bytes(data)
    for shard in shards:
        shard.close()
    (where / "facts.json").write_text(json.dumps({"bytes": int(sizes.sum())}))


# -- contestants -----------------------------------------------------------------------------------


def lakefeed_buffer(where: Path, kind: Kind) -> Any:
    import lakefeed.tf

    options = {"batch_size": kind.batch, "shuffle": kind.shuffle, "seed": 1}
    return lakefeed.tf.dataset(where / "lake", elements="buffer", **options).prefetch(2)


def lakefeed_bytes(where: Path, kind: Kind) -> Any:
    import lakefeed.tf

    options = {"batch_size": kind.batch, "shuffle": kind.shuffle, "seed": 1}
    return lakefeed.tf.dataset(where / "lake", **options).prefetch(2)


def tfrecord(where: Path, kind: Kind) -> Any:
    import tensorflow as tf

    names = [str(where / f"{at}.tfrecord") for at in range(SHARDS)]
    return tf.data.TFRecordDataset(names).batch(kind.batch).prefetch(2)


def tfrecord_parallel(where: Path, kind: Kind) -> Any:
    import tensorflow as tf

    names = [str(where / f"{at}.tfrecord") for at in range(SHARDS)]
    records = tf.data.TFRecordDataset(names, num_parallel_reads=SHARDS)
    return records.shuffle(1024, seed=1).batch(kind.batch).prefetch(2)


def files(where: Path, kind: Kind, width: int | None = None) -> Any:
    import tensorflow as tf

    names = sorted(str(path) for path in (where / "files").rglob("*.bin"))
    data = tf.data.Dataset.from_tensor_slices(names).shuffle(len(names), seed=1)
    return data.map(tf.io.read_file, width or tf.data.AUTOTUNE).batch(kind.batch).prefetch(2)


def files_64(where: Path, kind: Kind) -> Any:
    return files(where, kind, 64)


CONTESTANTS: dict[str, Callable[[Path, Kind], Any]] = {
    "lakefeed buffer": lakefeed_buffer,
    "lakefeed bytes": lakefeed_bytes,
    "TFRecord, sequential": tfrecord,
    "TFRecord, 4 readers, shuffle(1024)": tfrecord_parallel,
    "plain files, AUTOTUNE": files,
    "plain files, 64 wide": files_64,
}


# -- one run, in a process of its own --------------------------------------------------------------


def run(name: str, where: Path, kind: Kind, seconds: float) -> dict[str, float]:
    """Check one epoch's bytes, then count samples for some seconds."""
    import tensorflow as tf

    data = CONTESTANTS[name](where, kind)
    found = sum(size_of(tf, element) for element in data)
    expected = json.loads((where / "facts.json").read_text())["bytes"]
    if found != expected:
        raise SystemExit(f"{name}: {found} bytes, expected {expected}")
    samples, begun, used = 0, time.perf_counter(), time.process_time()
    for element in data.repeat():
        samples += len(element["row_splits"]) - 1 if isinstance(element, dict) else len(element)
        if time.perf_counter() - begun > seconds:
            break
    wall, cpu = time.perf_counter() - begun, time.process_time() - used
    return {"per_second": samples / wall, "cpu": cpu / samples * 1e6, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the peak memory; not ru_maxrss, which begins with what the parent held at the fork."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1]) / 1024


def size_of(tf: Any, element: Any) -> int:
    if isinstance(element, dict):
        return int(element["data"].shape[0])
    return int(tf.reduce_sum(tf.strings.length(element)))


def measure(where: Path, name: str, kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one contestant in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.tf_data", "--one", name, "--kind", kind,
               "--dir", str(where), "--seconds", str(options.seconds)]  # fmt: skip
    command += ["--small"] if options.small else []
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} on {kind} failed:\n{done.stderr[-2000:]}")
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def compare(where: Path, kind: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the medians of all contestants, which take turns."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.rounds):
        for name in CONTESTANTS:
            runs[name].append(measure(where, name, kind, options))
    return {
        name: {key: round(statistics.median(run[key] for run in found), 2) for key in found[0]}
        for name, found in runs.items()
    }


def main() -> None:
    """Run the benchmark, print its tables, write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="less data, one round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.small else 3)
    options.seconds = options.seconds or (1.0 if options.small else 4.0)
    kinds = SMALL if options.small else KINDS
    if options.one:
        print(json.dumps(run(options.one, options.dir, kinds[options.kind], options.seconds)))
        return
    results = {}
    for name, kind in kinds.items():
        with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
            prepare(Path(scratch), kind)
            results[name] = compare(Path(scratch), name, options)
        base = results[name]["TFRecord, sequential"]["per_second"]
        rows = [(way, f"{facts['per_second']:,.0f}", f"{facts['per_second'] / base:.2f}",
                 f"{facts['cpu']:.1f}", f"{facts['peak_mb']:.0f}")
                for way, facts in results[name].items()]  # fmt: skip
        head = [f"{name}, page cache warm", "samples/s", "to TFRecord", "CPU s per million",
                "peak MB"]  # fmt: skip
        print("\n" + harness.table(head, rows), flush=True)
    print(harness.save("tf_data_small" if options.small else "tf_data", {"tf_data": results}))


if __name__ == "__main__":
    main()
