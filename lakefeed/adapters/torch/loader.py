"""A ready loader: batches of an epoch in order, a user's function on them, on the device in time.

Three steps, each ahead of the next: the feed's own threads read; `threads` or `processes` run the
`transform`; with a device, one more thread copies beside the training step (`device`). The state is
that of the last batch handed out, whatever lies ready behind it, so it means *consumed*; restored,
also with other numbers of ranks, threads or processes, nothing is repeated or missed (I8).

One iteration is one epoch; the next one is the next epoch, or the rest of the epoch that
`load_state_dict` named. A loader serves one iteration at a time and leaves nothing behind `close`.

Threads are for functions that let go of the GIL (decoders do), processes for those that do not.
Processes are torch's own DataLoader workers; errors of the lake come out of them as they were.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch.utils import data

from lakefeed.adapters._conveyor import Conveyor, Stamped, applied
from lakefeed.adapters._epochs import Epochs, Position
from lakefeed.adapters.torch.batch import Batch
from lakefeed.adapters.torch.dataset import IterableDataset, Iteration, Transform
from lakefeed.adapters.torch.device import Mover, page_locked, pinned
from lakefeed.errors import Invalid
from lakefeed.feed.cursor import Cursor
from lakefeed.feed.feed import FeedOptions, Mix
from lakefeed.feed.selection import Select
from lakefeed.feed.sources import Source
from lakefeed.given import check, check_fields
from lakefeed.metrics.exporter import adds_up, metered

# Worker processes of the process that this one was forked from; each loader that was there has one.
_OTHERS: list[data.DataLoader[Any]] = []


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """What happens to a batch on its way, and where.

    `transform` gets each `Batch`; it runs in `threads` of this process, in `processes` (started as
    `context` says: "fork", "spawn", "forkserver", None: torch's choice; kept for all epochs if
    `persistent`), or, with neither, in the loop that iterates. `device` is where its tensors go, as
    torch names it or a GPU's number, `pin_memory` locks their pages without moving them (both want
    a GPU; `device` pins by itself). At most `prefetch` results lie ready in front of each step, and
    in each process. `group` says where the rank comes from: "auto", a process group, or None for
    what the feed's options say.
    """

    transform: Transform | None = None
    threads: int = 0
    processes: int = 0
    context: Literal["fork", "spawn", "forkserver"] | None = None
    persistent: bool = True
    device: str | int | torch.device | None = None
    pin_memory: bool = False
    prefetch: int = 2
    group: Any = "auto"
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value, least in (
            ("threads", self.threads, 0),
            ("processes", self.processes, 0),
            ("prefetch", self.prefetch, 1),
        ):
            if value < least:
                raise Invalid(name, expected=f"at least {least}", found=value)
        if self.threads and self.processes:
            raise Invalid("threads and processes", expected="one of them", found="both")
        for name, wanted in (("pin_memory", self.pin_memory), ("device", self._is_on_gpu)):
            if wanted and not torch.cuda.is_available():
                raise Invalid(name, expected="a GPU that torch can use", found="none")
        if self.threads and self.transform is None:
            raise Invalid("threads", expected="a transform for them to run", found="none")

    @property
    def locks_buffers(self) -> bool:
        """Whether the feed should read into page-locked memory: its own bytes go to a GPU."""
        locked = self._is_on_gpu or self.pin_memory
        return self.transform is None and not self.processes and locked

    @property
    def _is_on_gpu(self) -> bool:
        if self.device is None or isinstance(self.device, int):  # a number is a GPU's
            return self.device is not None
        return torch.device(self.device).type == "cuda"


class Loader(Epochs):
    """Batches for PyTorch. Use it in a `with` block, or call `close`."""

    def __init__(
        self,
        source: Source,
        select: Select | Mix = "",
        feed: FeedOptions | None = None,
        options: LoaderOptions | None = None,
    ) -> None:
        super().__init__()
        check("options", options, LoaderOptions | None)
        check("feed", feed, FeedOptions | None)
        self.options = options or LoaderOptions()
        transform = self.options.transform if self.options.processes else None
        feed = feed or FeedOptions()
        if self.options.locks_buffers and feed.allocate is None:
            feed = replace(feed, allocate=page_locked)
        if self.options.metrics_port is not None:
            self._check_metrics()
            feed = metered(feed, self.options.metrics_port)
        self.dataset = _Stamping(source, select, feed, transform, self.options.group)
        self._dataset_epoch: int | None = 0  # what the dataset serves next from its start
        self._workers: data.DataLoader[Any] | None = None
        self._workers_of = 0  # the process that made them

    def _check_metrics(self) -> None:
        """Refuse a page of zeros: worker processes count, and their counts would stay there."""
        if self.options.processes and not adds_up():
            raise Invalid(
                "metrics_port",
                expected="PROMETHEUS_MULTIPROC_DIR, set before the program starts, with processes",
                found="none",
                hint="let it name an empty directory, or choose threads",
            )

    def __len__(self) -> int:
        """Return how many batches one epoch has."""
        return len(self.dataset)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty without labels."""
        return self.dataset.class_names

    # -- where it stands -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands behind the last batch handed out: JSON under 200 bytes."""
        epoch, state = self.position.epoch, self.position.state
        return self.dataset.begin(epoch) if state is None else dict(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on behind the batch that had this state.

        Invalid if it belongs to other samples, another seed or another shuffle.
        """
        self._stop()
        Cursor.of(state)  # the dataset takes None, too
        self.dataset.resume(state)
        self._stand_at(Position(int(state["epoch"]), dict(state)))
        self._dataset_epoch = None

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, from its beginning."""
        self._stop()
        self._stand_at(Position(epoch))

    # -- batches ---------------------------------------------------------------------------------

    def _items(self, running: ExitStack) -> Iterator[Stamped]:
        self._set_dataset()
        stage, finish = self._pipeline(running)
        # A generator would keep each batch until the next one; the consumer decides how long.
        return map(partial(_finished, finish), stage.items)

    def _set_dataset(self) -> None:
        """Let the dataset begin where this iteration begins, if that is not what comes anyway.

        Persistent workers that have yet to begin an earlier iteration would take this for theirs,
        so they are given up. Workers of one iteration alone may have been ended before they began
        it, so they are always told.
        """
        epoch, state = self.position.epoch, self.position.state
        if state is not None:
            self._give_up_workers()
            self.dataset.resume(state)
        elif self._dataset_epoch != epoch or not self.options.persistent:
            self._give_up_workers()
            self.dataset.set_epoch(epoch)
        self._dataset_epoch = epoch + 1

    def _pipeline(self, running: ExitStack) -> tuple[_Stage, Callable[[Any], Any]]:
        options = self.options
        stage = self._from_processes(running) if options.processes else self._from_here(running)
        if options.device is None and not options.pin_memory:
            return stage, _same
        if options.device is None:
            return self._ahead(stage, running, pinned, 0), _same
        mover = Mover(torch.device(options.device))
        running.callback(mover.close)
        return self._ahead(stage, running, mover.move, 0), mover.hand_over

    def _from_here(self, running: ExitStack) -> _Stage:
        iteration = iter(self.dataset)
        running.callback(iteration.close)
        transform, threads = self.options.transform, self.options.threads
        stage = _Stage(iteration, iteration.close)
        if transform is None:
            return stage
        if threads:
            return self._ahead(stage, running, transform, threads)
        return _Stage(
            ((state, applied(transform, batch)) for state, batch in iteration), iteration.close
        )

    def _ahead(self, stage: _Stage, running: ExitStack, action: Any, threads: int) -> _Stage:
        depth = self.options.prefetch + threads
        conveyor = Conveyor(stage.items, stage.wake, action, threads, depth)
        running.callback(conveyor.close)
        return _Stage(conveyor, conveyor.close)

    def _from_processes(self, running: ExitStack) -> _Stage:
        if self._workers_of != os.getpid():
            self._give_up_workers()
        if self._workers is None:
            options, self._workers_of = self.options, os.getpid()
            self._workers = data.DataLoader(
                self.dataset,
                batch_size=None,
                num_workers=options.processes,
                collate_fn=_same,
                persistent_workers=options.persistent,
                prefetch_factor=options.prefetch,
                multiprocessing_context=options.context,
            )
        results = _results(self._workers)
        # Lets go of torch's iterator, which ends the processes unless they are persistent.
        running.callback(results.close)
        return _Stage(results, _nothing)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading, and the processes; no thread is left. Works twice."""
        self._stop()
        self.dataset.kept.close()
        self._give_up_workers()

    def _give_up_workers(self) -> None:
        """End the processes with the last reference, but not those of the process that forked this
        one: torch would tell them to end when this process lets go of them."""
        if self._workers is not None and self._workers_of != os.getpid():
            _OTHERS.append(self._workers)
        self._workers = None


@dataclass(frozen=True, slots=True)
class _Stage:
    """Items of a step, and how to wake a thread that waits for the next one."""

    items: Iterator[Stamped]
    wake: Callable[[], None]


def _results(workers: Iterable[Stamped]) -> Generator[Stamped, None, None]:
    failed = None
    for state, value in workers:
        if isinstance(value, _Failed):
            failed = value
            break
        yield state, value
    # Whoever keeps the error keeps this frame, which must not keep the processes.
    del workers
    if failed is not None:
        raise failed.error from _InWorker(failed.trace)


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error on its way out of a worker process: torch would keep its text alone."""

    error: Exception
    trace: str

    @classmethod
    def of(cls, error: Exception) -> _Failed:
        """Return the error as it is if it can be sent, else its text."""
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - whatever a foreign error's pickling runs into
            return cls(RuntimeError(repr(error)), trace)
        return cls(error, trace)


class _InWorker(Exception):
    """Where an error was raised in the worker process; the cause of the error that comes out."""

    def __str__(self) -> str:
        return f"in a worker process\n\n{self.args[0]}"


class _Stamping(IterableDataset):
    """A dataset whose elements are (state, value)."""

    def __iter__(self) -> _StampingIteration:  # type: ignore[override]
        epoch = super().__iter__()
        return _StampingIteration(epoch, self.transform)


class _StampingIteration(Iterator[Stamped]):
    """An iteration that gives each value its state."""

    def __init__(self, iteration: Iteration, transform: Transform | None) -> None:
        self._iteration = iteration
        self._transform = transform
        self._in_worker = data.get_worker_info() is not None
        self.close = iteration.close

    def __next__(self) -> Stamped:
        if not self._in_worker:
            return self._next()
        try:
            return self._next()
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - raised again where the batches are consumed
            return {}, _Failed.of(error)

    def _next(self) -> Stamped:
        batch: Batch = self._iteration.next_batch()
        return batch.state, batch if self._transform is None else applied(self._transform, batch)


def _finished(finish: Callable[[Any], Any], stamped: Stamped) -> Stamped:
    state, value = stamped
    return state, finish(value)


def _same(value: Any) -> Any:
    return value


def _nothing() -> None:
    """Worker processes answer by themselves."""
