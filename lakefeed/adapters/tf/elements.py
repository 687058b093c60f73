"""What one element of the dataset looks like: a batch as strings, or as one buffer and row splits.

"bytes": a string tensor with each file's bytes, ready for `tf.io.decode_jpeg`. Each payload is
copied twice, into a Python bytes object and into a string of TensorFlow's own.

"buffer": `{"data": uint8 [bytes], "row_splits": int64 [samples + 1]}`, and nothing is copied:
TensorFlow takes over the feed's buffer, which starts on a 64-byte boundary, and lets it go with the
last tensor that refers to it. Sample i is `data[row_splits[i]:row_splits[i + 1]]`.

`ragged` and `strings` turn a buffer into a RaggedTensor (free) or strings (copies, without the
interpreter's lock) inside the graph.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.feed.batch import Batch

BYTES, BUFFER = "bytes", "buffer"


def check_elements(elements: str) -> None:
    """Raise Invalid for a kind of elements that is unknown."""
    if elements not in (BYTES, BUFFER):
        raise Invalid("elements", expected='"bytes" or "buffer"', found=repr(elements))


def signature(elements: str, labelled: bool) -> Any:
    """Return the specs of one element."""
    if elements == BYTES:
        data = tf.TensorSpec([None], tf.string)
    else:
        data = {
            "data": tf.TensorSpec([None], tf.uint8),
            "row_splits": tf.TensorSpec([None], tf.int64),
        }
    return (data, tf.TensorSpec([None], tf.int32)) if labelled else data


def element(batch: Batch, elements: str) -> Any:
    """Return a batch as `signature` says."""
    data = batch.bytes() if elements == BYTES else _buffer(batch)
    return data if batch.labels is None else (data, batch.labels)


def _buffer(batch: Batch) -> dict[str, NDArray[Any]]:
    return {"data": batch.data, "row_splits": batch.splits}


def ragged(buffer: Any) -> Any:
    """Return a buffer element as a RaggedTensor of uint8, one row a sample. Copies nothing."""
    return tf.RaggedTensor.from_row_splits(buffer["data"], buffer["row_splits"], validate=False)


def strings(buffer: Any) -> Any:
    """Return a buffer element as strings, made by TensorFlow's own threads inside a graph.

    No operation casts uint8 to string. A serialized tensor is a string that ends in its bytes,
    though, so each sample is serialized and its head cut off.
    """
    data, splits = buffer["data"], buffer["row_splits"]

    def one(span: Any) -> Any:
        start, end = span
        framed = tf.io.serialize_tensor(data[start:end])
        # An empty tensor is serialized without a place for content, so it has no tail to keep.
        head = tf.strings.length(framed) - tf.cast(end - start, tf.int32)
        return tf.strings.substr(framed, head, tf.cast(end - start, tf.int32))

    return tf.map_fn(one, (splits[:-1], splits[1:]), fn_output_signature=tf.string)
