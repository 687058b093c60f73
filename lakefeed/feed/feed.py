"""The feed: verified batches of a snapshot's files, in a seeded order, from any position on.

    with Feed(lake.snapshot(), "train/**", FeedOptions(batch_size=256, labels="parent")) as feed:
        for batch in feed:
            train(batch.views(), batch.labels)
            save(batch.state)

A feed is a plan (`planning`), a thread that carries it out ahead of the consumer (`ahead`), and a
cursor. The cursor moves when a batch is taken, so a saved state means *consumed*, and a feed that
is restored from it, at the same or at another world size, repeats and misses nothing (I8).

Keeps I7 (every payload verified), I8 (ranks) and I9 (byte budget, nothing left behind by `close`).
A feed is used by one thread. After a fork it starts its own thread in the process that iterates it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from types import TracebackType

from lakefeed.errors import Invalid
from lakefeed.feed.ahead import Ahead, Limits
from lakefeed.feed.batch import Batch, Cursor
from lakefeed.feed.order import Partition, Shuffle
from lakefeed.feed.planning import Plan
from lakefeed.feed.selection import Labelling, Select, Selection, resolve
from lakefeed.lake.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """What a feed serves, to whom, and how far ahead it reads.

    `shuffle` is "global", "runs=K" (K neighbours stay together) or None. Epochs [0, `epochs`) are
    served, None: without end; each has its own order. Labels are the number of the parent
    directory's name ("parent") or of an attribute's value ("attrs.KEY") among the sorted names, or
    in `class_names`. Each of `world_size` ranks gets `batch_size` samples a step. At most
    `prefetch` batches and `memory_bytes` bytes are read ahead.
    """

    batch_size: int = 32
    shuffle: str | None = "global"
    seed: int = 0
    epochs: int | None = 1
    drop_last: bool = False
    labels: str | None = None
    class_names: tuple[str, ...] | None = None
    rank: int = 0
    world_size: int = 1
    prefetch: int = 8
    memory_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        Shuffle.parse(self.shuffle)
        _ = self.partition, self.labelling
        for name, value in (("prefetch", self.prefetch), ("memory_bytes", self.memory_bytes)):
            if value < 1:
                raise Invalid(name, expected="at least 1", found=value)

    @property
    def partition(self) -> Partition:
        """How the ranks share an epoch."""
        return Partition(self.batch_size, self.rank, self.world_size, self.drop_last)

    @property
    def labelling(self) -> Labelling:
        """Where labels come from."""
        return Labelling(self.labels, self.class_names)


class Feed:
    """An iterator of batches. Use it in a `with` block, or call `close`."""

    def __init__(
        self,
        snapshot: Snapshot,
        select: Select | Selection = "",
        options: FeedOptions | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._select = select
        self._options = options or FeedOptions()
        self._cursor: Cursor | None = None
        self._ahead: Ahead | None = None
        self._skip, self._every = 0, 1
        self._closed = False

    # -- what is served --------------------------------------------------------------------------

    @cached_property
    def selection(self) -> Selection:
        """The samples, resolved on first use; NotFound when there are none."""
        if isinstance(self._select, Selection):
            return self._select
        return resolve(self._snapshot, self._select, self._options.labelling)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty without labels."""
        return self.selection.class_names

    def __len__(self) -> int:
        """Return how many batches this rank gets in one epoch."""
        return self._options.partition.batches(len(self.selection))

    # -- batches ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch; raise what reading ahead ran into (Corrupt names the file)."""
        batch = self._running().next()
        if batch is None:
            raise StopIteration
        self._cursor = batch.cursor
        self._skip = self._every - 1
        return batch

    def _running(self) -> Ahead:
        if self._closed:
            raise Invalid("feed", expected="an open feed", found="a closed one")
        if self._ahead is None or self._ahead.pid != os.getpid():
            options = self._options
            plan = Plan(len(self.selection), options.partition, options.epochs)
            limits = Limits(options.prefetch, options.memory_bytes)
            assignments = islice(plan.assignments(self._here()), self._skip, None, self._every)
            self._ahead = Ahead(self._snapshot, self.selection, assignments, limits)
        return self._ahead

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

    def state(self) -> dict[str, int | str | None]:
        """Return where the feed stands behind the last batch taken, as JSON under 200 bytes."""
        return self._here().state()

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a state, also one of another world size or batch size.

        Invalid if it belongs to other samples, another seed or another shuffle.
        """
        wanted, here = Cursor.of(state), self._here()
        for name, theirs, ours in (
            ("selection", wanted.selection, here.selection),
            ("seed", wanted.seed, here.seed),
            ("shuffle", wanted.shuffle, here.shuffle),
        ):
            if theirs != ours:
                raise Invalid(
                    f"feed state's {name}",
                    expected=ours,
                    found=theirs,
                    hint=f"open snapshot {wanted.snapshot} with the options of the saved feed",
                )
        if wanted.position >= len(self.selection):
            raise Invalid(
                "feed state's position",
                expected=f"below {len(self.selection)}",
                found=wanted.position,
            )
        self._stop()
        self._cursor = wanted

    def _here(self) -> Cursor:
        if self._cursor is not None:
            return self._cursor
        options, number = self._options, self._snapshot.number
        return Cursor(number, self.selection.digest, options.shuffle, options.seed, 0, 0)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were read ahead at once, so far."""
        return 0 if self._ahead is None else self._ahead.peak_bytes

    # -- the end ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

    def close(self) -> None:
        """Stop reading ahead; no thread is left. Works twice."""
        self._closed = True
        self._stop()

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
