"""Are the packs and segments of a state the files that their commits recorded?

For each: it exists, has its size and magic, its footer is sealed, every row group has its checksum,
the rows are sorted, and each row can be true: extents lie among the payloads of their pack, big
payloads are aligned, raw ones are as long as their files, `seq` is one that the file may hold.
Re-verifies I2 and I7. Returns which files are damaged; the meaning of rows across files is left to
`check_view`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format.columns import MAGIC, ColumnsReader
from lakefeed.format.commit import PackInfo, SegmentInfo, State
from lakefeed.format.pack import ALIGNED_FROM_BYTES, ALIGNMENT_BYTES
from lakefeed.format.paths import COMPONENT_BYTES_MAX, PATH_BYTES_MAX
from lakefeed.format.payload import COMPRESS_BYTES_MAX
from lakefeed.format.rows import Codec, Kind
from lakefeed.lake import layout
from lakefeed.lake.catalogue import Catalogue, Source, pack_source, segment_source
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import Collector, Progress

_STEP_GROUPS = 16
_BAD_PATH = rf"(^|/)(\.|\.\.)?(/|$)|\x00|[^/]{{{COMPONENT_BYTES_MAX + 1},}}"
_HINT = "restore the file, or delete what it names"
_SEGMENT_HINT = '"lakefeed repair" rebuilds it from the packs'


class FileCheck:
    """Checks the index files of one state; `damaged` collects the ids of bad ones."""

    def __init__(self, files: OpenFiles, catalogue: Catalogue, state: State) -> None:
        self._files = files
        self._catalogue = catalogue
        self._state = state
        self.damaged: set[str] = set()

    def run(self, found: Collector, progress: Progress) -> None:
        """Check every pack and segment; what is wrong goes to `found`."""
        total = len(self._state.packs) + len(self._state.segments)
        for number, (id_, info) in enumerate(self._state.packs.items(), 1):
            before = found.total
            self._check_pack(info, found)
            self._note(id_, before, found)
            progress("files", number, total)
        for number, (id_, segment) in enumerate(self._state.segments.items(), 1):
            before = found.total
            self._check_segment(segment, found)
            self._note(id_, before, found)
            progress("files", len(self._state.packs) + number, total)
        found.count("packs", len(self._state.packs))
        found.count("segments", len(self._state.segments))

    def _note(self, id_: str, before: int, found: Collector) -> None:
        if found.total > before:
            self.damaged.add(id_)

    def _check_pack(self, info: PackInfo, found: Collector) -> None:
        source, pack = pack_source(info), info.sealed
        reader = self._open(source, found)
        if reader is None:
            return
        if reader.groups.offset[0] != pack.payload_end:
            found.add("file", source.path, f"payloads up to {pack.payload_end}",
                      f"up to {reader.groups.offset[0]}", _HINT)  # fmt: skip
        rows = _Rows(source, self._state, (0, info.seq))
        for table in self._tables(source, reader, found):
            rows.check(table, found)
        others = tuple(sorted(rows.packs - {pack.id}))
        if rows.whole(reader) and others != pack.refs:
            found.add("file", source.path, f"rows that refer to packs {pack.refs}", others, _HINT)
        rows.finish(reader, found)

    def _check_segment(self, info: SegmentInfo, found: Collector) -> None:
        source = segment_source(info)
        reader = self._open(source, found)
        if reader is None:
            return
        rows = _Rows(source, self._state, (info.seq_min, info.seq_max))
        for table in self._tables(source, reader, found):
            rows.check(table, found)
        rows.finish(reader, found)

    def _open(self, source: Source, found: Collector) -> ColumnsReader | None:
        """Return the opened file if its frame is sound."""
        hint = _hint(source)
        try:
            magic = self._files.read(source.path, lambda file: file.read_at(0, min(file.size, 4)))
            reader = self._catalogue.reader(source)
        except NotFound:
            found.add("missing", source.path, f"a file of {source.bytes} bytes", "none", hint)
            return None
        except (Corrupt, Invalid) as error:
            found.add_error("file", error, hint)
            return None
        if magic != MAGIC:
            found.add("file", source.path, f"{MAGIC!r} in front", repr(magic), _HINT)
        groups = reader.groups
        footer_bytes = source.bytes - groups.offset[-1] - groups.length[-1]
        recorded = (source.footer_bytes, source.rows, source.last)
        if (footer_bytes, reader.rows, groups.last) != recorded:
            found.add("file", source.path, f"footer bytes, rows and last path {recorded}",
                      (footer_bytes, reader.rows, groups.last), _HINT)  # fmt: skip
        return reader

    def _tables(
        self, source: Source, reader: ColumnsReader, found: Collector
    ) -> Iterator[pa.Table]:
        """Yield the rows that can be read, in order; a damaged group is a finding and left out."""
        for start in range(0, len(reader.groups), _STEP_GROUPS):
            end = min(start + _STEP_GROUPS, len(reader.groups))
            try:
                yield self._catalogue.rows(source, start, end)
                continue
            except (Corrupt, NotFound):
                pass  # which of the groups it is, the loop below finds
            for number in range(start, end):
                try:
                    yield self._catalogue.rows(source, number, number + 1)
                except (Corrupt, NotFound) as error:
                    found.add_error("rows", error, _hint(source))


class _Rows:
    """What the rows of one file say so far, and the checks of each table of them."""

    def __init__(self, source: Source, state: State, seqs: tuple[int, int]) -> None:
        self._source = source
        self._ends = {id_: info.sealed.payload_end for id_, info in state.packs.items()}
        self._seqs = seqs
        self._last: str | None = None
        self._rows = 0
        self._tombstones = 0
        self._first = ""
        self.packs: set[str] = set()

    def whole(self, reader: ColumnsReader) -> bool:
        """Tell whether every row could be read."""
        return self._rows == reader.rows

    def finish(self, reader: ColumnsReader, found: Collector) -> None:
        """Compare the totals with what the commit recorded."""
        recorded = (self._source.tombstones, self._source.first)
        if self.whole(reader) and (self._tombstones, self._first) != recorded:
            found.add("file", self._source.path, f"tombstones and first path {recorded}",
                      (self._tombstones, self._first), _HINT)  # fmt: skip

    def check(self, table: pa.Table, found: Collector) -> None:
        """Check one table, the next in path order."""
        if not len(table):
            return
        try:
            table.validate(full=True)
        except (pa.ArrowException, ValueError) as error:
            found.add("rows", self._source.path, "valid values", error, _HINT)
            return
        paths = table["path"].combine_chunks()
        first, last = paths[0].as_py(), paths[-1].as_py()
        if not self._rows:
            self._first = first
        rising = pc.all(pc.less(paths[:-1], paths[1:])).as_py() if len(paths) > 1 else True
        if not rising or (self._last is not None and first <= self._last):
            found.add("rows", self._source.path, "paths that rise", f"others near {first!r}", _HINT)
        self._last = last
        self._rows += len(table)
        found.count("rows", len(table))
        for expected, wrong in self._impossible(table, paths):
            at = np.flatnonzero(wrong)
            if len(at):
                subject = f"{self._source.path}, row of {paths[int(at[0])].as_py()!r}"
                found.add("rows", subject, expected, f"{len(at)} row(s) that differ", _HINT)

    def _impossible(self, table: pa.Table, paths: pa.Array) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what each row must be, and which ones are not."""
        kind = np.asarray(table["kind"])
        length = np.asarray(table["length"])
        size = np.asarray(table["size"])
        codec = np.asarray(table["codec"])
        seq = np.asarray(table["seq"])
        offset = np.asarray(table["offset"])
        self._tombstones += int((kind == Kind.TOMBSTONE).sum())
        end, known = self._payload_ends(table)
        held = (kind != Kind.TOMBSTONE) & (kind != Kind.DIR)
        outside = (length > end) | (offset > end - np.minimum(length, end)) | (offset < len(MAGIC))
        yield "an extent among the payloads of its pack", held & known & (length > 0) & outside
        big = held & (length >= ALIGNED_FROM_BYTES) & (offset % ALIGNMENT_BYTES != 0)
        yield f"a multiple of {ALIGNMENT_BYTES} as offset of a big payload", big
        yield "a raw payload as long as its file", (codec == Codec.NONE) & (length != size)
        yield (
            "a compressed file of bounded size",
            (codec != Codec.NONE) & (size > COMPRESS_BYTES_MAX),
        )
        yield f"a seq in {self._seqs}", (seq < self._seqs[0]) | (seq > self._seqs[1])
        yield "no bytes for a directory or tombstone", ~held & (size > 0)
        bytes_ = np.asarray(pc.binary_length(paths))
        bad = np.asarray(pc.match_substring_regex(paths, _BAD_PATH)) | (bytes_ > PATH_BYTES_MAX)
        yield "a path that a lake accepts", bad

    def _payload_ends(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return where the payloads of each row's pack end, and which packs the state has."""
        packs = table["pack"].unify_dictionaries().combine_chunks()
        codes = np.asarray(packs.indices)
        names = packs.dictionary.to_pylist()
        self.packs.update(names[code] for code in np.unique(codes).tolist())
        known = np.array([name in self._ends for name in names], bool)
        ends = np.array([self._ends.get(name, 0) for name in names], np.uint64)
        return ends[codes], known[codes]


def _hint(source: Source) -> str:
    """Return what to do about a file that is lost or damaged: all that segments say, packs say."""
    return _SEGMENT_HINT if source.path.startswith(f"{layout.INDEX}/") else _HINT
