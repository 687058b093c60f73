"""TensorFlow reads what an export wrote for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from lakefeed import Lake
from lakefeed.transfer.archives import TfrecordTarget
from lakefeed.transfer.exporting import export
from lakefeed.transfer.importing import import_tree
from lakefeed.transfer.shards import Shards
from tests.transfer.trees import facts

pytestmark = [pytest.mark.tf, pytest.mark.slow]
SPEC = {name: tf.io.FixedLenFeature([], tf.string) for name in ("path", "data")}


def test_tensorflow_reads_every_record(lake: Lake, tree: Path, tmp_path: Path) -> None:
    import_tree(lake, tree)
    shards = Shards(str(tmp_path / "out.tfrecord"), shard_bytes=1_000_000)
    report = export(lake.snapshot(), TfrecordTarget(shards))
    assert len(report.outputs) > 1
    records = tf.data.TFRecordDataset(report.outputs).map(
        lambda raw: tf.io.parse_single_example(raw, SPEC)
    )
    rows = [(row["path"].decode(), row["data"]) for row in records.as_numpy_iterator()]
    expected = {name: data for name, (mode, *_, data) in facts(tree).items() if mode[0] == "-"}
    assert sorted(rows) == sorted(expected.items())
