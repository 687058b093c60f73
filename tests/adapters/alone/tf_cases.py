"""A tf.data dataset of a lake: the files' own bytes and labels, each once an epoch, into Keras."""

from __future__ import annotations

import gc
import itertools
import platform
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import lakefeed.tf
from lakefeed.adapters._kept import OpenedFeed
from lakefeed.adapters.tf import source
from lakefeed.adapters.tf.elements import element, signature
from lakefeed.adapters.tf.source import Source
from lakefeed.adapters.tf.together import BATCHES_MAX, Together, has_room
from lakefeed.errors import Invalid, NotFound
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from tests.feed.lakes import QUIET, lake_of, some_files
from tests.support.threads import Threads

pytestmark = [pytest.mark.tf, pytest.mark.slow]

FILES = some_files(90)
PATHS = {data: path for path, data in FILES.items()}


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        yield lake


def payloads(dataset: Any) -> list[bytes]:
    return [data for batch in dataset for data in batch.numpy().tolist()]


def test_every_file_arrives_with_its_bytes_and_its_label(lake: Lake) -> None:
    dataset = lakefeed.tf.dataset(lake, "train/**", batch_size=8, labels="parent")
    assert dataset.class_names == ["class0", "class1", "class2"]
    assert dataset.element_spec == (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None], tf.int32),
    )
    seen = []
    for data, labels in dataset:
        assert labels.dtype == tf.int32
        for payload, label in zip(data.numpy().tolist(), labels.numpy().tolist(), strict=True):
            seen.append((payload, f"class{label}"))
    assert Counter(seen) == Counter((data, path.split("/")[1]) for path, data in FILES.items())


def test_bytes_in_path_order_equal_what_the_snapshot_gives(lake: Lake) -> None:
    snapshot = lake.snapshot()
    dataset = lakefeed.tf.dataset(snapshot, "train", batch_size=7, shuffle=None)
    assert dataset.element_spec == tf.TensorSpec([None], tf.string)
    assert payloads(dataset) == [snapshot.get(path) for path in sorted(FILES)]


def test_each_iteration_is_the_next_epoch_with_an_order_of_its_own(lake: Lake) -> None:
    dataset = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
    epochs = [payloads(dataset) for _ in range(3)]
    assert [Counter(epoch) for epoch in epochs] == [Counter(FILES.values())] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
    assert [payloads(again) for _ in range(3)] == epochs
    other = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=6)
    assert payloads(other) != epochs[0]


def test_repeat_goes_through_the_epochs_too(lake: Lake) -> None:
    dataset = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
    apart = payloads(dataset) + payloads(dataset)
    assert payloads(lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5).repeat(2)) == apart


def test_one_element_is_one_batch_and_their_number_is_known(lake: Lake) -> None:
    dataset = lakefeed.tf.dataset(lake, "train", batch_size=8)
    assert dataset.cardinality().numpy() == 12
    assert [len(batch.numpy()) for batch in dataset] == [8] * 11 + [2]
    dataset = lakefeed.tf.dataset(lake, "train", batch_size=8, last="drop")
    assert dataset.cardinality().numpy() == 11
    assert [len(batch.numpy()) for batch in dataset] == [8] * 11


def test_options_reach_the_feed(lake: Lake) -> None:
    ranks = [
        payloads(lakefeed.tf.dataset(lake, "train", batch_size=8, rank=rank, world_size=3))
        for rank in range(3)
    ]
    assert Counter(data for rank in ranks for data in rank) == Counter(FILES.values())


def test_class_names_fix_the_numbers(lake: Lake) -> None:
    names = ["class2", "other", "class1", "class0"]
    dataset = lakefeed.tf.dataset(lake, "train/class1", labels="parent", class_names=names)
    assert dataset.class_names == names
    assert {label for _, labels in dataset for label in labels.numpy().tolist()} == {2}


# -- one buffer a batch ----------------------------------------------------------------------------


def test_a_buffer_holds_the_same_bytes_behind_row_splits(lake: Lake) -> None:
    dataset = lakefeed.tf.dataset(
        lake, "train", elements="buffer", batch_size=7, shuffle=None, labels="parent"
    )
    buffer, labels = dataset.element_spec
    assert buffer == {
        "data": tf.TensorSpec([None], tf.uint8),
        "row_splits": tf.TensorSpec([None], tf.int64),
    }
    assert labels == tf.TensorSpec([None], tf.int32)
    found = []
    for buffer, labels in dataset:
        assert len(labels) == len(buffer["row_splits"]) - 1
        rows = lakefeed.tf.ragged(buffer)
        found += [bytes(rows[at].numpy()) for at in range(len(labels))]
    assert found == [FILES[path] for path in sorted(FILES)]


def test_tensorflow_takes_the_buffer_over_without_a_copy(lake: Lake) -> None:
    addresses = []
    run = Source.run

    def watched(one: Source) -> Iterator[Any]:
        for batches in run(one):
            addresses.extend(batch.data.ctypes.data for batch in batches)
            yield batches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "run", watched)
        dataset = lakefeed.tf.dataset(lake, "train", elements="buffer", batch_size=16)
        elements = list(dataset)
    # Not `numpy()`, which copies.
    kept = [np.from_dlpack(buffer["data"]) for buffer in elements]
    assert [data.__array_interface__["data"][0] for data in kept] == addresses
    again = lakefeed.tf.dataset(lake, "train", elements="buffer", batch_size=16)
    assert [data.tobytes() for data in kept] == [
        buffer["data"].numpy().tobytes() for buffer in again
    ]


def test_a_buffer_becomes_strings_inside_the_graph(lake: Lake) -> None:
    options = {"batch_size": 8, "seed": 4}
    buffers = lakefeed.tf.dataset(lake, "train", elements="buffer", **options)
    assert payloads(buffers.map(lakefeed.tf.strings)) == payloads(
        lakefeed.tf.dataset(lake, "train", **options)
    )


def test_unknown_elements_and_options_are_refused(lake: Lake) -> None:
    with pytest.raises(Invalid, match="elements"):
        lakefeed.tf.dataset(lake, "train", elements="views")
    with pytest.raises(Invalid, match="option 'batchsize'"):
        lakefeed.tf.dataset(lake, "train", batchsize=3)


def test_freed_memory_is_kept_where_the_c_library_is_glibc() -> None:
    assert lakefeed.tf.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


# -- what goes wrong -------------------------------------------------------------------------------


def test_nothing_to_read_is_an_error_before_training(lake: Lake) -> None:
    with pytest.raises(NotFound):
        lakefeed.tf.dataset(lake, "tset/**")
    with pytest.raises(Invalid, match="at least one batch"):
        lakefeed.tf.dataset(lake, "train", batch_size=10_000, last="drop")


def test_a_path_opens_the_lake_for_each_epoch_and_keeps_its_snapshot(tmp_path: Path) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    dataset = lakefeed.tf.dataset(tmp_path, "train", batch_size=32)
    with Lake.open(tmp_path) as lake, lake.writer(QUIET) as writer:
        writer.put("train/class0/new.bin", b"added later")
    for _ in range(2):
        assert Counter(payloads(dataset)) == Counter(FILES.values())
    assert b"added later" in payloads(lakefeed.tf.dataset(tmp_path, "train"))


def test_stopping_early_leaves_no_thread(lake: Lake, threads: Threads) -> None:
    dataset = lakefeed.tf.dataset(lake, "train", batch_size=2)
    for _ in dataset.take(3):
        pass
    gc.collect()
    assert threads.left() == []
    assert dataset.cardinality().numpy() == 45  # the dataset is still there


def test_one_feed_serves_epoch_after_epoch(lake: Lake, threads: Threads) -> None:
    feeds: list[Any] = []

    class Counted(OpenedFeed):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            feeds.append(self.feed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "OpenedFeed", Counted)
        dataset = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
        epochs = [payloads(dataset) for _ in range(3)]
        assert len(feeds) == 1
        assert threads.running()  # the fourth epoch is being read
        left = iter(dataset)
        next(left)
        del left  # in the middle of it: the fifth comes next, from another feed
        fifth = payloads(dataset)
        assert len(feeds) == 2
    apart = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
    assert [payloads(apart) for _ in range(5)][:3] == epochs
    again = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
    assert [payloads(again) for _ in range(5)][4] == fifth


def test_the_places_of_the_samples_go_with_the_dataset(lake: Lake, threads: Threads) -> None:
    selections: list[weakref.ref[Any]] = []

    class Told(OpenedFeed):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            selections.append(weakref.ref(self.feed.selection))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "OpenedFeed", Told)
        dataset = lakefeed.tf.dataset(lake, "train/**/*", batch_size=8)
        payloads(dataset)
        del dataset
    gc.collect()
    assert threads.left() == []
    gc.collect()
    assert [selection() for selection in selections] == [None]


def test_a_graph_iterates_a_dataset_whose_object_is_gone(lake: Lake) -> None:
    @tf.function
    def count() -> Any:
        samples = 0
        for batch in lakefeed.tf.dataset(lake, "train/**/*", batch_size=8):
            samples += tf.size(batch)
        return samples

    first = count()
    gc.collect()
    assert [int(first), int(count())] == [len(FILES)] * 2


def test_iterators_at_the_same_time_get_an_epoch_each(lake: Lake) -> None:
    dataset = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
    together: tuple[list[bytes], list[bytes]] = ([], [])
    for batches in zip(dataset, dataset, strict=True):
        for epoch, batch in zip(together, batches, strict=True):
            epoch += batch.numpy().tolist()
    third = payloads(dataset)
    alone = lakefeed.tf.dataset(lake, "train", batch_size=8, seed=5)
    assert [*together, third] == [payloads(alone) for _ in range(3)]


def test_a_damaged_file_stops_the_iteration_and_is_named(tmp_path: Path, threads: Threads) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for at in range(50):
            writer.put(f"train/a/{at}.bin", f"payload number {at}.".encode())
    (pack,) = (tmp_path / "packs").rglob("*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"number 33.", b"NUMBER 33."))
    dataset = lakefeed.tf.dataset(tmp_path, "train", batch_size=4, labels="parent")
    with pytest.raises(tf.errors.OpError, match=r"Corrupt: train/a/33\.bin"):
        for _ in dataset:
            pass
    gc.collect()
    assert threads.left() == []


def test_keras_trains_from_it_and_learns() -> None:
    chance = np.random.default_rng(0)
    pictures = {
        f"{part}/{name}/{at:03d}.png": picture(chance, bright)
        for part, count in (("train", 60), ("val", 20))
        for name, bright in (("dark", 60), ("light", 190))
        for at in range(count)
    }

    def decode(data: Any, labels: Any) -> Any:
        return tf.map_fn(one, data, fn_output_signature=tf.float32), labels

    def one(data: Any) -> Any:
        return tf.ensure_shape(tf.io.decode_png(data, channels=1), (8, 8, 1)) / 255

    with lake_of(pictures) as lake:
        train, held_out = (
            lakefeed.tf.dataset(lake, part, batch_size=10, labels="parent", seed=1)
            .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(2)
            for part in ("train", "val")
        )
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
        history = model.fit(
            train, validation_data=held_out, epochs=6, shuffle=False, verbose=0
        ).history
        assert history["val_accuracy"][-1] > 0.9


def picture(chance: np.random.Generator, bright: int) -> bytes:
    pixels = chance.normal(bright, 30, (8, 8, 1)).clip(0, 255).astype(np.uint8)
    data: bytes = tf.io.encode_png(pixels).numpy()
    return data


@pytest.mark.parametrize("kind", ["bytes", "buffer"])
@pytest.mark.parametrize("labels", [None, "parent"])
@pytest.mark.parametrize("count", range(1, BATCHES_MAX + 1))
def test_batches_that_travel_together_are_elements_of_their_own(
    lake: Lake, kind: str, labels: str | None, count: int
) -> None:
    with Feed(lake, "train", FeedOptions(9, labels=labels)) as feed:
        elements = [element(batch, kind) for batch in itertools.islice(feed, count)]
        together = Together(signature(kind, labels is not None))
        packed = together.pack(elements)
        tensors = [
            tf.convert_to_tensor(part, spec.dtype)
            for part, spec in zip(packed, together.signature, strict=True)
        ]
        found = list(together.unpack(*tensors))
    assert len(found) == count
    for one, same in zip(elements, found, strict=True):
        tf.nest.assert_same_structure(signature(kind, labels is not None), same)
        theirs = [part.numpy().tolist() for part in tf.nest.flatten(same)]
        ours = together.pack([one])[1 : 1 + len(theirs)]
        assert theirs == [part if isinstance(part, list) else part.tolist() for part in ours]


def test_big_batches_are_not_kept_for_each_other() -> None:
    small: Any = [SimpleNamespace(data=np.empty(10, np.uint8))] * BATCHES_MAX
    assert [has_room(small[:count]) for count in range(1, BATCHES_MAX + 1)] == [
        *[True] * (BATCHES_MAX - 1),
        False,
    ]
    big: Any = [SimpleNamespace(data=np.empty(20 << 20, np.uint8))]
    assert not has_room(big)
