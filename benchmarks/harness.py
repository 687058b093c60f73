"""What every benchmark shares: interleaved repeats, medians, results that say where they are from.

A benchmark is a module with a docstring that asks its question, and a `main`. Contestants of one
question run in the same process and in turns (A B C A B C …), so that a machine whose speed drifts
drifts for all of them; medians and ratios are quoted, never single runs.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each repeat of one contestant."""

    name: str
    wall_seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median wall time."""
        return statistics.median(self.wall_seconds)

    @property
    def median_cpu(self) -> float:
        """The median processor time of this process, all threads."""
        return statistics.median(self.cpu_seconds)

    def facts(self) -> dict[str, object]:
        """Return the timing for a result file."""
        return {
            "median_seconds": round(self.median, 6),
            "range_seconds": [round(min(self.wall_seconds), 6), round(max(self.wall_seconds), 6)],
            "median_cpu_seconds": round(self.median_cpu, 6),
            "repeats": len(self.wall_seconds),
        }


def interleave(
    contestants: dict[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Run the contestants in turns and return the time of each repeat, without `prepare`'s."""
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(warm_up + repeats):
        for name, action in contestants.items():
            prepare()
            gc.collect()
            cpu_start, start = time.process_time(), time.perf_counter()
            kept = action()
            seconds, used = time.perf_counter() - start, time.process_time() - cpu_start
            del kept
            if round_number >= warm_up:
                wall[name].append(seconds)
                cpu[name].append(used)
    return {name: Timing(name, tuple(wall[name]), tuple(cpu[name])) for name in contestants}


def in_fresh_process(code: str, *arguments: str) -> dict[str, float]:
    """Run Python code that prints one JSON object last; return it with the peak memory in MB."""
    tail = (
        # Not ru_maxrss: that begins with what the parent held when it forked.
        "\nimport json, re\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())\n"
        "facts['peak_mb'] = int(peak[1]) / 1024\n"
        "print(json.dumps(facts))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *arguments], capture_output=True, text=True, check=True
    )
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def wait_until(holds: Callable[[], bool], seconds_max: float) -> None:
    """Return when a condition of the outside world holds, asked every 50 ms; else TimeoutError."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {seconds_max} s")
        time.sleep(0.05)


def drop_caches() -> bool:
    """Empty the page cache; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def environment() -> dict[str, object]:
    """Return what a reader of a result must know of the machine."""
    packages = ("lakefeed", "pyarrow", "numpy", "crc32c")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def save(name: str, facts: dict[str, object]) -> Path:
    """Write a result beside the others and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {"benchmark": name, "environment": environment(), **facts}
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(headings), ["---"] * len(headings), *[[str(c) for c in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
