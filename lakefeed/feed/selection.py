"""Which samples a feed serves: a prefix, a glob or a list of paths, resolved in one snapshot.

A selection is the table that the order's numbers point into: paths and extents as flat arrays, some
50 bytes a sample beside its path. Samples found by prefix or glob are sorted by path, so equal
snapshots give equal numbers; a list keeps its own order. Only files are samples: directories and
symlinks are passed over by prefix and glob, and refused in a list.

Labels come from the last directory of a path ("parent") or from an attribute ("attrs.KEY"). Classes
are numbered in the order of their sorted names, or as the caller's `class_names` say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefeed.errors import Invalid, NotFound
from lakefeed.format import bridge
from lakefeed.format.checksum import crc32c
from lakefeed.format.paths import check_path
from lakefeed.format.rows import Kind
from lakefeed.lake.query import Query
from lakefeed.lake.reader import Extents, extents_of
from lakefeed.lake.snapshot import Snapshot

Select = str | Sequence[str]
Labels = NDArray[np.int32]

_WILDCARDS = frozenset("*?[")
_FILES = frozenset({Kind.FILE})
_ATTRIBUTE = "attrs."


@dataclass(frozen=True, slots=True)
class Labelling:
    """Where labels come from; `class_names` fixes the numbers, so that two selections agree."""

    source: str | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        known = self.source in (None, "parent") or _attribute(self.source)
        if not known:
            raise Invalid("labels", expected='"parent", "attrs.KEY" or None', found=self.source)
        if self.class_names is not None and len(set(self.class_names)) < len(self.class_names):
            raise Invalid("class_names", expected="each name once", found=self.class_names)


@dataclass(frozen=True, slots=True)
class Samples:
    """Some samples of a selection, in the order asked."""

    paths: pa.Array
    extents: Extents
    seq: NDArray[np.uint64]
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, at: int) -> str:
        """Return a sample's path."""
        return str(self.paths[at].as_py())

    def rows(self, numbers: Sequence[int]) -> pa.Table:
        """Return some of the samples as rows, for `Snapshot.read_rows`."""
        at = np.asarray(numbers, np.int64)
        part = take_extents(self.extents, at)
        packs = pa.array(part.packs, pa.string())
        pack = pa.DictionaryArray.from_arrays(pa.array(part.pack, pa.int32()), packs)
        columns = {name: pa.array(getattr(part, name)) for name in _EXTENT_ARRAYS}
        path = self.paths.take(bridge.numbers(at))
        return pa.table({"path": path, "pack": pack, **columns, "seq": pa.array(self.seq[at])})


@dataclass(frozen=True, slots=True)
class Selection:
    """All samples of a feed, by number; `digest` tells selections of other bytes apart."""

    everything: Samples
    class_names: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.everything)

    def take(self, numbers: NDArray[np.int64]) -> Samples:
        """Return the samples of these numbers."""
        whole = self.everything
        return Samples(
            whole.paths.take(bridge.numbers(numbers)),
            take_extents(whole.extents, numbers),
            whole.seq[numbers],
            None if whole.labels is None else whole.labels[numbers],
        )


def resolve(snapshot: Snapshot, select: Select, labelling: Labelling) -> Selection:
    """Return the samples that a prefix, a glob or a list of paths names in a snapshot.

    NotFound when nothing matches or a listed path is missing; Corrupt for an index that points
    outside of its packs; Invalid for a path without a label.
    """
    tables = [_slim(table, labelling) for table in _tables(snapshot, select)]
    if not tables:
        raise NotFound(
            f"files matching {select!r} in snapshot {snapshot.number}",
            hint='"lakefeed find" shows what a prefix or a glob matches',
        )
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    paths = table["path"].combine_chunks()
    extents = extents_of(table)
    labels, names = _labels(table, paths, labelling)
    samples = Samples(paths, extents, bridge.to_numpy(table["seq"]), labels)
    snapshot.check_extents(extents, samples.name)
    return Selection(samples, names, _digest(samples))


def _tables(snapshot: Snapshot, select: Select) -> Iterator[pa.Table]:
    if isinstance(select, str):
        is_glob = bool(_WILDCARDS & set(select))
        query = Query(glob=select, kinds=_FILES) if is_glob else Query(select, kinds=_FILES)
        yield from snapshot.find(query)
    elif len(select):
        paths = [check_path(path) for path in select]
        table = snapshot.locate(paths)
        kinds = pc.fill_null(table["kind"], -1)
        bad = np.flatnonzero(bridge.to_numpy(kinds) != Kind.FILE)
        if len(bad):
            snapshot.stat(paths[int(bad[0])])  # NotFound comes from here
            raise Invalid(f"{paths[int(bad[0])]!r}", expected="a file", found="no file")
        yield table


def _slim(table: pa.Table, labelling: Labelling) -> pa.Table:
    """Keep what samples need: a large path column, extents, and the label as a word."""
    kept = table.select(["pack", *_EXTENT_ARRAYS, "seq"])
    kept = kept.append_column("path", table["path"].cast(pa.large_string()))
    if labelling.source is None:
        return kept
    key = _attribute(labelling.source)
    words = _parents(table["path"]) if key is None else _attributes(table["attrs"], key)
    return kept.append_column("word", words.combine_chunks().dictionary_encode())


def _parents(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.struct_field(pc.extract_regex(paths, r"(?:^|/)(?P<parent>[^/]*)/[^/]*$"), "parent")


def _attributes(attrs: pa.ChunkedArray, key: str) -> pa.ChunkedArray:
    return pc.map_lookup(attrs, pa.scalar(key), "first")


def _labels(
    table: pa.Table, paths: pa.Array, labelling: Labelling
) -> tuple[Labels | None, tuple[str, ...]]:
    if labelling.source is None:
        return None, labelling.class_names or ()
    words = table["word"].combine_chunks()
    if words.null_count:
        at = int(np.flatnonzero(~bridge.valid(words))[0])
        raise Invalid(f"{paths[at].as_py()!r}", expected=f"a label from {labelling.source}")
    present = words.dictionary.to_pylist()
    names = labelling.class_names or tuple(sorted(present))
    number = {name: at for at, name in enumerate(names)}
    unknown = [word for word in present if word not in number]
    if unknown:
        raise Invalid(f"class {unknown[0]!r}", expected=f"one of {', '.join(names)}")
    codes = np.array([number[word] for word in present], np.int32)
    return codes[bridge.to_numpy(words.indices)], names


def _attribute(source: str | None) -> str | None:
    """Return KEY of "attrs.KEY", or None for another source of labels."""
    key = (source or "").removeprefix(_ATTRIBUTE)
    return key if key and key != source else None


_EXTENT_ARRAYS = ("offset", "length", "size", "codec", "crc32c")


def take_extents(extents: Extents, at: NDArray[np.int64]) -> Extents:
    """Return some of the extents, in the order asked."""
    names = ("pack", *_EXTENT_ARRAYS)
    return replace(extents, **{name: getattr(extents, name)[at] for name in names})


def _digest(samples: Samples) -> str:
    """Return a checksum of the paths and of their bytes' checksums, in the order of numbers."""
    _, offsets, text = samples.paths.buffers()
    bounds = np.frombuffer(offsets, np.int64)[: len(samples) + 1]
    found = crc32c(bounds.tobytes())
    found = crc32c(b"" if text is None else memoryview(text), found)
    found = crc32c(samples.extents.crc32c.tobytes(), found)
    return f"{found:08x}"
