"""Questions in SQL get the answers that the snapshot itself gives, and change nothing."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from lakefeed import Corrupt, Feed, FeedOptions, Invalid, Lake, NotFound
from lakefeed.adapters import sql
from lakefeed.format.rows import rows_from_table
from lakefeed.lake.snapshot import Snapshot


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.create(tmp_path / "lake") as lake:
        with lake.writer(operation="import", message="first") as writer:
            for number in range(20):
                writer.put(f"train/{number % 2}/{number}.JPG", b"x" * number, mtime_ns=10**18 + 1)
            writer.put("top", b"top", mode=0o600, attrs={"label": "cat"})
            writer.symlink("link", "top")
            writer.mkdir("empty")
        with lake.writer() as writer:
            writer.delete("train/0/0.JPG")
            writer.put("top", b"newer", attrs={"label": "dog"})
        yield lake


def test_files_are_the_rows_of_the_snapshot(lake: Lake) -> None:
    asked = sql.query(lake, 'select path, size, length, crc32c, mode, seq, pack, "offset", mtime_ns'
                            " from files order by path")  # fmt: skip
    rows = [row for table in lake.snapshot().scan() for row in rows_from_table(table)]
    assert [tuple(row.values()) for row in asked.to_pylist()] == [
        (r.path, r.size, r.length, r.crc32c, r.mode, r.seq, r.pack, r.offset, r.mtime_ns)
        for r in rows
    ]


def test_words_times_and_parts_of_the_path_are_there(lake: Lake) -> None:
    def one(columns: str, path: str) -> tuple[object, ...]:
        table = sql.query(lake, f"select {columns} from files where path = '{path}'")
        return tuple(table.to_pylist()[0].values())

    assert one("kind, codec, dir, name, ext", "train/1/7.JPG") == (
        "file", "none", "train/1", "7.JPG", "jpg"
    )  # fmt: skip
    assert one("kind, dir, name, ext", "link") == ("symlink", "", "link", "")
    assert one("kind", "empty") == ("dir",)
    assert one("cast(mtime as varchar)", "train/1/7.JPG") == ("2001-09-09 01:46:40.000000001",)
    assert one("attrs['label']", "top") == ("dog",)


def test_a_snapshot_of_the_past_answers_for_itself(lake: Lake) -> None:
    count = "select count(*) n from files"
    assert sql.query(lake, count)["n"][0].as_py() == 22
    assert sql.query(lake, count, lake.snapshot(1))["n"][0].as_py() == 23
    assert sql.query(lake, "from snapshots", lake.snapshot(1)).num_rows == 1


def test_a_table_can_be_asked_more_than_once(lake: Lake) -> None:
    with sql.connect(lake) as connection:
        twice = "select count(*) n from files a join files b using (path)"
        assert connection.query(twice)["n"][0].as_py() == 22
        schema, batches = connection.stream("select path from files order by size desc limit 1")
        assert schema.names == ["path"]
        assert [batch["path"].to_pylist() for batch in batches] == [["train/1/19.JPG"]]


def test_the_log_and_the_packs_are_tables(lake: Lake) -> None:
    log = sql.query(lake, "select number, operation, message, added_rows from snapshots")
    assert log.to_pylist() == [
        {"number": 2, "operation": "write", "message": None, "added_rows": 2},
        {"number": 1, "operation": "import", "message": "first", "added_rows": 23},
    ]
    packs = sql.query(lake, "select file, bytes, seq from packs order by seq").to_pylist()
    assert [pack["seq"] for pack in packs] == [1, 2]
    for pack in packs:
        assert (Path(lake.name) / pack["file"]).stat().st_size == pack["bytes"]


def test_an_empty_lake_has_empty_tables(tmp_path: Path) -> None:
    with Lake.create(tmp_path / "none") as lake:
        for table in ("files", "snapshots", "packs"):
            assert sql.query(lake, f"from {table}").num_rows == 0


@pytest.mark.parametrize(
    "text",
    ["from nope", "select", "", "copy files to '{}/x.csv'",
     "from read_csv('/etc/passwd')", "attach '{}/x.db'", "set enable_external_access = true",
     "delete from files"],
)  # fmt: skip
def test_what_is_no_question_is_invalid(lake: Lake, tmp_path: Path, text: str) -> None:
    with pytest.raises(Invalid, match="query"):
        sql.query(lake, text.format(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_interrupt_ends_a_query_at_once(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    arrived, read = threading.Event(), sql._files
    pulled: list[int] = []

    def interrupt(*_: object) -> None:
        arrived.set()
        raise KeyboardInterrupt

    def endless(snapshot: Snapshot) -> Iterator[pa.RecordBatch]:
        batch = next(read(snapshot))
        for number in range(1_000_000):
            pulled.append(number)
            yield batch
            if not arrived.is_set():
                os.kill(os.getpid(), signal.SIGINT)
                assert arrived.wait(60), "nobody hears the signal"

    monkeypatch.setattr(sql, "_files", endless)
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with sql.connect(lake) as connection:
            with pytest.raises(KeyboardInterrupt):
                if streamed:
                    _, batches = connection.stream("select a.path from files a where size > 100")
                    list(batches)
                connection.query("select count(*) from files")
            assert connection.query("from packs").num_rows == 2  # the next one is heard
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(pulled) < 1_000_000
    assert not [t for t in threading.enumerate() if t.name.startswith("lakefeed-sql")]


def test_damage_is_reported_as_damage(lake: Lake) -> None:
    for pack in Path(lake.name).glob("packs/*/*.pack"):
        data = bytearray(pack.read_bytes())
        data[-2000] ^= 1
        pack.write_bytes(data)
    with Lake.open(lake.name) as damaged, sql.connect(damaged) as connection:
        with pytest.raises(Corrupt):
            connection.query("select count(*) from files")
        with pytest.raises(Invalid):  # what was wrong before is no answer to this
            connection.query("select nothing from packs")


def test_without_duckdb_the_error_says_how_to_get_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "duckdb", None)
    with pytest.raises(Invalid, match=r"lakefeed\[sql\]"):
        sql.query(lake, "from files")


def test_a_feed_selects_by_a_condition(lake: Lake) -> None:
    condition = "ext = 'jpg' and size between 5 and 8 -- the middle"
    where = pickle.loads(pickle.dumps(sql.where(condition)))  # as a spawned worker gets it
    with Feed(lake, where, FeedOptions(3, shuffle=None)) as feed:
        paths = [path for batch in feed for path in batch.paths]
    assert paths == [f"train/{number % 2}/{number}.JPG" for number in (6, 8, 5, 7)]
    with Feed(lake, sql.where("attrs['label'] = 'dog'"), FeedOptions(1)) as feed:
        assert next(feed).bytes() == [b"newer"]


@pytest.mark.parametrize(
    ("condition", "kind"), [("no_such_column > 1", Invalid), ("size > 1000", NotFound)]
)
def test_a_condition_that_selects_nothing_is_an_error(
    lake: Lake, condition: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind), Feed(lake, sql.where(condition)) as feed:
        next(feed)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("sise > 3", 'column "sise" not found'),
        ("size >", "syntax error"),
        ("size > 'abc'", "Could not convert string 'abc'"),
        ("-- size > 3", "without selection list"),
        ("size > 3 limit 1", "modifiers"),
        ("size > 3, true", "single expression"),
        ("size > 3) OR (path = 'link'", "syntax error"),
    ],
)
def test_what_is_no_condition_is_named_with_what_is_wrong_and_the_columns(
    lake: Lake, condition: str, found: str
) -> None:
    with pytest.raises(Invalid) as refused, Feed(lake, sql.where(condition)) as feed:
        next(feed)
    assert refused.value.subject == f"where({condition!r})"
    assert found in str(refused.value.found)
    assert "SELECT path" not in str(refused.value)
    assert "path, kind, size" in str(refused.value.hint)


@pytest.mark.parametrize("condition", ["", " \n", None, 3])
def test_a_condition_that_says_nothing_is_refused_where_it_is_made(condition: object) -> None:
    with pytest.raises(Invalid) as refused:
        sql.where(condition)  # type: ignore[arg-type]
    assert refused.value.subject == f"where({condition!r})"


@pytest.mark.parametrize(
    "condition",
    [
        "random() < 0.5",
        "name = 'it''s' or UUID() > path",
        "path in (from Query('select path from files where random() < 0.5'))",
        "path in (from json_execute_serialized_sql(json_serialize_sql("
        "'select path from files where random() < 0.5')))",
    ],
)
def test_a_condition_that_each_rank_answers_differently_is_refused(
    lake: Lake, condition: str
) -> None:
    with (
        pytest.raises(Invalid, match=r"found (json_execute|query|random|uuid)"),
        Feed(lake, sql.where(condition)) as feed,
    ):
        next(feed)
    with Feed(lake, sql.where("crc32c % 2 = 0 and name <> 'random()'")) as feed:
        assert next(feed).paths
