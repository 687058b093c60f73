"""Which ways lead encoded samples from a feed's buffer into TensorFlow, and what does each cost?

TensorFlow aliases aligned numbers, but every string of a `tf.string` tensor is memory of its own:
at least one copy. Each way below moves the same batches, held in memory, into a tf.data iterator;
no storage takes part. Each runs in a process of its own, in turns; medians of samples per second
and of processor time. "kept" means that freed memory was kept (`keep_freed_memory`), after
TensorFlow has set malloc's trim threshold to 128 KiB, which it does with its first generator.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import harness

RING = 16
SIZES = {"img": (64, 90_000, 130_000), "tiny": (256, 2_048, 6_144)}


@dataclass(frozen=True, slots=True)
class Batch:
    """One buffer with dense samples, as the feed hands it out, and the same framed for protobuf."""

    data: np.ndarray
    splits: np.ndarray
    framed: np.ndarray

    def views(self) -> list[memoryview]:
        whole = self.data.data
        return [whole[a:b] for a, b in itertools.pairwise(self.splits.tolist())]


def aligned(parts: list[Any]) -> np.ndarray:
    joined = np.frombuffer(b"".join(parts), np.uint8)
    raw = np.empty(len(joined) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    raw[start : start + len(joined)] = joined
    return raw[start : start + len(joined)]


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def example(views: list[memoryview]) -> list[Any]:
    """The parts of one tf.train.Example whose feature "v" lists all samples of a batch."""
    heads = [b"\n" + varint(len(view)) for view in views]
    length = sum(map(len, heads)) + sum(map(len, views))
    # BytesList in Feature, in a map entry with its key, in Features, in Example.
    head = b"\n" + varint(length)
    for tag in (b"\n\x01v\x12", b"\n", b"\n"):
        head = tag + varint(len(head) + length) + head
    return [head, *itertools.chain.from_iterable(zip(heads, views, strict=True))]


def ring(kind: str) -> list[Batch]:
    count, low, high = SIZES[kind]
    chance = np.random.default_rng(0)
    batches = []
    for _ in range(RING):
        lengths = chance.integers(low, high, count)
        splits = np.concatenate([[0], np.cumsum(lengths)])
        batch = Batch(aligned([chance.bytes(int(splits[-1]))]), splits, np.empty(0, np.uint8))
        batches.append(Batch(batch.data, splits, aligned(example(batch.views()))))
    return batches


# -- the ways: from (tf, batches) to a dataset -----------------------------------------------------


def turns(batches: list[Batch], action: Callable[[Batch], Any]) -> Callable[[], Iterator[Any]]:
    return lambda: map(action, itertools.cycle(batches))


def parsed(tf: Any, text: Any) -> Any:
    feature = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
    return tf.io.parse_single_example(text, {"v": feature})["v"]


def generated(tf: Any, batches: list[Batch], action: Callable[[Batch], Any], spec: Any) -> Any:
    return tf.data.Dataset.from_generator(turns(batches, action), output_signature=spec)


def buffer(tf: Any, batches: list[Batch]) -> Any:
    spec = (tf.TensorSpec([None], tf.uint8), tf.TensorSpec([None], tf.int64))
    return generated(tf, batches, lambda b: (b.data, b.splits), spec)


def one_sample(tf: Any, batches: list[Batch]) -> Any:
    def samples() -> Iterator[bytes]:
        for batch in itertools.cycle(batches):
            yield from map(bytes, batch.views())

    spec = tf.TensorSpec([], tf.string)
    data = tf.data.Dataset.from_generator(samples, output_signature=spec)
    return data.batch(len(batches[0].splits) - 1)


def bytes_list(tf: Any, batches: list[Batch]) -> Any:
    spec = tf.TensorSpec([None], tf.string)
    return generated(tf, batches, lambda b: list(map(bytes, b.views())), spec)


def py_function(tf: Any, batches: list[Batch]) -> Any:
    source = turns(batches, lambda b: tf.constant(list(map(bytes, b.views()))))()

    def one(_: Any) -> Any:
        return tf.ensure_shape(tf.py_function(lambda: next(source), [], tf.string), [None])

    return tf.data.Dataset.range(1 << 40).map(one)


def joined_example(tf: Any, batches: list[Batch]) -> Any:
    spec = tf.TensorSpec([], tf.string)
    data = generated(tf, batches, lambda b: b"".join(example(b.views())), spec)
    return data.map(lambda text: parsed(tf, text), num_parallel_calls=2)


def framed_example(tf: Any, batches: list[Batch]) -> Any:
    def strings(framed: Any) -> Any:
        text = tf.io.serialize_tensor(framed)
        return parsed(tf, tf.strings.substr(text, tf.strings.length(text) - tf.size(framed), -1))

    data = generated(tf, batches, lambda b: b.framed, tf.TensorSpec([None], tf.uint8))
    return data.map(strings, num_parallel_calls=2)


def serialized_each(tf: Any, batches: list[Batch]) -> Any:
    import lakefeed.tf

    data = buffer(tf, batches)
    return data.map(
        lambda data, splits: lakefeed.tf.strings({"data": data, "row_splits": splits}),
        num_parallel_calls=2,
    )


def substr_of_one(tf: Any, batches: list[Batch]) -> Any:
    spec = (tf.TensorSpec([], tf.string), tf.TensorSpec([None], tf.int64))
    data = generated(tf, batches, lambda b: (b.data.tobytes(), b.splits), spec)
    return data.map(
        lambda text, splits: tf.strings.substr(text, splits[:-1], splits[1:] - splits[:-1]),
        num_parallel_calls=2,
    )


def memory_file(tf: Any, batches: list[Batch]) -> Any:
    descriptors = itertools.cycle([os.memfd_create("batch") for _ in range(8)])

    def write(batch: Batch) -> bytes:
        descriptor, parts, at = next(descriptors), example(batch.views()), 0
        for low in range(0, len(parts), 1024):
            at += os.pwritev(descriptor, parts[low : low + 1024], at)
        os.ftruncate(descriptor, at)
        return f"/proc/self/fd/{descriptor}".encode()

    data = generated(tf, batches, write, tf.TensorSpec([], tf.string))
    return data.map(lambda name: parsed(tf, tf.io.read_file(name)), num_parallel_calls=2)


WAYS: dict[str, tuple[Callable[[Any, list[Batch]], Any], bool]] = {
    "buffer: uint8 and splits, aliased": (buffer, False),
    "one bytes object a yield": (one_sample, True),
    "list of bytes": (bytes_list, False),
    "list of bytes, kept": (bytes_list, True),
    "list of bytes by py_function, kept": (py_function, True),
    "joined as one Example, parse_single_example, kept": (joined_example, True),
    "framed buffer, serialize_tensor, parse_single_example, kept": (framed_example, True),
    "buffer, serialize_tensor and substr each, kept": (serialized_each, True),
    "one string, substr with vectors, kept": (substr_of_one, True),
    "memory file, read_file, parse_single_example, kept": (memory_file, True),
}


def run(way: str, seconds: float) -> dict[str, float]:
    """Return samples per second and processor time for both kinds of samples."""
    import tensorflow as tf

    facts = {}
    for kind in SIZES:
        for key, value in time_one(tf, way, ring(kind), seconds).items():
            facts[f"{kind}_{key}"] = value
    return facts


def time_one(tf: Any, way: str, batches: list[Batch], seconds: float) -> dict[str, float]:
    """Check the first batch, then count samples for some seconds."""
    from lakefeed.tf import keep_freed_memory

    make, kept = WAYS[way]
    iterator = iter(make(tf, batches))
    first = next(iterator)
    if not isinstance(first, tuple):
        assert first.numpy().tolist() == [bytes(view) for view in batches[0].views()], way
    if kept:
        keep_freed_memory()
    for _ in range(5):
        next(iterator)
    samples, begun, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        element = next(iterator)
        samples += len(element[1]) - 1 if isinstance(element, tuple) else len(element)
    wall, cpu = time.perf_counter() - begun, time.process_time() - used
    return {"per_second": samples / wall, "cpu": cpu / samples * 1e6}


def main() -> None:
    """Run the benchmark, print its table, write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="one short round")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds, rounds = (0.5, 1) if options.small else (2.0, 3)
    if options.one:
        print(json.dumps(run(options.one, seconds)))
        return
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.tf_paths", "--one", way]
            command += ["--small"] if options.small else []
            done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        way: {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        for way, runs in found.items()
    }
    rows = [
        (way, *(f"{facts[f'{kind}_{key}']:,.{digits}f}"
                for kind in SIZES for key, digits in (("per_second", 0), ("cpu", 1))))
        for way, facts in medians.items()
    ]  # fmt: skip
    head = ["way", "img/s", "CPU µs", "tiny/s", "CPU µs"]
    print(harness.table(head, rows))
    print(harness.save("tf_paths_small" if options.small else "tf_paths", {"ways": medians}))


if __name__ == "__main__":
    main()
