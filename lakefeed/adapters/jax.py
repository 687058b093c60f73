"""JAX: batches on the devices, one part of each batch a device, resumable to the sample.

    loader = lakefeed.jax.Loader("/mnt/lake", "train/**", FeedOptions(256, labels="parent"),
                                 LoaderOptions(transform=decode))
    for batch in loader:  # a tree of jax.Arrays, sharded over the local devices
        state = step(state, batch)
    save(loader.state())

A `transform` makes a tree of numpy arrays, whose first axis counts samples, from each batch of the
feed; `rows` is the one for those who want the files' bytes. A thread runs it and starts the copies
to the devices, `prefetch` batches ahead; they are asynchronous, so they run beside the step before.
Without a transform a batch is its flat buffer, given to JAX by DLPack: on a CPU device nothing is
copied (`flat`).

With several processes each is a rank of the feed, and a batch is one global array to which every
process brings its part. Parts of different shapes would end the first collective operation in an
abort of all processes, so what could make such parts is refused. Keeps I8 and I9; the state is that
of the last batch handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from lakefeed.adapters._conveyor import Conveyor, Stamped
from lakefeed.adapters._epochs import Epochs, Position
from lakefeed.adapters._places import Place
from lakefeed.errors import Invalid
from lakefeed.feed.batch import Batch
from lakefeed.feed.feed import Feed, FeedOptions, Mix
from lakefeed.feed.selection import Select
from lakefeed.feed.sources import Source
from lakefeed.given import check, check_fields
from lakefeed.metrics.exporter import metered

# Rows are at least as wide as a vector register, whatever the files.
_WIDTH_MIN = 64


def rows(batch: Batch, width: int | None = None) -> dict[str, Any]:
    """Return a batch as a matrix with one sample a row: `data`, `lengths` and perhaps `labels`.

    Zeros fill up each row. Without `width` the longest sample decides, rounded up to a power of
    two, so that `jit` compiles for few shapes. Invalid if a sample is longer than `width`.
    """
    longest = int(batch.lengths.max()) if len(batch) else 0
    if width is None:
        width = max(_WIDTH_MIN, 1 << max(0, longest - 1).bit_length())
    elif longest > width:
        name = batch.paths[int(batch.lengths.argmax())]
        raise Invalid(name, expected=f"at most {width} bytes", found=longest)
    data = np.zeros((len(batch), width), np.uint8)
    for row, view in zip(data, batch.views(), strict=True):
        row[: len(view)] = np.frombuffer(view, np.uint8)
    tree = {"data": data, "lengths": batch.lengths.astype(np.int32)}
    return tree if batch.labels is None else {**tree, "labels": batch.labels}


def flat(batch: Batch, device: Any = None) -> dict[str, Any]:
    """Return a batch's own buffer as jax.Arrays: `data`, `lengths` and perhaps `labels`.

    Sample i is `data[sum(lengths[:i]) :][: lengths[i]]`. By DLPack, so on a CPU device `data` is
    the feed's memory, which lives as long as the array does; another `device` gets a copy. JAX
    counts in 32 bits, so a batch of 2 GiB or more is Invalid.
    """
    if len(batch.data) > np.iinfo(np.int32).max:
        raise Invalid("batch", expected="less than 2 GiB", found=f"{len(batch.data)} bytes",
                      hint="lower batch_size")  # fmt: skip
    data = jax.dlpack.from_dlpack(batch.data)
    tree = {"data": data, "lengths": batch.lengths.astype(np.int32)}
    if batch.labels is not None:
        tree["labels"] = batch.labels
    return {name: jax.device_put(value, device) for name, value in tree.items()}


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """What becomes of a batch, and where it goes.

    `transform` makes a tree of numpy arrays of a batch in a thread of its own; it should let go of
    the GIL, as decoders and numpy do. None: the flat buffer, on one device. `sharding` is any
    sharding, or one for each leaf; None: the first axis over all devices. `prefetch` batches are
    on the devices ahead of the one in use. With a `metrics_port` this process serves Prometheus
    metrics there (see `metered`).

    `fixed_shape` says that the transform fills up by itself: its arrays have one shape, whatever
    batch it gets. Several processes may then have batches of different lengths.
    """

    transform: Callable[[Batch], Any] | None = rows
    sharding: Any = None
    prefetch: int = 2
    metrics_port: int | None = None
    fixed_shape: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.prefetch < 1:
            raise Invalid("prefetch", expected="at least 1", found=self.prefetch)
        if self.transform is None and self.sharding is not None:
            raise Invalid("sharding", expected="a transform whose arrays can be cut", found="none")
        if self.fixed_shape and (self.transform is None or self.transform is rows):
            raise Invalid("fixed_shape", expected="a transform of yours, which fills up")


class Loader(Epochs):
    """Batches for JAX, an epoch an iteration. Use it in a `with` block, or call `close`."""

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
        self._place = Place.of(source)
        self._select = select
        self._feed_options = feed or FeedOptions()
        self._shapes: Any = None  # the first batch's, of a transform with a fixed shape
        if self.options.metrics_port is not None:
            self._feed_options = metered(self._feed_options, self.options.metrics_port)
        if self._feed_options.epochs not in (1, None):
            raise Invalid("epochs", expected="none: one iteration is one epoch, without end",
                          found=self._feed_options.epochs)  # fmt: skip

    def __len__(self) -> int:
        """Return how many batches this process gets in one epoch."""
        with ExitStack() as resources:
            return len(self._feed(resources, 0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty without labels."""
        with ExitStack() as resources:
            return self._feed(resources, 0).class_names

    def state(self) -> dict[str, Any]:
        """Return where the loader stands behind the last batch handed out: JSON under 200 bytes."""
        position = self.position
        if position.state is not None:
            return dict(position.state)
        with ExitStack() as resources:
            return {**self._feed(resources, 0).state(), "epoch": position.epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on behind the batch that had this state.

        Invalid if it belongs to other samples, another seed or another shuffle.
        """
        self.close()
        with ExitStack() as resources:
            self._feed(resources, 0).restore(state)
        self._stand_at(Position(int(state["epoch"]), dict(state)))

    def _items(self, running: ExitStack) -> Iterator[Stamped]:
        epoch, state = self.position.epoch, self.position.state
        feed = self._feed(running, epoch)
        feed.restore(state or {**feed.state(), "epoch": epoch})
        if _is_of_many(self.options):
            _check_parts(feed, self.options)
        placed = Conveyor(_stamped(feed), feed.close, self._placed, 0, self.options.prefetch)
        running.callback(placed.close)
        return placed

    def _feed(self, resources: ExitStack, epoch: int) -> Feed:
        options = replace(self._feed_options, epochs=epoch + 1)
        if options.world_size == 1 and jax.process_count() > 1:
            rank, world_size = jax.process_index(), jax.process_count()
            options = replace(options, rank=rank, world_size=world_size)
        snapshot = resources.enter_context(self._place.opened())
        return resources.enter_context(Feed(snapshot, self._select, options))

    def _placed(self, batch: Batch) -> Any:
        options = self.options
        if options.transform is None:
            return flat(batch)
        tree = options.transform(batch)
        if options.fixed_shape:
            self._check_shapes(tree)
        sharding = over_all_devices() if options.sharding is None else options.sharding
        try:
            return _cut(tree, sharding)
        except ValueError as error:
            raise Invalid(
                f"batch of {len(batch)} samples",
                expected=f"arrays that {sharding} can cut",
                found=str(error),
                hint="choose a batch_size that the devices share evenly, and drop the last batch",
            ) from error

    def _check_shapes(self, tree: Any) -> None:
        # Trees of a user's own kind need not be equal to others; what JAX says of them is.
        leaves, structure = jax.tree.flatten(tree)
        shapes = structure, [np.shape(leaf) for leaf in leaves]
        first = self._shapes = self._shapes or shapes
        if shapes != first:
            raise Invalid("transform", expected=f"arrays of one fixed_shape, {_shown(*first)}",
                          found=_shown(*shapes))  # fmt: skip

    def close(self) -> None:
        """Stop reading; no thread is left. Works twice."""
        self._stop()


def _shown(structure: Any, shapes: list[Any]) -> str:
    return f"{', '.join(map(str, shapes))} in {structure}"


def _is_of_many(options: LoaderOptions) -> bool:
    """Tell whether a batch is a global array, of which other processes have parts."""
    if options.transform is None or jax.process_count() == 1:
        return False
    shardings = jax.tree.leaves(options.sharding)
    return not shardings or not all(each.is_fully_addressable for each in shardings)


def _check_parts(feed: Feed, loader: LoaderOptions) -> None:
    """Invalid unless all processes bring parts of one shape, as far as it is for us to say."""
    if loader.fixed_shape:
        return
    if loader.transform is rows:
        raise Invalid(
            "transform",
            expected="rows of one width in all processes",
            found="lakefeed.jax.rows, as wide as a process's own longest file",
            hint="pass functools.partial(lakefeed.jax.rows, width=4096), or a transform of yours",
        )
    options, count = feed.options, len(feed.selection)
    left = count - int(feed.state()["position"] or 0)
    is_uneven = bool(count % options.world_size or left % options.world_size)
    differ = options.on_corrupt == "skip" or (options.last == "keep" and is_uneven)
    if differ and not options.partition.is_fixed:
        raise Invalid(
            "last",
            expected="shares of equal length in all processes",
            found=f"{options.last!r}, on_corrupt={options.on_corrupt!r}, {left} samples for "
            f"{options.world_size} processes",
            hint='choose last="pad" or "repeat" (or, if nothing is skipped, "drop"); of a '
            "transform that fills up by itself say LoaderOptions(fixed_shape=True)",
        )


def over_all_devices() -> jax.sharding.NamedSharding:
    """Return the sharding that gives every device of all processes a part of the first axis."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))


def _cut(tree: Any, sharding: Any) -> Any:
    """Return global arrays of this process's parts, under one sharding or a tree of them."""
    make = jax.make_array_from_process_local_data
    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: make(sharding, leaf), tree)
    return jax.tree.map(make, sharding, tree)


def _stamped(feed: Feed) -> Iterator[Stamped]:
    for batch in feed:
        yield dict(batch.state), batch
