"""`bench train` with emulated accelerators: sources side by side, the ceiling, the sweep.

1. Check that there is enough data for the number of accelerators. 2. Measure the ceiling: the same
ranks on batches from memory. 3. Run each source, cold if asked. 4. With a sweep, double the
accelerators until AU falls below the threshold, then close in. 5. Judge.

The result is the report's dictionary; nothing is printed here. `say` hears what is going on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from lakefeed.bench import environment, figures, metrics, reports, verdict
from lakefeed.bench.apart import run_apart
from lakefeed.bench.emulation import Delays
from lakefeed.bench.lakes import open_lake
from lakefeed.bench.lending import lent
from lakefeed.bench.mounts import mount_of
from lakefeed.bench.preparing import Contents, Copy, contents, copy_apart
from lakefeed.bench.ranks import TIMEOUT_SECONDS, Job, Look, run_ranks
from lakefeed.bench.sources import Reading, Spec
from lakefeed.bench.steps import Loop
from lakefeed.bench.workloads import Workload
from lakefeed.errors import Invalid

CEILING_STEPS_MIN, CEILING_STEPS_MAX = 50, 1600
CEILING_SECONDS = 4.0
# Sizes this far from the workload's own make a run another workload.
SIZE_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to run. None: what the workload and the data say.

    With `repeat`, an epoch of `steps` goes on into the data's next one where the data is too short
    for it. `warmup_steps` batches of each rank come before, uncounted (`steps`).
    """

    steps: int | None = None
    epochs: int | None = None
    sweep_max: int = 0
    repeat: bool = False
    warmup_steps: int = 0


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """One `bench train`. `data` maps a source's kind to a directory that has it already."""

    lake: str
    workload: Workload
    accelerators: int = 1
    sources: tuple[str, ...] = ("lake",)
    select: str = ""
    at: int | str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    delays: Delays | None = None
    limits: Limits = field(default_factory=Limits)
    harness: str = "dlio"
    cold: bool = False
    strict: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS


Say = Callable[[str], object]
Watch = Callable[[str, int], Look]


def train(options: TrainOptions, say: Say, watch: Watch) -> dict[str, Any]:
    """Run it all; return the report. `watch(source, accelerators)` gives a look for each run."""
    most = options.limits.sweep_max
    if most and options.accelerators > most:
        hint = "a sweep begins with --accelerators: raise --sweep-max"
        found = f"{options.accelerators}"
        raise Invalid("accelerators", expected=f"at most {most}", found=found, hint=hint)
    if options.cold:
        environment.check_cold()
    held = look_into(options)
    notes = check_samples(options, held)
    with directories(options, say) as where:
        ceiling = _ceiling(options, options.accelerators, held, say)
        runs, sweeps = [], {}
        for kind in options.sources:
            say(f"{kind}: {options.accelerators} emulated {options.workload.accelerator}")
            run = _run(options, kind, where[kind], held, watch)
            runs.append(run)
            if options.limits.sweep_max:
                sweeps[kind] = _sweep(options, (kind, where[kind]), held, (say, watch), run)
    return _report(options, held, {"ceiling": ceiling, "runs": runs, "sweeps": sweeps}, notes)


# -- before ----------------------------------------------------------------------------------------


def look_into(options: TrainOptions) -> Contents:
    """Return what the lake holds of the selection."""
    with open_lake(options.lake, options.timeout_seconds) as lake:
        return contents(lake.snapshot(options.at), options.select)


def check_samples(options: TrainOptions, held: Contents) -> list[str]:
    """Return what makes this run no MLPerf-sized one; Invalid for data that cannot be run on."""
    workload, count = options.workload, options.accelerators
    needed = 2 * workload.batch_size * count
    if held.samples < needed:
        raise Invalid(
            f"samples in {options.lake}",
            expected=f"{needed:,} or more: two batches of {workload.batch_size} for each rank",
            found=f"{held.samples:,}",
            hint='import more files, or make some with "lakefeed bench generate"',
        )
    if not held.bytes:
        raise Invalid(
            f"samples in {options.lake}",
            expected="bytes to read",
            found=f"{held.samples:,} empty files",
        )
    rule = metrics.samples_min(
        workload.batch_size, count, environment.memory_bytes(), held.sample_bytes
    )
    notes = []
    if held.samples < rule:
        if options.strict:
            raise Invalid(
                f"samples in {options.lake}",
                expected=f"{rule:,} by MLPerf Storage's rule (500 steps, five times the memory)",
                found=f"{held.samples:,}",
                hint="leave --strict out to run it as a what-if",
            )
        notes.append(
            f"what-if: {held.samples:,} samples, MLPerf Storage wants {rule:,} here (500 steps and "
            "five times the memory)"
        )
    if abs(held.sample_bytes / workload.sample_bytes - 1) > SIZE_TOLERANCE:
        notes.append(
            f"what-if: samples have {held.sample_bytes:,.0f} bytes on average, the workload's "
            f"{workload.sample_bytes:,}"
        )
    return notes


def check_mount(options: TrainOptions) -> None:
    """Invalid where the source `mount` would not measure a mounted lake, or not as asked."""
    where = options.data.get("mount")
    hint = '"lakefeed mount LAKE DIR" mounts one'
    if where is None:
        expected = "--data with the directory the lake is mounted at"
        raise Invalid("source mount", expected=expected, hint=hint)
    below = mount_of(where)
    kind = "nothing known" if below is None else below.kind
    # A mount that is exported again is seen as NFS by the machine that trains.
    if kind != "fuse.lakefeed" and not kind.startswith("nfs"):
        expected = f"a mounted lake at {where}"
        raise Invalid("source mount", expected=expected, found=kind, hint=hint)
    if options.delays is not None:
        raise Invalid(
            "source mount on a simulated volume",
            expected="delays below the mount",
            found="a daemon that reads the lake itself",
            hint="leave --emulate out, or compare --source plain and lake with it",
        )


@contextmanager
def directories(options: TrainOptions, say: Say) -> Iterator[dict[str, str]]:
    """Lend a directory for each source; what has to be copied out of the lake goes afterwards.

    Copies lie on the lake's own volume, or sources that are compared would be on different ones.
    """
    given = {"lake": options.lake, "null": "", **options.data}
    missing = [kind for kind in options.sources if kind not in given]
    if "mount" in options.sources:
        check_mount(options)
    if not missing:
        yield given
        return
    where = os.path.realpath(options.lake)
    if os.path.ismount(where):
        raise Invalid(
            f"source {missing[0]}",
            expected=f"room beside {options.lake} for copies of its samples",
            found="the root of its volume: beside it is another one",
            hint=f"--data {missing[0]}=DIR names files that are there; lakefeed export makes some",
        )
    beside = os.path.dirname(where)
    ranks = max(options.accelerators, options.limits.sweep_max)
    with lent(beside, "lakefeed-bench-", options.timeout_seconds) as scratch:
        for kind in missing:
            say(f"copying the samples out of the lake as {kind}")
            given[kind] = os.path.join(scratch, kind)
            spec = Spec(kind, options.lake, options.select, options.at)
            copy = Copy(spec, given[kind], ranks, options.timeout_seconds)
            run_apart(partial(copy_apart, copy), say, options.timeout_seconds)
        yield given


# -- runs ------------------------------------------------------------------------------------------


def spec_of(options: TrainOptions, kind: str, where: str, held: Contents) -> Spec:
    """Return a source of the run."""
    # A copy holds just what was selected, below its own root.
    whole = kind != "lake" and kind not in options.data
    return Spec(
        kind=kind,
        where=where,
        select="" if whole else options.select,
        at=options.at,
        batch_size=options.workload.batch_size,
        sample_bytes=max(1, round(held.sample_bytes)),
        world_size=options.accelerators,
        reading=options.reading,
        delays=None if kind == "null" else options.delays,
    )


def loop_of(options: TrainOptions, held: Contents) -> Loop:
    """Return steps and epochs: the data's and the workload's, unless the options say less."""
    workload, limits = options.workload, options.limits
    steps = held.samples // (workload.batch_size * options.accelerators)
    if limits.steps is not None:
        steps = limits.steps if limits.repeat else min(steps, limits.steps)
    return Loop(
        steps,
        limits.epochs or workload.epochs,
        workload.computation_seconds,
        harness=options.harness,
        warmup_steps=limits.warmup_steps,
    )


def _run(
    options: TrainOptions, kind: str, where: str, held: Contents, watch: Watch
) -> dict[str, Any]:
    if options.cold:
        environment.drop_caches()
    spec, loop = spec_of(options, kind, where, held), loop_of(options, held)
    job = Job(spec, loop, options.timeout_seconds)
    results = run_ranks(job, watch(kind, options.accelerators))
    workload = options.workload
    run = figures.of_run(results, workload.batch_size, workload.computation_seconds)
    return {"source": kind, **run}


def _ceiling(options: TrainOptions, count: int, held: Contents, say: Say) -> dict[str, Any]:
    """Return the figures of the same ranks on batches from memory."""
    say("ceiling of the harness: batches from memory")
    workload = options.workload
    steps = min(CEILING_STEPS_MAX, int(CEILING_SECONDS / workload.computation_seconds))
    if options.limits.steps is not None:
        steps = min(steps, max(CEILING_STEPS_MIN, options.limits.steps))
    loop = Loop(
        max(2, steps),
        1,
        workload.computation_seconds,
        harness=options.harness,
    )
    spec = replace(spec_of(options, "null", "", held), world_size=count)
    results = run_ranks(Job(spec, loop, options.timeout_seconds))
    run = figures.of_run(results, workload.batch_size, workload.computation_seconds)
    return {"source": "null", **run}


def _sweep(
    options: TrainOptions,
    source: tuple[str, str],
    held: Contents,
    beside: tuple[Say, Watch],
    first: Mapping[str, Any],
) -> dict[str, Any]:
    """Return AU at several numbers of accelerators, and the most that pass."""
    kind, where = source
    say, watch = beside
    points = {options.accelerators: first}

    def passes(count: int) -> bool:
        if count not in points:
            one = replace(options, accelerators=count)
            say(f"{kind}: {count} emulated {options.workload.accelerator}")
            points[count] = _run(one, kind, where, held, watch)
        return bool(points[count]["utilisation"] >= options.workload.utilisation_min)

    most_data = held.samples // (2 * options.workload.batch_size)
    highest = min(options.limits.sweep_max, most_data)
    most = close_in(passes, highest, _guess(options, first))
    chosen = (
        "accelerators", "utilisation", "samples_per_second", "bytes_per_second", "cpus_busy",
        "steps", "wall_seconds",
    )  # fmt: skip
    return {
        "most": most,
        "highest_tried": max(points),
        "data_ends": highest < options.limits.sweep_max,
        "points": [{name: points[count][name] for name in chosen} for count in sorted(points)],
    }


def _guess(options: TrainOptions, first: Mapping[str, Any]) -> int:
    """Return how many accelerators the rate of the first run's warm-up would feed; else 1."""
    workload = options.workload
    each = workload.demand.samples_per_second * workload.utilisation_min
    return max(1, int(first["supply_per_second"] / each))


def close_in(passes: Callable[[int], bool], highest: int, guess: int = 1) -> int:
    """Return the most that pass: from a guess in doubling strides, then by halving the gap."""
    good, bad, stride = 0, highest + 1, 1
    trial = min(guess, highest)
    while bad - good > 1:
        if passes(trial):
            good = trial
        else:
            bad = trial
        if good > 0 and bad <= highest:
            trial = (good + bad) // 2
        else:
            trial = min(good + stride, highest) if good else max(1, bad - stride)
            stride *= 2
    return good


# -- after -----------------------------------------------------------------------------------------


def _next(
    options: TrainOptions, run: Mapping[str, Any], sweeps: Mapping[str, Any], processors: int
) -> str:
    kind = run["source"]
    if kind in sweeps and run["passed"]:
        shuffle = options.reading.shuffle
        return verdict.sweep_next(kind, sweeps[kind], options.workload, processors, shuffle)
    return str(run["advice"])


def _report(
    options: TrainOptions, held: Contents, measured: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    workload = options.workload
    simulated = None if options.delays is None else options.delays.label
    ceiling = measured["ceiling"]["utilisation"]
    processors = os.cpu_count() or 1
    judged = []
    for run in measured["runs"]:
        judgement = verdict.judge(run, workload, ceiling, processors, simulated)
        judged.append({**run, **asdict(judgement)})
    lines = [run["verdict"] for run in judged]
    if len(judged) > 1:
        lines.insert(0, verdict.compare(judged, workload, simulated))
    if measured["sweeps"]:
        lines.insert(0, verdict.sweep_line(measured["sweeps"], workload, simulated))
    return {
        "schema": reports.SCHEMA,
        "kind": "train",
        "title": f"{workload.title} on emulated {workload.accelerator}",
        "workload": {**asdict(workload), **asdict(workload.demand)},
        "emulated": True,
        "simulated_volume": None if options.delays is None else options.delays.describe(),
        "cold": options.cold,
        "harness": options.harness,
        "seed": options.reading.seed,
        "data": {"samples": held.samples, "bytes": held.bytes, "sample_bytes": held.sample_bytes},
        "notes": notes,
        "passed": all(run["passed"] for run in judged),
        "verdict": lines[0],
        "lines": lines,
        "next": _next(options, judged[-1], measured["sweeps"], processors),
        **measured,
        "runs": judged,
        "environment": environment.describe(options.lake),
    }
