"""One contestant, one run, one process: `python -m benchmarks.peers.measure NAME STAGE KIND …`.

Prints one JSON object: samples a second, processor time of this process and of the children it
waited for, peak memory of both. The start of Python and the import of the framework are not in it.

With `--again` the contestant goes through epochs and is measured from its first batch on: the
steady state, buffers filled and everything compiled. Without, it is measured from the beginning to
the epoch's end, start included.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import time
from pathlib import Path

from benchmarks.peers.contest import Task
from benchmarks.peers.everybody import EVERYBODY, folder


def main() -> None:
    """Prepare or run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("stage", choices=["prepare", "run"])
    parser.add_argument("kind")
    parser.add_argument("volume", type=Path)
    parser.add_argument("--condition", default="warm")
    parser.add_argument("--seconds", type=float, default=5, help="stop so long behind the first")
    parser.add_argument("--again", action="store_true", help="epoch after epoch")
    options = parser.parse_args()
    (kind,) = (each for each in EVERYBODY if each.__name__ == options.name)
    base = options.volume / options.kind
    task = Task(options.kind, base / "files", base / folder(kind), options.condition,
                options.seconds, options.again)  # fmt: skip
    if options.stage == "prepare":
        task.where.mkdir(parents=True, exist_ok=True)
        kind().prepare(task)
        print(json.dumps({}))
    else:
        print(json.dumps(run(kind, task)))


def run(kind: type, task: Task) -> dict[str, object]:
    """Return what one run comes to."""
    contestant = kind()
    for need in contestant.needs:
        if need != "root" and not need.startswith("program:"):
            __import__(need)
    cpu, start = _cpu_seconds(), time.perf_counter()
    done = contestant.run(task)
    seconds = time.perf_counter() - start
    first = done.first_at - start
    samples, used = done.samples, _cpu_seconds() - cpu
    if task.again:
        samples, seconds = samples - done.first_samples, seconds - first
        used -= done.first_cpu - cpu
    return {
        "samples_per_second": samples / seconds,
        "mb_per_second": done.bytes / done.samples * samples / seconds / 1e6,
        "cpu_seconds_per_million": used / samples * 1e6,
        "peak_mb": _peak_mb(),
        "first_seconds": first,
        "epoch": done.epoch,
    }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_mb() -> float:
    """Return this process's own peak and that of its largest child."""
    # Not ru_maxrss: that begins with what the parent held when it forked.
    own = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return ((int(own[1]) if own else 0) + child) / 1024


if __name__ == "__main__":
    main()
