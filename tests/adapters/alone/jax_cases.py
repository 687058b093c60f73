"""JAX: every sample once, on each device its part, exact resume; four devices on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read when the backend starts, which no import does.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import lakefeed.jax
from lakefeed.errors import Corrupt, Invalid
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.jax import Loader, LoaderOptions
from lakefeed.lake.lake import Lake
from tests.feed.lakes import QUIET, lake_of, some_files
from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import kept_port
from tests.support.threads import Threads

pytestmark = pytest.mark.slow

FILES = some_files(84)
OPTIONS = FeedOptions(12, labels="parent", seed=3)


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        yield lake


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    threads = Threads()
    yield
    assert threads.left() == []


def samples(batches: Any) -> list[bytes]:
    return [
        row[:length].tobytes()
        for batch in batches
        for row, length in zip(np.asarray(batch["data"]), batch["lengths"].tolist(), strict=True)
    ]


def test_every_file_arrives_once_and_each_device_holds_its_part(lake: Lake) -> None:
    assert jax.local_device_count() == 4
    with Loader(lake, "train", OPTIONS) as loader:
        assert len(loader) == 7
        assert loader.class_names == ("class0", "class1", "class2")
        batches = list(loader)
    assert Counter(samples(batches)) == Counter(FILES.values())
    for batch in batches:
        assert batch["data"].sharding.num_devices == 4
        parts = batch["data"].addressable_shards
        assert [part.data.shape[0] for part in parts] == [3, 3, 3, 3]
        assert len({part.device for part in parts}) == 4
        assert batch["data"].shape[1] in (64, 1024, 4096)
    labels = [f"class{label}" for batch in batches for label in batch["labels"].tolist()]
    assert Counter(labels) == Counter(path.split("/")[1] for path in FILES)


def test_a_jitted_step_sees_the_files_bytes(lake: Lake) -> None:
    @jax.jit
    def total(batch: dict[str, Any]) -> Any:
        return batch["data"].astype(jnp.int32).sum()

    with Loader(lake, "train", OPTIONS) as loader:
        seen = sum(int(total(batch)) for batch in loader)
    assert seen == sum(sum(data) for data in FILES.values())


def test_epochs_differ_and_a_state_goes_on(lake: Lake) -> None:
    with Loader(lake, "train", OPTIONS) as loader:
        epochs = [samples(loader) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert Counter(epochs[0]) == Counter(epochs[1])
    for stop in (1, 4, 7):
        with Loader(lake, "train", OPTIONS) as loader:
            assert (loader.state()["epoch"], loader.state()["position"]) == (0, 0)
            begun = [batch for _, batch in zip(range(stop), loader, strict=False)]
            state = json.dumps(loader.state())
        with Loader(lake, "train", OPTIONS) as loader:
            loader.restore(json.loads(state))
            assert loader.state() == json.loads(state)
            rest = samples(loader)
            assert samples(begun) + rest == epochs[0] + (epochs[1] if stop == 7 else [])
            if stop < 7:
                assert samples(loader) == epochs[1]


def test_the_flat_buffer_is_the_feeds_memory(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        batch = next(feed)
        tree = lakefeed.jax.flat(batch)
        assert tree["data"].unsafe_buffer_pointer() == batch.data.ctypes.data
        content = b"".join(batch.bytes())
        assert batch.labels is not None
        lengths, labels = list(batch.lengths), batch.labels.tolist()
        del batch
        for _ in feed:
            pass
    assert np.asarray(tree["data"]).tobytes() == content
    assert tree["lengths"].tolist() == lengths
    assert tree["labels"].tolist() == labels
    with Loader(lake, "train", OPTIONS, LoaderOptions(transform=None)) as loader:
        flat = b"".join(np.asarray(batch["data"]).tobytes() for batch in loader)
    assert len(flat) == sum(map(len, FILES.values()))


def test_a_transform_and_a_sharding_of_ones_own(lake: Lake) -> None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[2])

    def sums(batch: Any) -> Any:
        return np.array([sum(view) for view in batch.views()]), {"n": np.asarray(batch.lengths)}

    options = LoaderOptions(transform=sums, sharding=device, prefetch=1)
    with Loader(lake, "train", FeedOptions(10), options) as loader:
        pairs = [
            (total, length)
            for totals, more in loader
            for total, length in zip(totals.tolist(), more["n"].tolist(), strict=True)
        ]
    assert Counter(pairs) == Counter((sum(data), len(data)) for data in FILES.values())


def test_a_batch_that_the_devices_cannot_share_is_refused(lake: Lake) -> None:
    with (
        Loader(lake, "train", FeedOptions(10)) as loader,
        pytest.raises(Invalid, match="10 samples"),
    ):
        next(iter(loader))
    with pytest.raises(Invalid, match="sharding"):
        LoaderOptions(transform=None, sharding=lakefeed.jax.over_all_devices())
    with pytest.raises(Invalid, match="prefetch"):
        LoaderOptions(prefetch=0)
    with pytest.raises(Invalid, match="epochs"):
        Loader(lake, "train", FeedOptions(12, epochs=2))


def test_a_transform_that_says_to_have_one_shape_is_taken_at_its_word(lake: Lake) -> None:
    def filled(batch: Any) -> Any:
        lengths = np.zeros(16, np.int32)
        lengths[: len(batch)] = batch.lengths
        return {"lengths": lengths}

    options = FeedOptions(16, seed=3)  # 84 files: four samples in the last batch
    with Loader(lake.snapshot(), "", options, LoaderOptions(filled, fixed_shape=True)) as loader:
        lengths = [np.asarray(batch["lengths"]) for batch in loader]
    assert np.count_nonzero(lengths) == sum(map(bool, FILES.values()))

    def as_long(batch: Any) -> Any:
        return batch.lengths

    with (
        Loader(lake.snapshot(), "", options, LoaderOptions(as_long, fixed_shape=True)) as loader,
        pytest.raises(Invalid, match=r"fixed_shape, \(16,\) in .*, found \(4,\) in"),
    ):
        list(loader)
    for transform in (None, lakefeed.jax.rows):
        with pytest.raises(Invalid, match="fixed_shape"):
            LoaderOptions(transform, fixed_shape=True)


def test_a_fixed_shape_is_that_of_any_tree_that_jax_knows(lake: Lake) -> None:
    def filled(batch: Any) -> Any:
        return Pair(np.zeros(16), np.zeros(16))

    options = FeedOptions(16)
    with Loader(lake.snapshot(), "", options, LoaderOptions(filled, fixed_shape=True)) as loader:
        assert len(list(loader)) == 6

    def scalar_first(batch: Any) -> Any:
        return np.zeros(16) if batch.low else np.float32(1)

    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wrong = LoaderOptions(scalar_first, alone, fixed_shape=True)
    with (
        Loader(lake.snapshot(), "", options, wrong) as loader,
        pytest.raises(Invalid, match=r"fixed_shape, \(\) in .*, found \(16,\) in"),
    ):
        list(loader)


@jax.tree_util.register_pytree_node_class
class Pair:
    """A tree that is equal to no other one."""

    def __init__(self, one: Any, other: Any) -> None:
        self.parts = one, other

    def tree_flatten(self) -> tuple[tuple[Any, Any], None]:
        return self.parts, None

    @classmethod
    def tree_unflatten(cls, _: None, parts: tuple[Any, Any]) -> Pair:
        return cls(*parts)


def test_rows_of_a_fixed_width(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", FeedOptions(84)) as feed:
        batch = next(feed)
        assert lakefeed.jax.rows(batch, 5000)["data"].shape == (84, 5000)
        with pytest.raises(Invalid, match="at most 10 bytes"):
            lakefeed.jax.rows(batch, 10)


def test_a_damaged_file_comes_out_of_the_loop(tmp_path: Path) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for at in range(48):
            writer.put(f"train/a/{at:02d}.bin", f"payload number {at:02d}.".encode())
    (pack,) = (tmp_path / "packs").rglob("*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"number 33.", b"NUMBER 33."))
    with (
        Loader(tmp_path, "train", FeedOptions(4, None)) as loader,
        pytest.raises(Corrupt, match=r"train/a/33\.bin"),
    ):
        for _ in loader:
            pass


def test_leaving_the_loop_and_iterating_again(lake: Lake) -> None:
    with Loader(lake, "train", OPTIONS) as loader:
        first = iter(loader)
        next(first)
        second = samples(loader)
        assert list(first) == []
        assert Counter(second) == Counter(FILES.values())


def test_a_loop_that_is_left_ends_with_the_loader(lake: Lake) -> None:
    threads = Threads()
    with Loader(lake, "train", OPTIONS) as loader:
        batches = iter(loader)
        next(batches)
    assert threads.left() == []
    assert list(batches) == []


def test_a_state_of_another_order_is_refused_at_once(lake: Lake) -> None:
    with Loader(lake, "train", OPTIONS) as loader:
        state = loader.state()
    with (
        Loader(lake, "train", FeedOptions(12, labels="parent", seed=4)) as loader,
        pytest.raises(Invalid, match="seed"),
    ):
        loader.restore(state)


def test_an_iteration_that_is_asked_for_nothing_takes_no_restored_epoch(lake: Lake) -> None:
    with Loader(lake, "train", OPTIONS) as loader:
        whole = samples(loader)
        first = len(samples([next(iter(loader))]))
        state = loader.state()
        iter(loader)
        assert loader.state() == state
        loader.restore(state)
        iter(loader)
        assert len(samples(loader)) == len(whole) - first


LEAVING = """
import sys
import lakefeed.jax
from lakefeed import FeedOptions
loader = lakefeed.jax.Loader(sys.argv[1], "train", FeedOptions(8))
batches = iter(loader)
next(batches)
"""


def test_a_program_that_ends_amid_an_epoch_ends_without_a_word(tmp_path: Path) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for at in range(64):
            writer.put(f"train/{at:02d}.bin", bytes(at))
    leaving = [sys.executable, "-c", LEAVING, str(tmp_path)]
    done = subprocess.run(
        leaving, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0
    assert "ignored" not in done.stderr


PROCESS = """
import json, sys
import jax
rank, address, lake = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(address, 2, rank)
import numpy as np
import lakefeed.jax
from lakefeed import FeedOptions
from functools import partial
from lakefeed.errors import Invalid
from lakefeed.jax import LoaderOptions, rows
wide = LoaderOptions(transform=partial(rows, width=64))
def refused(options, **more):
    try:
        with lakefeed.jax.Loader(lake, "train", FeedOptions(8, **more), options) as loader:
            next(iter(loader))
    except Invalid as error:
        return error.subject
here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
answers = [refused(LoaderOptions()), refused(LoaderOptions(sharding=here)), refused(wide),
           refused(wide, on_corrupt="skip"), refused(wide, on_corrupt="skip", last="pad")]
with lakefeed.jax.Loader(lake, ["train/00.bin"] * 65, FeedOptions(8), wide) as loader:
    try:
        next(iter(loader))
    except Invalid as error:
        answers.append(error.subject)
def filled(batch):
    lengths = np.zeros(10, np.int32)
    lengths[:len(batch)] = batch.lengths
    return lengths
files = [f"train/{at:02d}.bin" for at in range(64)] + ["train/63.bin"]
alike = LoaderOptions(filled, fixed_shape=True)
with lakefeed.jax.Loader(lake, files, FeedOptions(10), alike) as loader:
    sums = [int(jax.jit(lambda part: part.sum())(batch)) for batch in loader]
with lakefeed.jax.Loader(lake, "train", FeedOptions(8, last="drop"), wide) as loader:
    mine, shapes = [], []
    for batch in loader:
        shapes.append(batch["lengths"].shape)
        mine += [int(part.data[at]) for part in batch["lengths"].addressable_shards
                 for at in range(len(part.data))]
print(json.dumps({"mine": mine, "shapes": shapes, "refused": answers,
                  "sums": sums}))
"""


def test_two_processes_are_two_ranks_of_one_global_batch(tmp_path: Path) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for at in range(64):
            writer.put(f"train/{at:02d}.bin", bytes(at))
    with kept_port() as port:
        answers = of_two_processes(f"127.0.0.1:{port}", tmp_path)
    assert [answer["shapes"] for answer in answers] == [[[16]] * 4] * 2
    assert sorted(answers[0]["mine"] + answers[1]["mine"]) == list(range(64))
    assert answers[0]["refused"] == answers[1]["refused"]
    assert len(answers[0]["sums"]) == 4
    assert sum(answers[0]["sums"]) == sum(answers[1]["sums"]) == sum(range(64)) + 63
    assert answers[0]["refused"] == ["transform", None, None, "last", None, "last"]


def of_two_processes(address: str, lake: Path) -> list[dict[str, Any]]:
    """Return what each of two processes says that meet at an address."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), address, str(lake)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    answers = []
    for process in ranks:
        answers.append(
            json.loads(process.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()[-1])
        )
        assert process.returncode == 0
    return answers
