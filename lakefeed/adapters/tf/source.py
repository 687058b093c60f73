"""The feed behind one dataset: where its next iteration begins, and what it has handed out.

TensorFlow runs a generator ahead of the model, and forgets where an element came from. So each
batch handed out leaves a note `state before -> state behind`, and whoever knows how many batches
the model took walks these notes from the state it began with (`Consumed`). It does not matter how
far ahead of the model the generator is, nor how often it was begun anew.

Keeps I8 across restarts: a state means *consumed*. One lock guards the notes and the next start.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from lakefeed.adapters._kept import ANSWERED, ENDING, Kept, OpenedFeed
from lakefeed.adapters._places import Place
from lakefeed.adapters.tf.together import has_room
from lakefeed.errors import Invalid
from lakefeed.feed.batch import Batch
from lakefeed.feed.feed import FeedOptions, Mix
from lakefeed.feed.selection import Select, Selection
from lakefeed.feed.sources import Source as Origin

State = Mapping[str, object]
_Place = tuple[object, object]  # (epoch, position)
# TensorFlow's buffer needs the interpreter's lock to ask. Once a restart this is waited in vain.
_GOES_ON_SECONDS = 1.0


class Source:
    """Runs of one feed: each goes to the end of an epoch, the next one begins behind it."""

    def __init__(self, where: Origin, select: Select | Mix, options: FeedOptions) -> None:
        self._place = Place.of(where)
        self._select = select
        self._options = options
        with ExitStack() as opening:
            opened = opening.enter_context(OpenedFeed(self._place, select, options))
            self._selection: Selection | None = opened.feed.selection
            self._samples = len(opened.feed.selection)
            options.partition.check(self._samples)
            self.class_names = opened.feed.class_names  # in the order of their numbers
            self.batches_per_epoch = len(opened.feed)
            self.first: State = opened.feed.state()
            opening.pop_all()
        self.kept = Kept()
        self.kept.keep(opened)
        self.rank, self.world_size = options.rank, options.world_size
        self.labelled = options.labels is not None
        self._lock = threading.Lock()  # guards _next, _ended, _noting and _behind
        self._moved = threading.Condition(self._lock)  # _next has
        self._next: State = self.first
        self._noting = False  # notes that nobody walks would only pile up
        self._ended = False
        self._behind: dict[_Place, State] = {}

    def follow(self, owner: object) -> None:
        """Let go of the feed and of the samples' places and paths when a dataset goes.

        TensorFlow's registry of Python functions never lets this source go. A graph may iterate a
        dataset whose object is gone: the samples are then looked up again (so a list of paths
        stays).
        """
        self.kept.follow(owner)
        weakref.finalize(owner, self._forget).atexit = False

    def _forget(self) -> None:
        self._selection = None

    def run(self) -> Iterator[list[Batch]]:
        """Yield what is left of the next epoch: each time a batch, and what is ready behind it.

        A run that TensorFlow exhausts before the promised number of batches is followed at once by
        a call of its `repeat`, which has to come back empty for the iteration to end (`dataset`).
        """
        with self._lock:
            if ENDING.is_set():
                ANSWERED.set()
                return
            if self._ended:
                self._ended = False
                return
            here = self._next
            self._next = _behind_epoch(here)
            self._moved.notify_all()
        yield from self._batches(here)
        with self._lock:
            self._ended = True

    def _batches(self, here: State) -> Iterator[list[Batch]]:
        """Yield the batches of an epoch from here on, those together that need no waiting."""
        epoch = here["epoch"]
        opened = self.kept.take(self._options) or self._open()
        with ExitStack() as leaving:
            leaving.callback(opened.close)
            opened.unused.clear()
            leaving.callback(opened.unused.set)
            opened.stand_at(here)
            together: list[Batch] = []
            for batch in opened.feed:
                self._note(here, batch.state)
                here = batch.state
                together.append(batch)
                if here["epoch"] != epoch:
                    # Left before the last batch is handed out, because TensorFlow asks for no more
                    # elements than were promised, and gives this generator up.
                    if self._is_next(here):
                        leaving.pop_all()
                        opened.unused.set()
                        self.kept.keep(opened)
                    yield together
                    return
                if not (has_room(together) and opened.feed.is_ready):
                    yield together
                    together = []

    def _is_next(self, here: State) -> bool:
        """Tell whether the next run begins here: another iterator may have begun that epoch."""
        with self._lock:
            return here == self._next

    def goes_on(self, here: State) -> bool:
        """Tell whether an iteration goes on from here, as one that repeats does.

        What buffers its elements asks for the next one at once; it is waited for.
        """
        with self._moved:
            return self._moved.wait_for(lambda: here != self._next, _GOES_ON_SECONDS)

    def _open(self) -> OpenedFeed:
        selection = self._selection
        select = self._select if selection is None else selection
        return OpenedFeed(self._place, select, self._options)

    def _note(self, here: State, behind: State) -> None:
        with self._lock:
            if self._noting:
                self._behind[_place(here)] = behind

    def check(self, state: State) -> State:
        """Return a saved state as one of this feed, at which a batch begins.

        What an epoch has left may fill no step of another batch size or world size (last="drop");
        the feed then goes on with the next epoch. Invalid if the state belongs to other samples,
        another seed or another shuffle.
        """
        with self._open() as opened:
            opened.feed.restore(state)
            here = opened.feed.state()
        position = number(here, "position")
        has_batches = self._options.partition.step(position, self._samples) is not None
        return here if has_batches else _behind_epoch(here)

    def begin(self, state: State) -> None:
        """Let the next run begin here, and note from now on what is handed out."""
        with self._lock:
            self._next = dict(state)
            self._ended = False
            self._noting = True
            self._behind.clear()

    def behind(self, state: State) -> State | None:
        """Return the state behind the batch that was handed out at this one, once."""
        with self._lock:
            return self._behind.pop(_place(state), None)


class Consumed:
    """The position of the model: what it took, counted in batches of a source."""

    def __init__(self, source: Source, state: State | None) -> None:
        self._source = source
        self._state = source.first if state is None else source.check(state)
        source.begin(self._state)

    @property
    def state(self) -> State:
        """Where a feed has to go on."""
        return self._state

    def begin(self) -> None:
        """Let the next iteration of the dataset begin here, whatever was looked at before."""
        self._source.begin(self._state)

    def goes_on(self) -> bool:
        """Tell whether the dataset's iteration goes on from here, as one that repeats does."""
        return self._source.goes_on(self._state)

    def advance(self, batches: int, *, at_most: bool = False) -> int:
        """Count batches as consumed, and return how many; Invalid if they were never handed out.

        With `at_most` a step that asks for more than an epoch had left took what there was.
        """
        for taken in range(batches):
            behind = self._source.behind(self._state)
            if behind is None and at_most and taken and not self._state["position"]:
                return taken
            if behind is None:
                raise Invalid(
                    "steps of the model",
                    expected="one batch of the dataset a step",
                    found=f"a step without a batch at epoch {self._state['epoch']}, "
                    f"position {self._state['position']}",
                    hint="do not change the number of elements between lakefeed.tf.dataset and "
                    "the model (batch, filter, cache, repeat of one element, another iteration "
                    "meanwhile)",
                )
            self._state = behind
        return batches


def _place(state: State) -> _Place:
    return state["epoch"], state["position"]


def _behind_epoch(state: State) -> State:
    """Return the beginning of the epoch behind a state's own."""
    return {**state, "epoch": number(state, "epoch") + 1, "position": 0}


def number(state: State, name: str) -> int:
    """Return a number of a state; Invalid for what is none."""
    value = state[name]
    if type(value) is not int:
        raise Invalid(f"saved position's {name}", expected="a number", found=value)
    return value
