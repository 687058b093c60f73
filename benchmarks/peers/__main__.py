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
for everybody, its page cache empty. A warm run goes through epochs for half of `--seconds` at
least, any other ends with its epoch, and every run after `--seconds`.

    python -m benchmarks.peers --install     # makes .venv-peers, once
    python -m benchmarks.peers [--small] [--dir DIR] [--cells warm/img,far/tiny] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.peers.contest import COUNTS, SMALL, Contestant, make_files, sizes
from benchmarks.peers.everybody import EVERYBODY, folder

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = ROOT / ".venv-peers"
CELLS = ("warm/tiny", "warm/img", "warm/big", "cold/tiny", "cold/img",
         "far/tiny", "far/img", "nas/tiny", "nas/img")  # fmt: skip
SMALL_CELLS = ("warm/tiny", "far/tiny")
# A run that hangs is no result; the slowest start (TensorFlow, cold) takes half a minute.
_RUN_SECONDS_MAX = 90


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
    pip = [str(PEERS / "bin/python"), "-m", "pip", "install", "-q", "--no-deps"]
    # Without their dependencies: torchvision and a CUDA build of torch are among them.
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)


def call(
    contestant: type[Contestant], stage: str, kind: str, volume: Path, times: tuple[str, ...] = ()
) -> dict[str, float] | str:
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
                              timeout=_RUN_SECONDS_MAX)  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"did not end within {_RUN_SECONDS_MAX} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:160]
    facts: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def lacking(python: Path) -> dict[str, str]:
    """Return why contestants cannot run, asked in the environment they would run in."""
    code = ("import json; from benchmarks.peers.everybody import EVERYBODY, lacking; "
            "print(json.dumps({each.__name__: lacking(each) for each in EVERYBODY}))")  # fmt: skip
    done = subprocess.run(
        [str(python), "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    answers: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return {name: reason for name, reason in answers.items() if reason}


def prepare(setting: Setting, ready: list[type[Contestant]]) -> dict[str, str]:
    """Write files and formats; return who could not, and why."""
    failed = {}
    for kind in sorted({cell.split("/")[1] for cell in setting.cells}):
        base = setting.volume / kind
        print(f"# {setting.counts[kind]} files of {kind}", file=sys.stderr, flush=True)
        make_files(base / "files", kind, setting.counts[kind])
        made = set()
        for contestant in ready:
            if contestant.__name__ in failed or folder(contestant) in made:
                continue
            made.add(folder(contestant))
            print(f"#   {contestant.name}", file=sys.stderr, flush=True)
            answer = call(contestant, "prepare", kind, setting.volume)
            if isinstance(answer, str):
                failed[contestant.__name__] = f"prepare: {answer}"
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


def measure(setting: Setting, cell: str, contestant: type[Contestant]) -> dict[str, float] | str:
    """Return one run; a whole epoch that is not what was put in is an error."""
    condition, kind = cell.split("/")
    with seen(setting, condition) as volume:
        if condition == "cold":
            harness.drop_caches()
        least = setting.seconds / 2 if condition == "warm" else 0
        times = ("--seconds", str(setting.seconds), "--least", str(least))
        answer = call(contestant, "run", kind, volume, times)
    if isinstance(answer, dict) and answer["whole"]:
        wanted = (setting.counts[kind], sum(sizes(kind, setting.counts[kind])))
        got = (answer["first_samples"], answer["first_bytes"])
        if got != wanted:
            return f"delivered {got[0]} samples, {got[1]} bytes of {wanted[0]}, {wanted[1]}"
    return answer


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of a contestant's runs in one cell."""

    def median(of: object) -> float:
        return statistics.median(of(run) for run in runs)  # type: ignore[operator]

    return {
        "samples_per_second": round(median(lambda run: run["samples"] / run["seconds"])),
        "mb_per_second": round(median(lambda run: run["bytes"] / run["seconds"] / 1e6), 1),
        "cpu_seconds_per_million": round(
            median(lambda run: run["cpu_seconds"] / run["samples"] * 1e6), 1
        ),
        "peak_mb": round(median(lambda run: run["peak_mb"])),
        "whole_epochs": sum(run["whole"] for run in runs),
        "runs": len(runs),
    }


def contest(setting: Setting) -> dict[str, object]:
    """Run every cell and return its figures by contestant, or why there are none."""
    python = PEERS / "bin/python"
    missing = lacking(python if python.exists() else Path(sys.executable))
    ready = [each for each in EVERYBODY if each.__name__ not in missing]
    missing |= prepare(setting, ready)
    cells: dict[str, object] = {}
    for cell in setting.cells:
        runs: dict[str, list[dict[str, float]]] = {each.name: [] for each in EVERYBODY}
        why = {each.name: missing.get(each.__name__, "") for each in EVERYBODY}
        rounds = setting.rounds if cell.startswith("warm") else max(1, setting.rounds // 3)
        for turn in range(rounds):
            for each in EVERYBODY:
                if why[each.name]:
                    continue
                print(f"# {cell}, round {turn + 1}: {each.name}", file=sys.stderr, flush=True)
                answer = measure(setting, cell, each)
                if isinstance(answer, str):
                    why[each.name] = answer
                else:
                    runs[each.name].append(answer)
        cells[cell] = {
            name: why[name] or summary(found) for name, found in runs.items() if found or why[name]
        }
        print(report(cell, cells[cell]), flush=True)  # type: ignore[arg-type]
    return cells


def report(cell: str, figures: dict[str, dict[str, float] | str]) -> str:
    """Return one cell as a table, the fastest first; who has no figure says why below it."""
    simulated = " (simulated)" if cell.split("/")[0] in ("far", "nas") else ""
    good = {name: facts for name, facts in figures.items() if isinstance(facts, dict)}
    limit = good.get("limit: bare preadv", {}).get("samples_per_second")
    rows = [
        (name, facts["samples_per_second"], facts["mb_per_second"],
         f"{facts['samples_per_second'] / limit:.2f}" if limit else "",
         facts["cpu_seconds_per_million"], facts["peak_mb"])
        for name, facts in sorted(good.items(), key=lambda pair: -pair[1]["samples_per_second"])
    ]  # fmt: skip
    headings = (cell + simulated, "samples/s", "MB/s", "of the limit", "CPU s / million", "peak MB")
    without = [f"- {name}: {why}" for name, why in figures.items() if isinstance(why, str)]
    return "\n".join(["", harness.table(headings, rows), "", *without])


def main() -> None:
    """Parse, run, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--install", action="store_true", help="make .venv-peers and stop")
    parser.add_argument("--small", action="store_true", help="a few cells of little data")
    parser.add_argument("--dir", type=Path, default=None, help="where the data goes")
    parser.add_argument("--cells", default=None, help=f"some of {','.join(CELLS)}")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None, help="longest run")
    options = parser.parse_args()
    if options.install:
        install()
        return
    cells = options.cells.split(",") if options.cells else SMALL_CELLS if options.small else CELLS
    scratch = Path(tempfile.mkdtemp(prefix="lakefeed-peers-", dir=options.dir))
    setting = Setting(
        scratch,
        SMALL if options.small else COUNTS,
        list(cells),
        options.rounds or (1 if options.small else 3),
        options.seconds or (2 if options.small else 4),
    )
    try:
        found = contest(setting)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    facts = {"counts": setting.counts, "rounds": setting.rounds, "seconds_max": setting.seconds,
             "simulated": ["far", "nas"], "cells": found}  # fmt: skip
    print(harness.save("peers_small" if options.small else "peers", facts))


if __name__ == "__main__":
    main()
