"""How much a snapshot holds: files and bytes by directory, and live bytes by pack.

Counted by one scan over index rows, as whole tables; no payload is read. A copy or a rename shares
the bytes of its origin, and both are counted where they appear: by directory this is what a reader
would get, by pack it may exceed the pack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.format.columns import MAGIC
from lakefeed.format.paths import check_prefix
from lakefeed.format.rows import Kind
from lakefeed.lake.segments import count_live
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.view import View

# RE2, which looks for directories, repeats nothing more often. Paths may be twice as deep.
REPEATED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies in and below `path`: files and symlinks, their bytes as read and as stored."""

    path: str
    files: int
    size_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class PackUsage:
    """How much of a pack a snapshot still reads; live rows are those of the snapshot."""

    id: str
    seq: int
    bytes: int
    payload_bytes: int
    live_bytes: int
    rows: int
    live_rows: int
    indexed: bool

    @property
    def live_ratio(self) -> float:
        """Live bytes of all payload bytes, at most 1; a pack without payloads is wholly live."""
        return min(1.0, self.live_bytes / self.payload_bytes) if self.payload_bytes else 1.0


def usage_by_directory(snapshot: View, prefix: str = "", depth: int = 1) -> list[Usage]:
    """Return the usage of `prefix` and of the directories up to `depth` levels below it, by path.

    NotFound when there is nothing of that name.
    """
    prefix = check_prefix(prefix)
    snapshot.stat(prefix)
    sums: dict[str, np.ndarray] = {prefix: np.zeros(3, np.int64)}
    for table in snapshot.scan(prefix):
        for directory, figures in _by_directory(table, prefix, depth):
            for above in _up_to(directory, prefix):
                sums[above] = sums.get(above, 0) + figures
    return [Usage(path, *map(int, sums[path].tolist())) for path in sorted(sums)]


def _by_directory(table: pa.Table, prefix: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (directory at most `depth` below the prefix, files and bytes of rows right there)."""
    kinds = np.asarray(table["kind"])
    # A stored directory counts for itself: it is listed even while nothing lies below it.
    inside = pc.if_else(pa.array(kinds == Kind.DIR), _plus_slash(table["path"]), table["path"])
    levels = depth + (prefix.count("/") + 1 if prefix else 0)
    repeated = f"{{0,{levels}}}" if levels <= REPEATED_MAX else "*"
    shape = rf"^((?:[^/]*/){repeated}).*$"
    directories = pc.replace_substring_regex(inside, f"(?s){shape}", r"\1")
    encoded = directories.combine_chunks().dictionary_encode()
    codes, count = np.asarray(encoded.indices), len(encoded.dictionary)
    held = (kinds != Kind.DIR).astype(np.int64)
    figures = np.zeros((count, 3), np.int64)
    for column, values in enumerate((held, table["size"], table["length"])):
        # One at a time in integers: floating sums would round above 2^53 bytes.
        np.add.at(figures[:, column], codes, np.asarray(values).astype(np.int64))
    for directory, line in zip(encoded.dictionary.to_pylist(), figures, strict=True):
        yield "/".join(directory.rstrip("/").split("/")[:levels]), line


def _plus_slash(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(paths, "/", "")


def _up_to(directory: str, prefix: str) -> Iterator[str]:
    """Yield a directory and those above it, down to the prefix itself."""
    while len(directory) > len(prefix):
        yield directory
        directory = directory.rpartition("/")[0]
    yield prefix


def pack_usage(snapshot: Snapshot) -> list[PackUsage]:
    """Return the packs of a snapshot, oldest first, with exactly what is live in each."""
    live: dict[str, int] = {}
    rows: dict[str, int] = {}
    for table in snapshot.scan():
        held = table.filter(pc.not_equal(table["kind"], int(Kind.DIR)))
        count_live(held, live)
        _count_rows(held["pack"].cast(pa.string()).value_counts().to_pylist(), rows)
    found = [
        PackUsage(
            id=id_,
            seq=info.seq,
            bytes=info.sealed.bytes,
            payload_bytes=info.sealed.payload_end - len(MAGIC),
            live_bytes=live.get(id_, 0),
            rows=info.sealed.rows,
            live_rows=rows.get(id_, 0),
            indexed=info.indexed,
        )
        for id_, info in snapshot.state.packs.items()
    ]
    return sorted(found, key=lambda pack: (pack.seq, pack.id))


def _count_rows(counts: Iterable[dict[str, object]], rows: dict[str, int]) -> None:
    for line in counts:
        name = str(line["values"])
        rows[name] = rows.get(name, 0) + int(str(line["counts"]))
