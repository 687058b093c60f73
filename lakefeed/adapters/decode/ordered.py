"""A function over a feed's batches, in threads or processes: results and errors come in order.

    def parse(samples: Samples) -> np.ndarray: ...

    with Feed(lake, "train/**") as feed, mapped(feed, parse, workers=4, processes=True) as results:
        for result in results:
            train(result)
            save(results.state())

At most `ahead` batches are in the works or waiting, so memory is bounded by that many batches and
results. The first failure comes out of `next()` in its place in the order and ends the iteration;
`close` drops what nobody began and waits for what runs. The state is that of the results *taken*.

Threads suit functions that release the interpreter's lock (decoders, numpy); they get the batch's
own memory. Processes suit plain Python; they get copies, and the function must be importable.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lakefeed.adapters._conveyor import applied
from lakefeed.closing import Closing
from lakefeed.errors import Invalid
from lakefeed.feed.batch import Batch, Names
from lakefeed.feed.feed import Feed, FeedOptions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Given:
    """Paths that were looked up already, where there is no feed to ask."""

    list: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A batch and where it stands in its epoch; `positions` seed what is random about a sample.

    `views` are the samples' bytes: memory of the batch in this process, copies in another one. Some
    samples may be `blank`: they fill a batch up (`last="pad"`), or stand for a damaged one.
    `corrupt` names those that the feed left out; batches that are `fixed` all have one length.
    """

    views: list[memoryview] | list[bytes]
    labels: NDArray[np.int32] | None
    names: Names | Given
    seed: int
    epoch: int
    positions: NDArray[np.int64]
    blank: NDArray[np.bool_]
    corrupt: tuple[str, ...] = ()
    fixed: bool = False

    def __len__(self) -> int:
        return len(self.views)

    @property
    def paths(self) -> list[str]:
        """The samples' paths, looked up on first use: ask while the feed is open."""
        return self.names.list

    def __reduce__(self) -> tuple[Any, ...]:
        copies = [bytes(view) for view in self.views]
        rest = (self.labels, Given(self.paths), self.seed, self.epoch, self.positions, self.blank)
        return Samples, (copies, *rest, self.corrupt, self.fixed)


class Ordered(Closing, Generic[T]):
    """An iterator of results. `begin` starts the work on a batch and returns how to wait for it."""

    def __init__(
        self,
        feed: Feed,
        executor: Executor,
        begin: Callable[[Samples], Callable[[], T]],
        ahead: int,
    ) -> None:
        if ahead < 1:
            raise Invalid("ahead", expected="at least 1", found=ahead)
        self._feed = feed
        self._executor = executor
        self._begin = begin
        self._ahead = ahead
        self._works: deque[tuple[Callable[[], T], Mapping[str, Any]]] = deque()
        self._state: Mapping[str, Any] = feed.state()
        self._drained = False
        self._closed = False

    def state(self) -> dict[str, Any]:
        """Return where to restore a feed so that it goes on behind the last result taken."""
        return dict(self._state)

    def __len__(self) -> int:
        return len(self._feed)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next result; raise what its work, or reading its batch, ran into."""
        if self._closed:
            raise Invalid("results", expected="open ones", found="closed ones")
        try:
            while not self._drained and len(self._works) < self._ahead:
                self._start_one()
            if not self._works:
                raise StopIteration
            wait, state = self._works.popleft()
            result = wait()
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise
        self._state = state
        return result

    def _start_one(self) -> None:
        try:
            batch = next(self._feed, None)
        except Exception as error:  # noqa: BLE001 - comes out of `next` behind the results before it
            self._works.append((_raiser(error), self._state))
            self._drained = True
            return
        if batch is None:
            self._drained = True
            return
        work = self._begin(samples_of(batch, self._feed.options))
        self._works.append((work, batch.state))

    def close(self) -> None:
        """Drop what waits, and wait for what runs. Works twice."""
        self._closed = True
        self._works.clear()
        self._executor.shutdown(cancel_futures=True)


def mapped(
    feed: Feed,
    function: Callable[[Samples], T],
    *,
    workers: int | None = None,
    processes: bool = False,
    ahead: int | None = None,
) -> Ordered[T]:
    """Return the results of a function of each batch, in the feed's order.

    `workers` None is one for each processor; `ahead` None is two batches for each worker.
    """
    workers = width(workers)
    executor: Executor
    if processes:
        # Spawned: a fork of a process with TensorFlow's or a feed's threads may hang.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(workers, mp_context=context)
    else:
        executor = ThreadPoolExecutor(workers, "lakefeed-map")

    def begin(samples: Samples) -> Callable[[], T]:
        future: Future[T] = executor.submit(applied, function, samples)
        return future.result

    return Ordered(feed, executor, begin, 2 * workers if ahead is None else ahead)


def width(workers: int | None) -> int:
    """Return how many workers are meant: None is one for each processor this process may use."""
    if workers is None:
        return len(os.sched_getaffinity(0))
    if workers < 1:
        raise Invalid("workers", expected="at least 1", found=workers)
    return workers


def samples_of(batch: Batch, options: FeedOptions) -> Samples:
    """Return a batch of a feed with these options."""
    return Samples(
        views=batch.views(),
        labels=batch.labels,
        names=batch.names,
        seed=options.seed,
        epoch=batch.epoch,
        positions=batch.low + (np.arange(len(batch)) if batch.kept is None else batch.kept),
        blank=batch.names.blank,
        corrupt=batch.corrupt,
        fixed=options.partition.is_fixed,
    )


def _raiser(error: Exception) -> Callable[[], Any]:
    def wait() -> Any:
        raise error

    return wait
