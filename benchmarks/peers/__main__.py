"""Which loader delivers raw samples fastest from memory, disk and a slow volume, and at what cost?

Expected. Warm, what costs is what happens for each sample: a native loop a few microseconds, Python
tens, a hop between processes more. Under latency the number of requests in flight decides, and how
big they are. So packs read in large ranges into shared buffers should come near the limit (bare
`preadv` of the same bytes), loaders of one file or record at a time a factor of ten to a hundred
below it for small samples, and all alike for samples above a hundred kilobytes with 64 in flight.

All contestants get the same unique incompressible bytes: img 90 to 130 kB, tiny 2 to 6 KiB, big
2.5 MB. Each delivers whole samples, as shuffled as it can, into its framework's process. Each run
is a process of its own; rounds go through all contestants in turns; medians are printed. Checksums
are on where a format has them. `far` and `nas` are simulated (`benchmarks.slowfs`): the same mount
for everybody, its page cache empty. A warm run goes through epochs and is measured in the steady
state, from the first batch on; any other is one epoch from its start, over after `--seconds` behind
the first batch, which whoever comes near the limit does not need. `--cells` measures some anew, the
others stay as they were saved.

    python -m benchmarks.peers --install     # makes .venv-peers, once
    python -m benchmarks.peers [--small] [--dir DIR] [--cells warm/img,far/tiny] [--rounds 3]
    python -m benchmarks.peers --report      # the saved result as benchmarks/PEERS.md, once more
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peers.contest import COUNTS, SMALL, Contestant, make_files, sizes
from benchmarks.peers.everybody import EVERYBODY, folder
from benchmarks.peers.picture import draw
from benchmarks.peers.report import Figures, page, report

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = ROOT / ".venv-peers"
CONDITIONS = ("warm", "far", "nas", "cold")  # cold last: it leaves nothing in memory
# One kind after the other, so that all formats of one fit into memory.
CELLS = tuple(f"{condition}/{kind}" for kind in ("tiny", "img", "big") for condition in CONDITIONS)
SMALL_CELLS = ("warm/tiny", "far/tiny")
# A run that hangs is no result; the slowest start (TensorFlow, cold) takes half a minute, and the
# slowest writer of a format a minute, on a quiet machine.
_SECONDS_MAX = {"run": 90, "prepare": 600}


@dataclass(frozen=True, slots=True)
class Setting:
    """How the whole benchmark runs."""

    volume: Path
    counts: dict[str, int]
    cells: list[str]
    rounds: int
    seconds: float


def install() -> None:
    """Make `.venv-peers`; what it lacks is lent by the environment that runs this."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEERS)], check=True)
    (packages,) = PEERS.glob("lib/python*/site-packages")
    (packages / "zz_lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Without their dependencies: a CUDA build of torch is among them.
    pip = [str(PEERS / "bin/python"), "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    for package in (HERE / "requirements-hard.txt").read_text().splitlines():
        if package.startswith("#"):
            continue
        done = subprocess.run([*pip, "--no-build-isolation", package], check=False)
        if done.returncode:
            print(f"install: without {package}, its contestant will say so", file=sys.stderr)


def environment() -> dict[str, str]:
    """Return what runs get: their parent's, but compiled modules are kept, as users have them."""
    return {name: value for name, value in os.environ.items()
            if name != "PYTHONDONTWRITEBYTECODE"}  # fmt: skip


def call(
    contestant: type[Contestant], stage: str, kind: str, volume: Path, times: tuple[str, ...] = ()
) -> dict[str, Any] | str:
    """Return what one run measured, or the last line of what went wrong."""
    python = PEERS / "bin/python"
    program = str(python if python.exists() else sys.executable)
    command = [
        program,
        "-m",
        "benchmarks.peers.measure",
        contestant.__name__,
        stage,
        kind,
        str(volume),
    ]
    command += times
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                              timeout=_SECONDS_MAX[stage], env=environment())  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"did not end within {_SECONDS_MAX[stage]} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:160]
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def lacking(python: Path) -> dict[str, str]:
    """Return why contestants cannot run, asked in the environment they would run in."""
    code = ("import json; from benchmarks.peers.everybody import EVERYBODY, lacking; "
            "print(json.dumps({each.__name__: lacking(each) for each in EVERYBODY}))")  # fmt: skip
    done = subprocess.run(
        [str(python), "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env=environment(),
    )  # fmt: skip
    answers: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return {name: reason for name, reason in answers.items() if reason}


def prepare(setting: Setting, kind: str, ready: list[type[Contestant]]) -> dict[str, str]:
    """Write files and formats of one kind; return who could not, and why."""
    failed = {}
    base = setting.volume / kind
    say(f"{setting.counts[kind]} files of {kind}")
    make_files(base / "files", kind, setting.counts[kind])
    made: dict[str, str] = {}
    for contestant in ready:
        where = folder(contestant)
        if where not in made:
            say(f"  {contestant.name}")
            answer = call(contestant, "prepare", kind, setting.volume)
            made[where] = f"prepare: {answer}" if isinstance(answer, str) else ""
        if made[where]:
            failed[contestant.__name__] = made[where]
    os.sync()
    return failed


@contextmanager
def seen(setting: Setting, condition: str) -> Iterator[Path]:
    """Lend the volume as a condition shows it."""
    if condition in ("warm", "cold"):
        yield setting.volume
        return
    point = Path(tempfile.mkdtemp(prefix="lakefeed-slow-"))
    command = [sys.executable, "-m", "benchmarks.slowfs", str(setting.volume), str(point)]
    server = subprocess.Popen([*command, "--model", condition], cwd=ROOT)
    try:
        harness.wait_until(lambda: any(point.iterdir()), 30)
        yield point
    finally:
        server.terminate()
        server.wait(30)
        point.rmdir()


def measure(setting: Setting, cell: str, contestant: type[Contestant]) -> dict[str, Any] | str:
    """Return one run; a whole epoch that is not what was put in is an error."""
    condition, kind = cell.split("/")
    times = ["--condition", condition, "--seconds", str(setting.seconds)]
    if condition == "warm":
        times.append("--again")
    with seen(setting, condition) as volume:
        if condition == "cold":
            harness.drop_caches()
        answer = call(contestant, "run", kind, volume, tuple(times))
    wanted = [setting.counts[kind], sum(sizes(kind, setting.counts[kind]))]
    if isinstance(answer, dict) and answer["epoch"] not in (None, wanted):
        return "delivered {} samples, {} bytes of {}, {}".format(*answer["epoch"], *wanted)
    return answer


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the medians of a contestant's runs in one cell."""
    digits = {"samples_per_second": None, "mb_per_second": 1, "cpu_seconds_per_million": 1,
              "peak_mb": None, "first_seconds": 3}  # fmt: skip
    facts = {
        name: round(statistics.median(run[name] for run in runs), places)
        for name, places in digits.items()
    }
    return {**facts, "whole_epochs": sum(run["epoch"] is not None for run in runs),
            "runs": len(runs)}  # fmt: skip


def contest(setting: Setting) -> dict[str, Figures]:
    """Run every cell and return its figures by contestant, or why there are none."""
    python = PEERS / "bin/python"
    missing = lacking(python if python.exists() else Path(sys.executable))
    ready = [each for each in EVERYBODY if each.__name__ not in missing]
    cells: dict[str, Figures] = {}
    for kind in dict.fromkeys(cell.split("/")[1] for cell in setting.cells):
        unable = missing | prepare(setting, kind, ready)
        for cell in [cell for cell in setting.cells if cell.endswith(f"/{kind}")]:
            cells[cell] = contest_cell(setting, cell, unable)
            print(report(cell, cells[cell]), flush=True)
        shutil.rmtree(setting.volume / kind)
    return cells


def contest_cell(setting: Setting, cell: str, unable: dict[str, str]) -> Figures:
    """Run one cell, everybody in turns."""
    runs: dict[str, list[dict[str, Any]]] = {each.name: [] for each in EVERYBODY}
    why = {each.name: unable.get(each.__name__, "") for each in EVERYBODY}
    for turn in range(setting.rounds if cell.startswith("warm") else 1):
        for each in EVERYBODY:
            if why[each.name]:
                continue
            say(f"{cell}, round {turn + 1}: {each.name}")
            answer = measure(setting, cell, each)
            if isinstance(answer, str):
                why[each.name] = answer
            else:
                runs[each.name].append(answer)
    return {name: why[name] or summary(found) for name, found in runs.items()}


def say(line: str) -> None:
    """Show on the error stream where the benchmark is."""
    print(f"# {time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Parse, run, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--install", action="store_true", help="make .venv-peers and stop")
    parser.add_argument("--report", action="store_true", help="write PEERS.md and stop")
    parser.add_argument("--small", action="store_true", help="a few cells of little data")
    parser.add_argument("--dir", type=Path, default=None, help="where the data goes")
    parser.add_argument("--cells", default=None, help=f"some of {','.join(CELLS)}")
    parser.add_argument("--rounds", type=int, default=1, help="of the warm cells")
    parser.add_argument("--seconds", type=float, default=None, help="longest run")
    options = parser.parse_args()
    if options.install:
        install()
        return
    if options.report:
        write_page()
        return
    cells = options.cells.split(",") if options.cells else SMALL_CELLS if options.small else CELLS
    scratch = Path(tempfile.mkdtemp(prefix="lakefeed-peers-", dir=options.dir))
    setting = Setting(
        scratch,
        SMALL if options.small else COUNTS,
        list(cells),
        options.rounds,
        options.seconds or (1 if options.small else 4),
    )
    try:
        found = contest(setting)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    name = "peers_small" if options.small else "peers"
    facts = {"counts": setting.counts, "rounds": setting.rounds, "seconds_max": setting.seconds,
             "simulated": ["far", "nas"], **with_saved(name, setting, found)}  # fmt: skip
    print(harness.save(name, facts))
    if not options.small:
        write_page()


def with_saved(name: str, setting: Setting, found: dict[str, Figures]) -> dict[str, Any]:
    """Return the cells, those that were saved with the same data as well, and when each ran."""
    now = harness.environment()
    cells, ran = dict(found), dict.fromkeys(found, (now["date"], now["commit"]))
    saved = load(name) if (harness.RESULTS / f"{name}.json").exists() else {}
    if saved.get("counts") == setting.counts:
        then = saved["environment"]
        before = dict.fromkeys(saved["cells"], (then["date"], then["commit"]))
        cells, ran = saved["cells"] | cells, before | saved.get("ran", {}) | ran
    order = [cell for cell in CELLS if cell in cells]
    return {
        "ran": {cell: ran[cell] for cell in order},
        "cells": {each: cells[each] for each in order},
    }


def load(name: str) -> dict[str, Any]:
    """Return a saved result."""
    document: dict[str, Any] = json.loads((harness.RESULTS / f"{name}.json").read_text())
    return document


def write_page() -> None:
    """Write the saved result as a page and a picture."""
    document = load("peers")
    (HERE.parent / "PEERS.md").write_text(page(document))
    draw(document, HERE.parent / "peers.png")


if __name__ == "__main__":
    main()
