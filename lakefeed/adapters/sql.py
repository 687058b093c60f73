"""SQL over the catalogue of one snapshot, answered by DuckDB.

    files      one row a path: path, kind, size, length, codec, crc32c, mtime, mtime_ns, mode,
               attrs, pack, offset, seq, and dir, name, ext cut from the path
    snapshots  the log up to the snapshot, newest first
    packs      the packs that the snapshot consists of

DuckDB pulls each table as a stream, anew for each time a query mentions it, so memory stays
bounded and rows are verified before DuckDB sees them (I7). No query can change the lake: DuckDB
gets views in a memory of its own, and may touch no file. Bytes of files are left to the readers.
It works on a thread of its own, so that an interrupt ends a query at once.

`where` selects a feed's samples by a condition on `files`:

    Feed("/mnt/lake", where("ext = 'jpg' and size > 20000"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from threading import Event
from typing import Any, TypeVar

import pyarrow as pa

from lakefeed.errors import Invalid, LakefeedError, NotFound
from lakefeed.feed.selection import Where
from lakefeed.format.commit import Commit
from lakefeed.format.rows import CODEC_NAMES, KIND_NAMES, MEMORY_SCHEMA
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot

duckdb: Any
try:
    import duckdb
except ImportError:  # an extra: said when a query is asked
    duckdb = None

# Rows handed over at a time; DuckDB itself works in vectors of 2,048.
BATCH_ROWS = 64 << 10
_LOG_BATCH = 1000
# What a person takes for at once.
_AGAIN_SECONDS = 0.05

_Result = TypeVar("_Result")
# A table's schema, and what opens its rows anew.
_Table = tuple[pa.Schema, Callable[[], Iterator[pa.RecordBatch]]]

_FILES = f"""
CREATE VIEW files AS SELECT
    path,
    {KIND_NAMES}[kind + 1] AS kind,
    size, length,
    {CODEC_NAMES}[codec + 1] AS codec,
    crc32c,
    make_timestamp_ns(mtime_ns) AS mtime,
    mtime_ns, mode, attrs, pack, "offset", seq,
    parse_dirpath(path, 'forward_slash') AS dir,
    parse_filename(path, false, 'forward_slash') AS name,
    lower(regexp_extract(path, '[^/]\\.([^./]+)$', 1)) AS ext
FROM rows_of_files
"""
_SNAPSHOTS = """
CREATE VIEW snapshots AS SELECT * REPLACE (make_timestamp_ns("time") AS "time")
FROM rows_of_snapshots
"""
_PACKS = "CREATE VIEW packs AS FROM rows_of_packs"
# The functions of a query that answer differently each time they are called, and those that may
# call them in SQL that is text.
_VOLATILE = """
SELECT DISTINCT function_name AS name FROM duckdb_functions()
WHERE (stability = 'VOLATILE' OR function_name IN ('query', 'json_execute_serialized_sql'))
AND list_contains(
    json_extract_string(json_serialize_sql('{}'), '$..function_name'), function_name)
ORDER BY name
"""

_SNAPSHOTS_SCHEMA = pa.schema(
    [
        ("number", pa.uint64()),
        ("time", pa.int64()),
        ("operation", pa.string()),
        ("author", pa.string()),
        ("message", pa.string()),
        ("app", pa.map_(pa.string(), pa.string())),
        ("added_packs", pa.uint64()),
        ("removed_packs", pa.uint64()),
        ("added_rows", pa.uint64()),
        ("added_bytes", pa.uint64()),
        ("id", pa.string()),
    ]
)
_PACKS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("bytes", pa.uint64()),
        ("payload_bytes", pa.uint64()),
        ("rows", pa.uint64()),
        ("tombstones", pa.uint64()),
        ("live_bytes", pa.uint64()),
        ("seq", pa.uint64()),
        ("indexed", pa.bool_()),
        ("first", pa.string()),
        ("last", pa.string()),
    ]
)


@dataclass(slots=True)
class _Stream:
    """A table that DuckDB may pull as often as it likes; `failure` is what stopped it. It pulls in
    vain while `given_up` is set."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    given_up: Event
    failure: list[LakefeedError] = field(default_factory=list)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self.schema, self._watched())
        return reader.__arrow_c_stream__(requested_schema)

    def _watched(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self.batches():
                if self.given_up.is_set():
                    raise InterruptedError("the query was interrupted")
                yield batch
        except LakefeedError as error:
            # Through the C interface only its text would arrive.
            self.failure.append(error)
            raise


def _refused(said: str) -> Invalid:
    hint = '"lakefeed sql --help" lists the tables and their columns'
    return Invalid("query", found=_without_mark(said), hint=hint)


def _without_mark(said: str) -> str:
    """Return what DuckDB said, in one line: without the query and the mark below it."""
    return " ".join(said.partition("\n\nLINE ")[0].split())


class Connection:
    """DuckDB over one snapshot. Made by `connect`."""

    def __init__(
        self, duck: Any, streams: list[_Stream], pool: ThreadPoolExecutor, given_up: Event
    ) -> None:
        self._duck = duck
        self._streams = streams
        self._pool = pool
        self._given_up = given_up

    def query(self, sql: str) -> pa.Table:
        """Return the whole result. Invalid for what DuckDB does not understand."""
        with self._translated():
            return self._apart(lambda: self._run(sql).read_all())

    def fulfilling(self, condition: str) -> pa.Array:
        """Return the paths of the files for which a condition holds: one expression, no more."""
        files = self._duck.view("files")

        def refused(said: str) -> Invalid:
            hint = f"the columns are {', '.join(files.columns)}"
            return Invalid(f"where({condition!r})", expected="one condition on a file's columns",
                           found=_without_mark(said), hint=hint)  # fmt: skip

        with self._translated(refused):
            found = self._apart(lambda: _fulfilling_one(files, condition))
        return found["path"]

    def stream(self, sql: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the columns of the result, and its rows as they come."""
        with self._translated():
            reader = self._apart(lambda: self._run(sql))
        return reader.schema, self._batches(reader)

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        batches = iter(reader)
        with self._translated():
            while (batch := self._apart(lambda: next(batches, None))) is not None:
                yield batch

    def _apart(self, action: Callable[[], _Result]) -> _Result:
        """Return what `action` does on the other thread; what reaches this one ends the query.

        Python hears Ctrl-C between two steps of its own, and a query is one step.
        """
        try:
            return self._pool.submit(action).result()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the query that is under way, if one is; even one whose start was interrupted."""
        last = self._pool.submit(int)
        while wait([last], _AGAIN_SECONDS).not_done:
            # Each time, because a query that begins just now forgets what came before; and DuckDB
            # 1.5 does not look while it pulls rows that it has no use for.
            self._given_up.set()
            self._duck.interrupt()
        self._given_up.clear()

    def _run(self, sql: str) -> pa.RecordBatchReader:
        relation = self._duck.sql(sql)
        if relation is None:
            raise Invalid("query", expected="one that has a result", found=sql.strip() or "nothing")
        return pa.RecordBatchReader.from_stream(relation)

    @contextmanager
    def _translated(self, refused: Callable[[str], Invalid] = _refused) -> Iterator[None]:
        for stream in self._streams:
            stream.failure.clear()
        try:
            yield
        except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
            for stream in self._streams:
                if stream.failure:
                    raise stream.failure[0] from error
            if isinstance(error, LakefeedError):
                raise
            raise refused(str(error)) from error


@contextmanager
def connect(lake: Lake, snapshot: Snapshot | None = None) -> Iterator[Connection]:
    """Lend DuckDB over a snapshot, the newest one by default; Invalid if it is not installed."""
    view = snapshot or lake.snapshot()
    tables: dict[str, _Table] = {
        "rows_of_files": (MEMORY_SCHEMA, lambda: _files(view)),
        "rows_of_snapshots": (_SNAPSHOTS_SCHEMA, lambda: _snapshots(lake, view)),
        "rows_of_packs": (_PACKS_SCHEMA, lambda: _packs(view)),
    }
    with _connected(tables, (_FILES, _SNAPSHOTS, _PACKS)) as connection:
        yield connection


@contextmanager
def _connected(tables: Mapping[str, _Table], views: tuple[str, ...]) -> Iterator[Connection]:
    if duckdb is None:
        raise Invalid("SQL", expected="DuckDB", hint='install it: pip install "lakefeed[sql]"')
    given_up = Event()
    streams = {name: _Stream(*table, given_up) for name, table in tables.items()}
    with duckdb.connect() as duck, ThreadPoolExecutor(1, "lakefeed-sql") as pool:
        for name, stream in streams.items():
            duck.register(name, stream)
        for view_sql in views:
            duck.execute(view_sql)
        duck.execute("SET enable_external_access = false")
        duck.execute("SET lock_configuration = true")
        pool.submit(int).result()  # the pool's thread is there: an interrupt cannot hide it
        connection = Connection(duck, list(streams.values()), pool, given_up)
        try:
            yield connection
        finally:
            connection.end()


def query(lake: Lake, sql: str, snapshot: Snapshot | None = None) -> pa.Table:
    """Return the result of one query over a snapshot, the newest one by default."""
    with connect(lake, snapshot) as connection:
        return connection.query(sql)


def where(condition: str) -> Where:
    """Return the files for which an SQL condition on the columns of `files` holds.

    For a feed to select, in whatever process opens it; DuckDB is asked when the feed is opened.
    Each rank asks for itself, and all must get one answer: Invalid for what depends on chance; what
    depends on the clock (`now()`) or takes a sample gives ranks different files.
    """
    given: object = condition  # whatever it was called with
    if not isinstance(given, str) or not given.strip():
        raise Invalid(f"where({given!r})", expected="a condition, for instance \"ext = 'jpg'\"",
                      hint='"" as the selection is every file')  # fmt: skip
    return Where(condition, _fulfilling)


def _fulfilling(snapshot: Snapshot, condition: str) -> pa.Array:
    sql = f"SELECT path FROM files WHERE {condition}"
    tables: dict[str, _Table] = {"rows_of_files": (MEMORY_SCHEMA, lambda: _files(snapshot))}
    with _connected(tables, (_FILES,)) as connection:
        volatile = connection.query(_VOLATILE.format(sql.replace("'", "''")))["name"].to_pylist()
        if volatile:
            raise Invalid(f"where({condition!r})", found=", ".join(volatile),
                          expected="the same files whenever it is asked",
                          hint="crc32c % 10 = 0 takes a tenth, as if by chance")  # fmt: skip
        return connection.fulfilling(condition)


def _fulfilling_one(files: Any, condition: str) -> pa.Table:
    found = files.filter("kind = 'file'").filter(condition).select("path")
    return pa.RecordBatchReader.from_stream(found).read_all()


def _files(snapshot: Snapshot) -> Iterator[pa.RecordBatch]:
    for table in snapshot.scan():
        # One dictionary of packs for the whole stream is not known beforehand.
        yield from table.unify_dictionaries().combine_chunks().to_batches(BATCH_ROWS)


def _packs(snapshot: Snapshot) -> Iterator[pa.RecordBatch]:
    rows = [
        {
            "id": info.sealed.id,
            "file": layout.pack_path(info.sealed.id),
            "bytes": info.sealed.bytes,
            "payload_bytes": info.sealed.payload_end,
            "rows": info.sealed.rows,
            "tombstones": info.sealed.tombstones,
            "live_bytes": info.live_bytes,
            "seq": info.seq,
            "indexed": info.indexed,
            "first": info.sealed.first,
            "last": info.sealed.last,
        }
        for info in snapshot.state.packs.values()
    ]
    yield pa.RecordBatch.from_pylist(rows, _PACKS_SCHEMA)


def _snapshots(lake: Lake, snapshot: Snapshot) -> Iterator[pa.RecordBatch]:
    commits = _history(lake, snapshot.number)
    while batch := [_commit_row(commit) for commit in islice(commits, _LOG_BATCH)]:
        yield pa.RecordBatch.from_pylist(batch, _SNAPSHOTS_SCHEMA)


def _history(lake: Lake, newest: int) -> Iterator[Commit]:
    try:
        yield from lake.history(newest)
    except NotFound:
        return  # garbage collection may have shortened the log: it begins where it begins


def _commit_row(commit: Commit) -> dict[str, Any]:
    changes = commit.changes
    return {
        "number": commit.number,
        "time": commit.time_ns,
        "operation": commit.operation,
        "author": commit.author,
        "message": commit.message,
        "app": list(commit.app.items()),
        "added_packs": len(changes.add_packs),
        "removed_packs": len(changes.remove_packs),
        "added_rows": sum(pack.rows for pack in changes.add_packs),
        "added_bytes": sum(pack.bytes for pack in changes.add_packs),
        "id": commit.id,
    }
