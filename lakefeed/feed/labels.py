"""Labels: the number of a sample's class, from its path or from an attribute.

They come from the last directory of a path ("parent") or from an attribute ("attrs.KEY"). Classes
are numbered in the order of their sorted names, or as the caller's `class_names` say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.format import bridge

Labels = NDArray[np.int32]
NO_LABEL = -1  # what an empty sample has that only fills a batch up

_ATTRIBUTE = "attrs."


@dataclass(frozen=True, slots=True)
class Labelling:
    """Where labels come from; `class_names` fixes the numbers, so that two selections agree."""

    source: str | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        source: object = self.source  # whatever it was called with
        is_text = isinstance(source, str)
        if source is not None and not (is_text and (source == "parent" or self.attribute)):
            raise Invalid("labels", expected='"parent", "attrs.KEY" or None', found=repr(source))
        names: object = self.class_names
        if names is None:
            return
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise Invalid("class_names", expected="a tuple of names", found=repr(names))
        if not all(isinstance(name, str) for name in names):
            raise Invalid("class_names", expected="names, as text", found=repr(names))
        if len(set(names)) < len(names):
            raise Invalid("class_names", expected="each name once", found=names)
        if names and self.source is None:
            raise Invalid("class_names", expected='labels="parent" or "attrs.KEY" beside them',
                          found="none")  # fmt: skip

    @property
    def attribute(self) -> str | None:
        """KEY of "attrs.KEY", or None for another source of labels."""
        key = (self.source or "").removeprefix(_ATTRIBUTE)
        return key if key and key != self.source else None

    @property
    def columns(self) -> list[str]:
        """The columns of the index that labels are made from."""
        if self.source is None:
            return []
        return ["path"] if self.attribute is None else ["path", "attrs"]

    def words(self, table: pa.Table) -> pa.DictionaryArray:
        """Return the class name of each row; Invalid for a row without one."""
        key = self.attribute
        words = _parents(table["path"]) if key is None else _attributes(table["attrs"], key)
        coded = words.combine_chunks().dictionary_encode()
        if coded.null_count:
            at = int(np.flatnonzero(~bridge.valid(coded))[0])
            path = table["path"][at].as_py()
            raise Invalid(f"{path!r}", expected=f"a label from {self.source}")
        return coded


def _parents(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    pattern = r"(?:^|/)(?P<parent>[^/]*)/[^/]*$"
    return pc.struct_field(pc.extract_regex(paths, pattern), "parent")


def _attributes(attrs: pa.ChunkedArray, key: str) -> pa.ChunkedArray:
    return pc.map_lookup(attrs, pa.scalar(key), "first")


class Classes:
    """Numbers for class names: fixed ones, or in the order of names once all are known."""

    def __init__(self, names: tuple[str, ...] | None) -> None:
        self._fixed = names
        self._number = {name: at for at, name in enumerate(names or ())}

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers."""
        return tuple(self._number)

    def number(self, words: pa.DictionaryArray) -> Labels:
        """Return each word's number; a new word gets the next one, unless the names are fixed."""
        present = words.dictionary.to_pylist()
        unknown = [word for word in present if word not in self._number]
        if unknown and self._fixed is not None:
            expected = f"one of {', '.join(self._fixed)}"
            raise Invalid(f"class {unknown[0]!r}", expected=expected)
        for word in unknown:
            self._number[word] = len(self._number)
        codes = np.array([self._number[word] for word in present], np.int32)
        labels: Labels = codes[bridge.to_numpy(words.indices)] if len(codes) else codes
        return labels

    def sort(self, labels: Labels) -> None:
        """Renumber the classes by name, in place; nothing to do when the names are fixed."""
        if self._fixed is not None or not self._number:
            return
        names = sorted(self._number)
        new = np.empty(len(names), np.int32)
        new[[self._number[name] for name in names]] = np.arange(len(names), dtype=np.int32)
        self._number = {name: at for at, name in enumerate(names)}
        labels[:] = new[labels]
