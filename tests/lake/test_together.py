"""Pieces of an index are made several at a time, and come in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from lakefeed.errors import Corrupt
from lakefeed.lake import catalogue, lookup, scan, together
from lakefeed.lake.lake import Lake
from lakefeed.lake.together import in_order
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import QUIET, big_lakes, new_lake, small_groups, write
from tests.support.forks import in_child
from tests.support.meeting import Meeting

AT_ONCE = 3


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_processors", lambda: AT_ONCE)


def test_what_is_made_together_comes_in_order() -> None:
    meet = Meeting(AT_ONCE)

    def make(number: int) -> int:
        meet()
        return -number

    assert [*in_order(make, range(50))] == [-number for number in range(50)]
    assert meet.held


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_few_take_no_thread(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "ThreadPoolExecutor", None)
    assert [*in_order(abs, [-3] * count)] == [3] * count


def test_one_processor_makes_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_processors", lambda: 1)
    monkeypatch.setattr(together, "ThreadPoolExecutor", None)
    # Nothing waits here, so nothing is gained by threads.
    monkeypatch.setattr(time, "perf_counter", time.thread_time)  # others may have the processor
    assert [*in_order(lambda number: sum(range(10_000)) + number, range(9))][-1] == 49_995_008


def test_what_fails_is_told_in_its_place_and_ends_the_rest() -> None:
    asked = []

    def make(number: int) -> int:
        asked.append(number)
        if number == 5:
            raise Corrupt("a group", expected="rows", found="none")
        return number

    made = []
    with pytest.raises(Corrupt, match="a group"):
        made.extend(in_order(make, range(1000)))
    assert made == [0, 1, 2, 3, 4]
    assert max(asked) <= 5 + together.THREADS_MAX + 1


def test_who_takes_no_more_leaves_no_thread_behind() -> None:
    made = in_order(abs, range(1000))
    assert [next(made), next(made)] == [0, 1]
    assert isinstance(made, Iterator)
    made.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("lakefeed-index"):
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("started", [0, 1])
def test_where_no_thread_starts_the_caller_does_it(
    started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ThreadPoolExecutor.submit
    left = iter(range(started))

    def submit(self: ThreadPoolExecutor, *given: object) -> object:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        return plain(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    assert [*in_order(abs, range(9))] == [*range(9)]


def test_all_calls_of_a_process_share_so_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_free", deque([None] * 4, 4))
    one = in_order(abs, range(50))
    assert [next(one), next(one)] == [0, 1]
    assert len(together._free) <= 1
    monkeypatch.setattr(together, "ThreadPoolExecutor", None)
    assert [*in_order(abs, range(9))] == [*range(9)]
    # A forked child has none of these threads.
    monkeypatch.setattr(together, "THREADS_MAX", 4)
    assert in_child(lambda: [together._free.pop() for _ in range(4)] == [None] * 4)
    one.close()  # type: ignore[attr-defined]
    assert len(together._free) == 4


@pytest.mark.parametrize("first", [1, 8])
def test_fewer_big_ones_are_made_ahead(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_processors", lambda: 8)
    monkeypatch.setattr(together, "_AHEAD_BYTES", 16)
    begun = []

    def make(number: int) -> int:
        begun.append(number)
        return number

    for made in in_order(make, range(1000), lambda number: 8 if number else first):
        # Those that were begun before the first big one was seen come first.
        assert made <= 16 or max(begun) <= made + 3
    assert made == 999


FILES = {f"{number:03d}": b"%d" % number for number in range(120)}
MORE = {f"more/{path}": data for path, data in FILES.items()}


@pytest.mark.parametrize("big", [False, True])
def test_scattered_groups_are_read_at_the_same_time(
    big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, meet = MemoryVolume(), Meeting(AT_ONCE)
    monkeypatch.setattr(catalogue, "_STEP_GROUPS", 2)
    with small_groups(), new_lake(volume) as lake:
        write(lake, FILES)
    with Lake.open(volume) as lake:
        snapshot = lake.snapshot()
        for source in snapshot.sources:
            lake.catalogue.reader(source)
        plain = catalogue.Catalogue.rows

        def rows(self: catalogue.Catalogue, *where: object) -> object:
            meet()
            return plain(self, *where)  # type: ignore[arg-type]

        monkeypatch.setattr(catalogue.Catalogue, "rows", rows)
        if big:
            monkeypatch.setattr(lake.catalogue, "_cache_bytes", 0)
        wanted = [*FILES][::5]
        found = snapshot.locate(wanted)
    assert found["path"].to_pylist() == wanted
    assert found["size"].to_pylist() == [len(FILES[path]) for path in wanted]
    assert meet.held


def test_rows_with_much_said_of_them_are_probed_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, step_bytes, steps = "much" * 1000, 30_000, []
    monkeypatch.setattr(catalogue, "_STEP_GROUPS", 1)
    monkeypatch.setattr(lookup, "_STEP_BYTES", step_bytes)
    plain = lookup._Best.add

    def add(self: lookup._Best, tables: list[pa.Table], *given: Any) -> None:
        steps.append(sum(table["attrs"].nbytes for table in tables))
        plain(self, tables, *given)

    monkeypatch.setattr(lookup._Best, "add", add)
    with small_groups(), big_lakes(), new_lake() as lake:
        with lake.writer(QUIET) as writer:
            for path, data in FILES.items():
                writer.put(path, data, attrs={"note": said})
        found = lake.snapshot().locate([*FILES])
    assert found["attrs"].to_pylist() == [[("note", said)]] * len(FILES)
    assert sum(steps) > len(FILES) * len(said)
    assert max(steps) < step_bytes + 4 * len(said)  # one group more than fits


def test_a_scan_reads_on_while_its_rows_are_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, third = [], threading.Event()
    plain = catalogue.Catalogue.rows

    def rows(self: catalogue.Catalogue, *where: object) -> object:
        reads.append(where)
        if len(reads) == 3:
            third.set()
        return plain(self, *where)  # type: ignore[arg-type]

    monkeypatch.setattr(catalogue.Catalogue, "rows", rows)
    monkeypatch.setattr(scan, "_STEP_GROUPS", 2)
    with small_groups(), new_lake() as lake:
        write(lake, FILES)
        tables = lake.snapshot().scan()
        next(tables)
        assert len(reads) == 1  # whoever looks at the first rows only waits for no more
        found = next(tables)["path"].to_pylist()
        assert third.wait(60)
        found += [path for table in tables for path in table["path"].to_pylist()]
    assert found == [*FILES][6:]


@pytest.mark.parametrize("threads", [1, 8])
def test_a_forked_child_goes_on_with_a_scan_by_itself(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_STEP_GROUPS", 2)
    monkeypatch.setattr(scan, "_THREADS", threads)
    with small_groups(), new_lake() as lake:
        write(lake, FILES)
        write(lake, MORE)  # which the child begins with
        tables = lake.snapshot().scan()
        begun = [path for _ in range(3) for path in next(tables)["path"].to_pylist()]
        rest = [*FILES, *MORE][len(begun) :]

        def go_on() -> None:
            assert rest == [path for table in tables for path in table["path"].to_pylist()]

        assert in_child(go_on)
        go_on()
