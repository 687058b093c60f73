"""One contestant, one run, one process: `python -m benchmarks.peers.measure NAME STAGE KIND …`.

Prints one JSON object: samples and bytes delivered, seconds from the first request to the last
batch, processor seconds of this process and the children it waited for, peak memory of both. The
start of Python and the import of the framework are not in the seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from benchmarks.peers.contest import Delivered, Task
from benchmarks.peers.everybody import EVERYBODY, folder


def main() -> None:
    """Prepare or run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("stage", choices=["prepare", "run"])
    parser.add_argument("kind")
    parser.add_argument("volume", type=Path)
    parser.add_argument("--seconds", type=float, default=5, help="stop behind this many")
    parser.add_argument("--least", type=float, default=0, help="epochs until this many are over")
    options = parser.parse_args()
    (kind,) = (each for each in EVERYBODY if each.__name__ == options.name)
    base = options.volume / options.kind
    task = Task(options.kind, base / "files", base / folder(kind), float("inf"))
    contestant = kind()
    if options.stage == "prepare":
        task.where.mkdir(parents=True, exist_ok=True)
        contestant.prepare(task)
        print(json.dumps({}))
        return
    for need in contestant.needs:
        if need != "root" and not need.startswith("program:"):
            __import__(need)
    cpu, start = _cpu_seconds(), time.perf_counter()
    task = Task(task.kind, task.files, task.where, time.monotonic() + options.seconds)
    epochs: list[Delivered] = []
    while not epochs or (epochs[-1].whole and time.perf_counter() - start < options.least):
        epochs.append(contestant.run(task))
    facts = {
        "samples": sum(epoch.samples for epoch in epochs),
        "bytes": sum(epoch.bytes for epoch in epochs),
        "whole": sum(epoch.whole for epoch in epochs),
        "first_samples": epochs[0].samples,
        "first_bytes": epochs[0].bytes,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": _cpu_seconds() - cpu,
        "peak_mb": sum(_peak_mb(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)),
    }
    print(json.dumps(facts))


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


if __name__ == "__main__":
    main()
