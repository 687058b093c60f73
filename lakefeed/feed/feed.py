"""The feed: verified batches of a lake's files, in a seeded order, from any position on.

    with Feed("/mnt/lake", "train/**", FeedOptions(batch_size=256, labels="parent")) as feed:
        for batch in feed:
            train(batch.views(), batch.labels)
            save(batch.state)

A feed is a plan (`planning`), workers that carry it out ahead of the consumer (`ahead`), and a
cursor. The cursor moves when a batch is taken, so a saved state means *consumed*, and a feed that
is restored from it, at the same or at another world size, repeats and misses nothing (I8).

Keeps I7 (every payload verified), I8 (ranks) and I9 (byte budget, nothing left behind by `close`).
Threads may share a feed: each batch goes to one of them, but its state tells nothing while they do,
and an interrupt of one may lose the batch that it was given. After a fork it starts its own workers
in the process that iterates it. What it opened itself, it closes. Workers of a feed that is dropped
instead end, too.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lakefeed.closing import Closing, Staying, beside
from lakefeed.errors import Invalid, NotFound
from lakefeed.feed.ahead import Ahead
from lakefeed.feed.batch import Batch
from lakefeed.feed.buffers import Pool
from lakefeed.feed.cursor import Cursor, State
from lakefeed.feed.fetching import Patience, Stopped
from lakefeed.feed.flights import Start
from lakefeed.feed.mixing import Mix, Mixed
from lakefeed.feed.options import Cache, FeedOptions
from lakefeed.feed.order import Key
from lakefeed.feed.planning import Plan
from lakefeed.feed.selection import Select, Selection, Where, resolve
from lakefeed.feed.sources import Source, Sources
from lakefeed.feed.stats import FeedStats, Now, Recorder
from lakefeed.feed.window import Means
from lakefeed.forking import Lazy, new_lock
from lakefeed.given import check
from lakefeed.lake.snapshot import Snapshot

__all__ = ["Cache", "Feed", "FeedOptions", "Mix", "Source", "Where"]

_Found = TypeVar("_Found")


class Feed(Closing, Staying):
    """An iterator of batches. Use it in a `with` block, or call `close`.

    `source` is a lake's directory (its newest snapshot is served), an opened lake or federation, or
    a snapshot of either.
    `select` is a prefix, a glob, paths in a list or an array, a `Where` (of SQL: see
    `lakefeed.adapters.sql.where`), a `Mix` of those, or a selection resolved before.
    """

    def __init__(
        self,
        source: Source,
        select: Select | Mix | Selection = "",
        options: FeedOptions | None = None,
    ) -> None:
        check("options", options, FeedOptions | None)
        self._options = options or FeedOptions()
        self._sources = Sources(source, self._options.cache)
        self._select = select
        self._cursor: Cursor | None = None
        self._ahead: Ahead | None = None
        self._watch: weakref.finalize[..., Feed] | None = None  # stops the workers with the feed
        self._past_peak_bytes = 0
        self._skip, self._every = 0, 1
        self._lock = new_lock()  # guards who begins and drops the workers, and the cursor
        self._closed = threading.Event()
        self._pool = Pool(self._options.limits.bytes_max, self._options.allocate)
        self._recorder = Recorder(self._options.observer)

    # -- what is served --------------------------------------------------------------------------

    @property
    def options(self) -> FeedOptions:
        """The options the feed was made with."""
        return self._options

    @Lazy
    def snapshot(self) -> Snapshot:
        """The snapshot that is served, opened on first use."""
        return self._looked_up(lambda: self._sources.snapshot)

    @Lazy
    def selection(self) -> Selection:
        """The samples, resolved on first use; NotFound when there are none."""
        snapshot = self.snapshot
        return self._looked_up(lambda: self._resolve(snapshot))

    def _looked_up(self, look: Callable[[], _Found]) -> _Found:
        """Return what a look-up finds, with the patience of reads; Invalid in a closed feed."""
        try:
            return Patience(self._closed, self._recorder).run(look)
        except Stopped:
            raise _is_closed() from None

    def _resolve(self, snapshot: Snapshot) -> Selection:
        labelling = self._options.labelling
        select = self._select
        if isinstance(select, Mix):
            parts = [resolve(snapshot, part, labelling) for part, _ in select.parts]
            return Mixed(parts, select)
        if "through" in dir(select):  # a selection resolved before
            ready: Selection = select  # type: ignore[assignment]
            return ready.through(snapshot)
        return resolve(snapshot, select, labelling)  # type: ignore[arg-type]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty without labels."""
        return self.selection.class_names

    def __len__(self) -> int:
        """Return how many batches every rank gets in one epoch."""
        return self._options.partition.batches(len(self.selection))

    # -- batches ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch; raise what reading ahead ran into (Corrupt names the file).

        Interrupted (Ctrl-C, an alarm's error) it reads anew from behind the last batch handed out:
        one that was on its way here would be missing.
        """
        try:
            return self._next()
        except BaseException as error:
            ahead = self._own_ahead
            is_end = isinstance(error, StopIteration) or (ahead and ahead.failure is error)
            if not is_end:
                self._stop()
            raise

    def _next(self) -> Batch:
        asked = time.perf_counter()
        while (batch := (ahead := self._running()).next()) is None:
            if not ahead.closed.is_set():
                raise StopIteration
            self._drop(ahead)  # another thread stopped them, which is no end of an epoch
        self._recorder.step(asked, time.perf_counter())
        self._recorder.delivered(len(batch), batch.data.nbytes, batch.epoch)
        if self._options.cache is not None and self._options.observer is not None:
            new = self._sources.new_cache_counts()
            self._options.observer.cached(*new, self._options.cache.bytes_max)
        self._stand_behind(batch.cursor)
        return batch

    def _stand_behind(self, cursor: Cursor) -> None:
        """Move the cursor on; threads may come with their batches in another order."""
        with self._lock:
            here = self._cursor
            if here is None or (here.epoch, here.position) < (cursor.epoch, cursor.position):
                self._cursor, self._skip = cursor, self._every - 1

    @property
    def is_ready(self) -> bool:
        """True if the next batch is there already and costs no waiting."""
        ahead = self._own_ahead
        return ahead is not None and ahead.is_ready

    @property
    def _own_ahead(self) -> Ahead | None:
        """The workers, if they run in this process: after a fork only the parent has them."""
        ahead = self._ahead
        return ahead if ahead is not None and ahead.pid == os.getpid() else None

    def _running(self) -> Ahead:
        self._refuse_closed()
        ahead = self._own_ahead
        if ahead is None:
            ahead = self._begun(self._planned(), self._here())
            self._refuse_closed()  # another thread may have closed it, and seen nothing to stop
        return ahead

    def _begun(self, planned: Ahead, here: Cursor) -> Ahead:
        """Return the workers, begun: these ones, unless those of another thread have been."""
        with self._lock:
            ahead = self._own_ahead
            if ahead is None:
                ahead = self._ahead = planned
                self._watch = weakref.finalize(self, _stop_dropped, ahead)
                self._watch.atexit = False
                ahead.start(Start(self._cursor or here, self._skip))
        return ahead

    def _refuse_closed(self) -> None:
        if self._closed.is_set():
            self._stop()
            raise _is_closed()

    def _planned(self) -> Ahead:
        """Return the workers to be, of which none has begun: nobody else knows of them yet."""
        options, selection = self._options, self.selection
        options.partition.check(len(selection))
        closed = threading.Event()
        means = Means(
            snapshot=self.snapshot,
            selection=selection,
            pool=self._pool,
            patience=Patience(closed, self._recorder),
            recorder=self._recorder,
            skips=options.on_corrupt == "skip",
            fixed=options.partition.is_fixed,
        )
        return Ahead(means, self._plan(selection), options.limits, closed)

    def _plan(self, selection: Selection) -> Plan:
        options, shuffle, count = self._options, self._options.order, len(selection)

        def order(positions: NDArray[np.int64], key: Key) -> NDArray[np.int64]:
            if isinstance(selection, Mixed):
                return selection.numbers(positions, shuffle, key)
            return shuffle.samples(positions, count, key)

        return Plan(count, options.partition, options.epochs, shuffle, order, self._every)

    def take_turns(self, skip: int, every: int) -> None:
        """Serve only every `every`-th batch from here on, leaving out `skip` at first.

        Processes that share a rank take turns like this: worker w of n leaves out w and serves
        every n-th, so their batches, taken in turns, are those of one feed, with the same cursors.
        A worker that goes on behind a batch of its own leaves out n - 1.
        """
        if not skip >= 0 or every < 1:
            raise Invalid("turns", expected="skip from 0, every from 1", found=(skip, every))
        self._stop()
        self._skip, self._every = skip, every

    # -- where it stands -------------------------------------------------------------------------

    def state(self) -> State:
        """Return where the feed stands behind the last batch taken, as JSON under 200 bytes."""
        return self._here().state()

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a state, also one of another world size or batch size.

        Invalid if it belongs to other samples, another seed or another shuffle.
        """
        wanted, here = Cursor.of(state), self._here()
        for name, theirs, ours in (
            ("seed", wanted.seed, here.seed),
            ("shuffle", wanted.shuffle, here.shuffle),
        ):
            if theirs != ours:
                raise _refused(name, ours, theirs, wanted)
        if wanted.selection != here.selection and not self._same_files(wanted):
            raise _refused("selection", here.selection, wanted.selection, wanted)
        if wanted.position >= len(self.selection):
            raise Invalid(
                "feed state's position",
                expected=f"below {len(self.selection)}",
                found=wanted.position,
            )
        self._stop()
        self._cursor = replace(wanted, snapshot=here.snapshot, selection=here.selection)

    def _same_files(self, wanted: Cursor) -> bool:
        """Tell whether the state's snapshot holds the same files in other packs or segments.

        That takes reading the index of both snapshots, so it is asked only if their places differ.
        """
        if wanted.snapshot == self.snapshot.number:
            return False
        return self._looked_up(lambda: self._compared(wanted))

    def _compared(self, wanted: Cursor) -> bool:
        try:
            theirs = self._resolve(self.snapshot.at(wanted.snapshot))
            known = wanted.selection in (theirs.digest, theirs.content())
            return known and theirs.content() == self.selection.content()
        except NotFound:
            return wanted.selection == self.selection.content()

    def _here(self) -> Cursor:
        if self._cursor is not None:
            return self._cursor
        options = self._options
        shuffle = str(options.order) or None
        digest = self.selection.digest
        return Cursor(self.snapshot.number, digest, shuffle, options.seed, 0, 0)

    # -- figures ---------------------------------------------------------------------------------

    def stats(self) -> FeedStats:
        """Return what the feed did so far and where the time went."""
        ahead = self._own_ahead
        now = Now() if ahead is None else ahead.now()
        hits, misses = self._sources.cache_counts()
        refused, filled_bytes = self._sources.cache_room()
        now = replace(now, cache_hits=hits, cache_misses=misses, cache_refused=refused)
        now = replace(now, cache_filled_bytes=filled_bytes, peak_bytes=self.peak_bytes)
        return self._recorder.facts(now)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were read ahead at once, so far."""
        ahead = self._own_ahead
        now = 0 if ahead is None else ahead.now().peak_bytes
        return max(now, self._past_peak_bytes)

    # -- the end ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._past_peak_bytes = self.peak_bytes
        ahead = self._own_ahead
        if ahead is not None:
            self._drop(ahead)

    def _drop(self, ahead: Ahead) -> None:
        """Stop workers; each of several threads that do comes back when they have ended."""
        try:
            ahead.close()
        finally:  # interrupted, too: a batch of theirs may have been on its way
            with self._lock:
                if self._ahead is ahead:
                    self._ahead = None
                    if self._watch is not None:
                        self._watch.detach()
        self._recorder.queue(0, 0)

    @property
    def is_at_work_here(self) -> bool:
        """True in a thread of the feed's own. The garbage collector runs there as well, in the
        middle of anything, and may find somebody gone who used the feed."""
        ahead = self._own_ahead
        return ahead is not None and ahead.is_at_work_here

    def close(self) -> None:
        """Stop reading ahead; no thread is left, and no file that the feed opened. Works twice.

        In a thread of the feed's own it is done by another one.
        """
        if self.is_at_work_here:
            beside(self.close)
            return
        self._closed.set()
        self._stop()
        self._pool.close()
        self._sources.close()


def _stop_dropped(ahead: Ahead) -> None:
    """Stop the workers of a feed that nobody has any more: they would wait for it for ever."""
    if ahead.pid == os.getpid():
        beside(ahead.close)


def _is_closed() -> Invalid:
    return Invalid("feed", expected="an open feed", found="a closed one")


def _refused(name: str, ours: object, theirs: object, wanted: Cursor) -> Invalid:
    return Invalid(
        f"feed state's {name}",
        expected=ours,
        found=theirs,
        hint=f"open snapshot {wanted.snapshot} with the options of the saved feed",
    )
