"""`bench train` with a real model: three runs that tell compute, preparation and fetching apart.

1. Synthetic: one ready batch, again and again: the compute ceiling. 2. Cached: encoded samples from
memory through the same preparation: what is added is the preparation stall. 3. The source itself,
cold if asked: what is added is the fetch stall. Fetching and preparing run ahead of the model in
threads, as every loader has it, so a stall is what they could not hide.

GPUs are sampled meanwhile (`gpu`) and lined up with the steps. Without one the processor trains,
and the report says "no GPU". All of it runs in a process of its own (`apart`): what is measured is
read without a deadline, and a volume that does not answer must not keep the command.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, cast

import numpy as np

from lakefeed.bench import environment, figures, gpu, metrics, pixels, reports, verdict
from lakefeed.bench.apart import Line, run_apart
from lakefeed.bench.emulation import shared_state
from lakefeed.bench.gpu_probe import Probe
from lakefeed.bench.models import CLASSES, Ready, Trainer, check, trainer
from lakefeed.bench.opening import opened
from lakefeed.bench.preparing import Contents
from lakefeed.bench.processes import LOOK_SECONDS
from lakefeed.bench.ranks import Look
from lakefeed.bench.sources import Delivered
from lakefeed.bench.steps import Epoch, RankResult, peak_rss_bytes
from lakefeed.bench.training import (
    Say,
    TrainOptions,
    Watch,
    check_samples,
    directories,
    look_into,
    spec_of,
)

WARM_UP_STEPS = 3
PHASE_SECONDS = 10.0
PHASE_STEPS = 5000
CACHED_BATCHES = 8
AHEAD = 4
PREPARERS = 2


@dataclass(frozen=True, slots=True)
class RealOptions:
    """What trains, and where."""

    device: str = "cpu"
    framework: str = "keras"
    model: str = "cnn"
    batch_size: int = 32


@dataclass(slots=True)
class _Phase:
    """What one phase came to."""

    result: RankResult
    start: float
    end: float

    @property
    def per_second(self) -> float:
        epoch = self.result.epochs[0]
        measured = len(epoch.wait_seconds) - 1
        first = epoch.wait_seconds[0] + epoch.busy_seconds[0]
        return measured / (epoch.end - epoch.start - first)


def train_really(
    options: TrainOptions, chosen: RealOptions, say: Say, watch: Watch
) -> dict[str, Any]:
    """Run the three phases for each source; return the report."""
    workload = replace(options.workload, batch_size=chosen.batch_size)
    options = replace(options, workload=workload, accelerators=1)
    if options.cold:
        environment.check_cold()
    held = look_into(options)
    check_samples(options, held)
    check(chosen.framework, chosen.device)
    looks: list[Look] = []

    def hear(what: str, said: Any) -> None:
        if what == "say":
            say(said)
        elif what == "source":
            looks.append(watch(said, 1))
        else:
            looks[-1](said)

    with directories(options, say) as where:
        work = partial(_measure, options, chosen, (held, where))
        return run_apart(work, hear, options.timeout_seconds)


def _measure(
    options: TrainOptions,
    chosen: RealOptions,
    data: tuple[Contents, dict[str, str]],
    line: Line,
) -> dict[str, Any]:
    held, where = data
    model = trainer(chosen.framework, chosen.model, chosen.device, options.reading.seed)
    probe = gpu.find()
    runs = []
    try:
        line.tell("say", f"{model.name}: the compute ceiling, one batch from memory")
        with gpu.Sampler(probe) as sampler:
            ceiling = _train(model, _synthetic(model, chosen), options, line)
            top = _figures("null", ceiling, chosen, sampler)
        for kind in options.sources:
            run = _source(options, (model, chosen, probe), (kind, where[kind], held), line)
            runs.append(run | {"ceiling_per_second": ceiling.per_second * chosen.batch_size})
    finally:
        probe.close()
    for run in runs:
        run["stalls"] = asdict(
            metrics.stalls(
                run["ceiling_per_second"], run["cached_per_second"], run["own_per_second"]
            )
        )
    return _report(options, (model, chosen, held), (top, runs), probe)


def _source(
    options: TrainOptions,
    real: tuple[Trainer, RealOptions, Probe],
    source: tuple[str, str, Contents],
    line: Line,
) -> dict[str, Any]:
    model, chosen, probe = real
    kind, where, held = source
    line.waits()
    shared = shared_state(get_context("spawn")) if options.delays is not None else None
    spec = spec_of(options, kind, where, held)
    with opened(spec, 0, shared) as reading:
        batches = reading.batches()
        memory = [_payloads(next(batches)) for _ in range(CACHED_BATCHES)]
    line.tell("say", f"{kind}: encoded samples from memory")
    with Pipeline(_cycle(memory), model) as prepared:
        cached = _train(model, prepared, options, line)
    line.waits()
    if options.cold:
        environment.drop_caches()
    line.tell("say", f"{kind}: samples from the volume, {'cold' if options.cold else 'warm'}")
    line.tell("source", kind)
    with opened(spec, 0, shared) as reading, gpu.Sampler(probe) as sampler:
        with Pipeline(map(_payloads, reading.batches()), model) as prepared:
            done = _train(model, prepared, options, line, shown=True)
            line.waits()  # for what was asked for ahead, before it can be closed
        done.result.read_bytes, done.result.reads = reading.read_bytes(), reading.reads()
        run = _figures(kind, done, chosen, sampler)
    line.computes()
    return {
        **run,
        "cached_per_second": cached.per_second * chosen.batch_size,
        "own_per_second": done.per_second * chosen.batch_size,
    }


# -- batches ---------------------------------------------------------------------------------------


def _payloads(batch: Delivered) -> list[pixels.Bytes]:
    """Return the samples' bytes, whichever source they are from."""
    if isinstance(batch.data, list):
        return batch.data
    return list(cast("Any", batch.data).views())


def _cycle(memory: list[list[pixels.Bytes]]) -> Iterator[list[pixels.Bytes]]:
    while True:
        yield from memory


def _synthetic(model: Trainer, chosen: RealOptions) -> Iterator[tuple[Ready, int]]:
    chance = np.random.default_rng(0)
    shape = (chosen.batch_size, model.side, model.side, 3)
    pictures = chance.random(shape, np.float32)
    one = model.ready(pictures, chance.integers(0, CLASSES, chosen.batch_size))
    while True:
        yield one, pictures.nbytes


class Pipeline:
    """Prepares batches in threads, a few ahead of the model."""

    def __init__(self, batches: Iterator[list[pixels.Bytes]], model: Trainer) -> None:
        self._batches = batches
        self._model = model
        # One thread fetches, in order; others decode.
        self._fetcher = ThreadPoolExecutor(1, "lakefeed-bench-fetch")
        self._preparers = ThreadPoolExecutor(PREPARERS, "lakefeed-bench-prepare")
        self._ahead: deque[Future[tuple[Ready, int]]] = deque()

    def __iter__(self) -> Iterator[tuple[Ready, int]]:
        while True:
            while len(self._ahead) < AHEAD:
                fetched = self._fetcher.submit(next, self._batches)
                self._ahead.append(self._preparers.submit(self._prepare, fetched))
            yield self._ahead.popleft().result()

    def _prepare(self, fetched: Future[list[pixels.Bytes]]) -> tuple[Ready, int]:
        samples = fetched.result()
        labels = np.arange(len(samples), dtype=np.int64) % CLASSES
        pictures = pixels.pictures(samples, self._model.side)
        return self._model.ready(pictures, labels), sum(len(sample) for sample in samples)

    def __enter__(self) -> Iterator[tuple[Ready, int]]:
        return iter(self)

    def __exit__(self, *failure: object) -> None:
        self._fetcher.shutdown(cancel_futures=True)
        self._preparers.shutdown(cancel_futures=True)


# -- steps -----------------------------------------------------------------------------------------


def _train(
    model: Trainer,
    batches: Iterator[tuple[Ready, int]],
    options: TrainOptions,
    line: Line,
    shown: bool = False,
) -> _Phase:
    """Train for the phase's steps or seconds, whichever ends first; tell of them if `shown`."""
    for _ in range(WARM_UP_STEPS):
        model.step(_next(batches, line)[0])
    steps = max(2, options.limits.steps or PHASE_STEPS)
    epoch = Epoch(start=time.monotonic())
    used, looked, live = time.process_time(), epoch.start, [0.0] * 6
    began = epoch.start
    for _ in range(steps):
        batch, size_bytes = _next(batches, line)
        loaded = time.monotonic()
        model.step(batch)
        now = time.monotonic()
        epoch.began.append(began)
        epoch.wait_seconds.append(loaded - began)
        epoch.busy_seconds.append(now - loaded)
        epoch.sample_bytes.append(size_bytes)
        done = (1.0, float(options.workload.batch_size), float(size_bytes), now - loaded)
        for at, value in enumerate((*done, loaded - began)):
            live[at] += value
        if shown and now - looked > LOOK_SECONDS:
            looked = now
            line.tell("look", [live])
        began = now
        if now - epoch.start > PHASE_SECONDS and len(epoch.began) > 1:
            break
    epoch.end = time.monotonic()
    result = RankResult(0, [epoch], cpu_seconds=time.process_time() - used)
    result.samples = len(epoch.began) * options.workload.batch_size
    result.peak_rss_bytes = peak_rss_bytes()
    return _Phase(result, epoch.start, epoch.end)


def _next(batches: Iterator[tuple[Ready, int]], line: Line) -> tuple[Ready, int]:
    line.waits()
    batch = next(batches)
    line.computes()
    return batch


def _figures(kind: str, phase: _Phase, chosen: RealOptions, sampler: gpu.Sampler) -> dict[str, Any]:
    run = figures.of_run([phase.result], chosen.batch_size, None)
    run["timeline"]["gpu_busy"] = sampler.line(phase.start, run["timeline"]["seconds"])
    facts = sampler.facts([(phase.start, phase.end)], run["samples"])
    return {"source": kind, **run, "gpu": facts}


# -- words -----------------------------------------------------------------------------------------


def _report(
    options: TrainOptions,
    what: tuple[Trainer, RealOptions, Contents],
    measured: tuple[dict[str, Any], list[dict[str, Any]]],
    probe: Probe,
) -> dict[str, Any]:
    model, chosen, held = what
    ceiling, runs = measured
    simulated = None if options.delays is None else options.delays.label
    lines = [verdict.real_line(run, model.name, simulated) for run in runs]
    notes = gpu.left_out(probe)
    if not probe.names:
        notes.append(f"{probe.why}: the processor trained, GPU busy and power are not known")
    if probe.names and model.device == "cpu":
        notes.append("trained on the processor, though there is a GPU: see --device")
    return {
        "schema": reports.SCHEMA,
        "kind": "train",
        "title": f"{model.name}, batches of {chosen.batch_size}",
        "workload": None,
        "real": asdict(chosen) | {"trained_on": model.device},
        "emulated": False,
        "simulated_volume": None if options.delays is None else options.delays.describe(),
        "cold": options.cold,
        "seed": options.reading.seed,
        "data": {"samples": held.samples, "bytes": held.bytes, "sample_bytes": held.sample_bytes},
        "ceiling": ceiling,
        "runs": runs,
        "sweeps": {},
        "notes": notes,
        "passed": None,
        "lines": lines,
        "verdict": lines[0],
        "next": verdict.real_next(runs[-1], os.cpu_count() or 1),
        "environment": environment.describe(options.lake),
    }
