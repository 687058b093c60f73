"""A user's own training, measured in one line, with the report that `lakefeed bench` writes.

    for batch in lakefeed.monitor.watch(loader, "run.html"):        # PyTorch, JAX, anything
        step(batch)

    model.fit(**lakefeed.monitor.keras(train, "run.html"), epochs=5)   # Keras

A step is what happens between two batches; waiting is what `next` takes. GPUs are sampled beside
it. The report is written at the end of each epoch, and again at the end of each later one, so an
interrupted training has the last one; where it cannot be written any more, the training goes on and
the log has a warning. Measuring costs three looks at a clock for each step.

PyTorch queues work for the GPU and returns: a step's time is right where the training itself waits
for it (reading the loss does), and GPU busy tells the rest.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry

from lakefeed.bench import environment, figures, gpu, metrics, page, reports, verdict
from lakefeed.bench.gpu_gauges import GpuGauges
from lakefeed.bench.gpu_probe import Probe
from lakefeed.bench.keeping import Keeper, KeptEpoch
from lakefeed.bench.steps import LIVE, RankResult, peak_rss_bytes
from lakefeed.errors import Invalid
from lakefeed.metrics.bench import BenchMetrics, Endpoint
from lakefeed.metrics.gpu import GpuMetrics

_log = logging.getLogger(__name__)

T = TypeVar("T")
# Metrics are brought up to date this often, not at each step.
_TELL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """Where the report goes, what the run is called, and how much a batch is.

    `batch_size` is guessed from a batch's first dimension where it has one; `metrics_port` serves
    Prometheus metrics meanwhile, 0 on a free port.
    """

    report: str | Path = "training.html"
    name: str = "training"
    batch_size: int | None = None
    metrics_port: int | None = None


class Monitor:
    """Gathers steps; `close` writes the report. Used by one thread, for one training or several."""

    def __init__(self, options: MonitorOptions | None = None) -> None:
        self.options = options or MonitorOptions()
        self._keeper = Keeper()
        self._probe: Probe | None = None
        self._sampler: gpu.Sampler | None = None
        self._measuring: ExitStack | None = None
        self._used = 0.0
        self._metrics: BenchMetrics | None = None
        self._told = [0.0] * len(LIVE)
        self._told_at = 0.0
        self._is_puzzled = False
        self.address: str | None = None

    def begin_epoch(self) -> None:
        """Begin to measure; also opens what measures, the first time and after `close`."""
        if self._measuring is None:
            self._open()
        self._used = time.process_time()
        now = time.monotonic()
        self._told_at = now
        self._keeper.begin(now)

    def _open(self) -> None:
        with ExitStack() as opening:
            probe = gpu.find()
            opening.callback(probe.close)
            sampler = opening.enter_context(gpu.Sampler(probe, before=self._sampler))
            self._probe, self._sampler = probe, sampler
            if self.options.metrics_port is not None:
                registry = CollectorRegistry()
                served = BenchMetrics(registry)
                endpoint = Endpoint(registry, self.options.metrics_port)
                opening.callback(endpoint.close)
                opening.enter_context(GpuGauges.start(GpuMetrics(registry)))
                self._metrics, self.address = served, endpoint.address
            self._measuring = opening.pop_all()

    def step(self, began: float, loaded: float, ended: float, batch: tuple[int, int]) -> None:
        """Take over one step; `batch` is its samples and bytes."""
        epoch = self._keeper.add(began, loaded, ended, batch)
        epoch.cpu_seconds = time.process_time() - self._used
        moved = (1, *batch, ended - loaded, loaded - began, 0)
        self._told = [total + one for total, one in zip(self._told, moved, strict=True)]
        if self._metrics is not None and ended - self._told_at >= _TELL_SECONDS:
            facts = {**dict(zip(LIVE, self._told, strict=True)), "accelerators": 1.0}
            self._metrics.advance(self.options.name, facts, ended - self._told_at)
            self._told, self._told_at = [0.0] * len(LIVE), ended

    def measure(self, batch: Any) -> tuple[int, int]:
        """Return a batch's samples and bytes: one sample without any, where it cannot be told."""
        try:
            return measure(batch, self.options.batch_size)
        except Exception as error:  # noqa: BLE001 - no figure is worth a training
            if not self._is_puzzled:
                _log.warning("a batch of %s cannot be measured: %s", type(batch).__name__, error)
            self._is_puzzled = True
            return self.options.batch_size or 1, 0

    def report(self) -> dict[str, Any]:
        """Return the report of the epochs so far; Invalid before the first step."""
        # Utilisation leaves each epoch's first step out, so that one step alone has none.
        whole = [epoch for epoch in self._keeper.epochs if epoch.steps > 1]
        epochs = whole or [epoch for epoch in self._keeper.epochs if epoch.steps]
        if not epochs or self._sampler is None:
            raise Invalid("monitor", expected="a step or more", found="none yet")
        samples = sum(epoch.samples for epoch in epochs)
        result = RankResult(0, [*epochs], samples, sum(epoch.cpu_seconds for epoch in epochs))
        result.peak_rss_bytes = peak_rss_bytes()
        run = figures.of_run([result], 1, None) | _waits(epochs)
        seconds = run["wall_seconds"] or 1.0
        run |= {
            "source": self.options.name,
            "samples": samples,
            "samples_per_second": samples / seconds,
            "cpu_per_thousand_samples": 1000 * run["cpu_seconds"] / max(1, samples),
            "gpu": self._sampler.facts([(epoch.start, epoch.end) for epoch in epochs], samples),
        }
        if not whole:
            run |= {"utilisation": None, "utilisation_by_epoch": []}
        run["timeline"]["gpu_busy"] = self._sampler.line(
            epochs[0].start, run["timeline"]["seconds"]
        )
        line = verdict.monitored(run)
        notes = [] if self._probe is None else gpu.left_out(self._probe)
        if self._probe is not None and not self._probe.names:
            notes = [self._probe.why]
        return {
            "schema": reports.SCHEMA,
            "kind": "monitor",
            "title": self.options.name,
            "workload": None,
            "emulated": False,
            "runs": [run],
            "notes": notes,
            "passed": None,
            "lines": [line],
            "verdict": line,
            "next": verdict.monitored_next(run),
            "environment": environment.describe(),
        }

    def write(self) -> Path | None:
        """Write the report if there is something to say; return where, None without a report."""
        if not any(epoch.steps for epoch in self._keeper.epochs):
            return None
        try:
            return page.write(self.report(), Path(self.options.report))[0]
        except Exception as error:  # noqa: BLE001 - no report is worth a training
            _log.warning("no report %s: %s", self.options.report, error)
            return None

    def close(self) -> None:
        """Write the report, and stop measuring until another epoch begins. Works twice."""
        self.write()
        measuring, self._measuring = self._measuring, None
        if measuring is not None:
            measuring.close()


def _waits(epochs: Sequence[KeptEpoch]) -> dict[str, Any]:
    """Return how many steps there were and how they waited; one wait may stand for several."""
    waits = [wait for epoch in epochs for wait in epoch.waits]
    counts = [count for epoch in epochs for count in epoch.counts]
    steps = sum(counts)
    longest = max(epoch.wait_max for epoch in epochs)
    mean = math.fsum(wait for epoch in epochs for wait in epoch.wait_seconds) / steps
    return {
        "steps": steps,
        "wait_seconds": {**asdict(metrics.quantiles(waits, counts)), "max": longest, "mean": mean},
        "wait_histogram": metrics.histogram(waits, figures.WAIT_EDGES_SECONDS, counts),
    }


class Watched(Generic[T]):
    """A loader whose batches are timed; iterating it is iterating the loader."""

    def __init__(self, loader: Iterable[T], monitor: Monitor) -> None:
        self._loader = loader
        self.monitor = monitor

    def __len__(self) -> int:
        if not isinstance(self._loader, Sized):
            raise TypeError(f"{type(self._loader).__name__} has no length")
        return len(self._loader)

    def __iter__(self) -> Iterator[T]:
        monitor = self.monitor
        monitor.begin_epoch()
        began = time.monotonic()
        try:
            # Many loaders start their workers here: waiting for the first batch begins before.
            for batch in self._loader:
                loaded = time.monotonic()
                yield batch
                ended = time.monotonic()
                monitor.step(began, loaded, ended, monitor.measure(batch))
                began = time.monotonic()
        finally:
            monitor.write()


def watch(loader: Iterable[T], report: str | Path = "training.html", **more: Any) -> Watched[T]:
    """Return the loader, timed; each epoch's end writes the report, of all epochs so far.

    Call it once, before the loop over epochs: each call begins a training of its own.
    `more` are the fields of `MonitorOptions`. A report that cannot be written is told at once.
    """
    page.check(Path(report))
    return Watched(loader, Monitor(MonitorOptions(report, **more)))


def measure(batch: Any, batch_size: int | None = None) -> tuple[int, int]:
    """Return a batch's samples and bytes, from the arrays or strings in it."""
    samples, size_bytes = _counted(batch)
    return (samples if batch_size is None else batch_size), size_bytes


def _counted(batch: Any) -> tuple[int, int]:
    if _is_own(batch):
        return len(batch), int(batch.lengths.sum())
    parts = list(_leaves(batch))
    size_bytes = sum(_bytes(part) for part in parts)
    whole = batch[0] if isinstance(batch, tuple) and batch else batch
    if isinstance(whole, Mapping) and "row_splits" in whole:  # a buffer, and where its samples end
        return len(whole["row_splits"]) - 1, size_bytes
    lengths = [part.shape[0] for part in parts if _is_array(part) and len(part.shape)]
    if lengths and lengths[0] is not None:
        return int(lengths[0]), size_bytes
    return (len(batch) if isinstance(batch, list) else 1), size_bytes


def _is_own(batch: Any) -> bool:
    """Tell whether a batch is lakefeed's, of any framework: a user's may have the same names."""
    kinds = type(batch).__mro__
    return "lengths" in dir(batch) and any(
        kind.__module__.startswith("lakefeed.") for kind in kinds
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):  # a dict, or what Hugging Face's tokenizers return
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _is_array(value: Any) -> bool:
    # NumPy's, PyTorch's, JAX's and TensorFlow's arrays all have these two, and little else does.
    return {"shape", "dtype"} <= set(dir(value))


def _bytes(value: Any) -> int:
    if isinstance(value, bytes | bytearray | memoryview | str):
        return len(value)
    if not _is_array(value):
        return sys.getsizeof(value)
    if str(value.dtype) == "object":  # NumPy's strings of TensorFlow
        return sum(map(_bytes, value.ravel().tolist()))
    if "nbytes" in dir(value):
        return int(value.nbytes)
    return _tensor_bytes(value)


def _tensor_bytes(value: Any) -> int:
    """Return the bytes of TensorFlow's, which does not tell them."""
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return 0
    if isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        return sum(map(_tensor_bytes, tf.nest.flatten(value, expand_composites=True)))
    if not isinstance(value, tf.Tensor):
        return 0
    if value.dtype == tf.string:
        return int(tf.reduce_sum(tf.strings.length(value)))
    return int(value.dtype.size * math.prod(value.shape))
