"""Between numpy and Arrow, by their buffers.

Arrow's own converters first look whether the caller means pandas, and import it (0.3 s) wherever it
is installed; some fail where it is not. Opening a lake and reading a file must not cost that, so
the few conversions on that way are made here: they copy nothing and know only what a lake's columns
are made of. A program that has no use for pandas says so with `spare_pandas`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

_DTYPES: dict[pa.DataType, np.dtype] = {
    pa.bool_(): np.dtype(np.bool_),
    pa.int8(): np.dtype(np.int8),
    pa.int32(): np.dtype(np.int32),
    pa.int64(): np.dtype(np.int64),
    pa.uint32(): np.dtype(np.uint32),
    pa.uint64(): np.dtype(np.uint64),
}


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column of integers or truth values as numpy sees it; null slots hold anything."""
    if isinstance(column, pa.ChunkedArray):
        chunks = [to_numpy(chunk) for chunk in column.chunks]
        if len(chunks) == 1:
            return chunks[0]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype(column.type))
    start, stop = column.offset, column.offset + len(column)
    data = column.buffers()[1]
    if data is None:
        return np.zeros(len(column), dtype(column.type))
    if column.type == pa.bool_():
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[start:stop].view(np.bool_)
    return np.frombuffer(data, dtype(column.type))[start:stop]


def dtype(kind: pa.DataType) -> np.dtype:
    """Return how numpy names a column's type; Arrow's own answer needs pandas before Arrow 26."""
    return _DTYPES[kind]


def valid(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return which slots of a column are not null."""
    return to_numpy(column.is_valid())


def numbers(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Return a numpy array of integers as Arrow sees it, null where `missing` says so."""
    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype)
    present = None
    if missing is not None:
        present = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [present, pa.py_buffer(values)])


def truths(values: np.ndarray) -> pa.Array:
    """Return a numpy array of truth values as Arrow sees it."""
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])


def strings(values: Sequence[str]) -> pa.Array:
    """Return strings as Arrow sees them."""
    text = "".join(values)
    if text.isascii():
        data = text.encode()
        lengths = np.fromiter(map(len, values), np.int64, len(values))
    else:
        encoded = [value.encode() for value in values]
        data = b"".join(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] >= 1 << 31:
        half = len(values) // 2
        return pa.concat_arrays([strings(values[:half]), strings(values[half:])])
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def scalar(value: str | np.generic) -> pa.Scalar:
    """Return one value as Arrow sees it; a Python number says too little of its type."""
    return (strings([value]) if isinstance(value, str) else numbers(np.array([value])))[0]


def letters(words: pa.Array, width: int) -> np.ndarray | None:
    """Return the bytes of strings that have `width` of them each; None if one has not."""
    _, offsets, data = words.buffers()
    if not len(words):
        return np.empty(0, np.uint8)
    ends = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
    if (np.diff(ends) != width).any():
        return None
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]


def repeated(value: str | np.generic, count: int) -> pa.Array:
    """Return an array of one value repeated; a string becomes a dictionary of one."""
    if isinstance(value, str):
        return pa.DictionaryArray.from_arrays(numbers(np.zeros(count, np.int32)), strings([value]))
    return numbers(np.full(count, value))


def spare_pandas() -> None:
    """Let pyarrow of this process do without pandas.

    pyarrow looks for pandas once, when it converts its first Python list, and loads it where it is
    installed: 0.2 s and 40 MB. Others may still import pandas afterwards.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas:
    """An import finder in whose presence there is no pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)
