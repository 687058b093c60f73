"""diff and du equal what two dictionaries say, by either way of finding it."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.errors import Invalid, NotFound
from lakefeed.lake import difference
from lakefeed.lake.difference import diff
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.usage import pack_usage, usage_by_directory
from lakefeed.volume.memory import MemoryVolume
from tests.lake.test_views import PATHS, STEPS, after, replay
from tests.lake.tools import QUIET, all_rows, contents, new_lake, small_groups, write


def expected(old: dict[str, bytes], new: dict[str, bytes], prefix: str) -> list[tuple[str, str]]:
    changes = []
    for path in sorted({*old, *new}):
        if prefix and path != prefix and not path.startswith(f"{prefix}/"):
            continue
        if path not in new:
            changes.append((path, "removed"))
        elif path not in old:
            changes.append((path, "added"))
        elif old[path] != new[path]:
            changes.append((path, "modified"))
    return changes


def found(old: Snapshot, new: Snapshot, prefix: str) -> list[tuple[str, str]]:
    changes = list(diff(old, new, prefix))
    for change in changes:
        for row, snapshot in ((change.old_row, old), (change.new_row, new)):
            assert row is None or row == snapshot.stat(change.path)
    return [(change.path, change.kind) for change in changes]


@pytest.mark.slow
@settings(max_examples=30)
@given(steps=STEPS, more=STEPS, prefix=st.just("") | PATHS)
def test_diff_equals_the_difference_of_two_dictionaries(
    steps: list[object], more: list[object], prefix: str
) -> None:
    with small_groups(), new_lake() as lake:
        before = model = replay(lake, steps)
        old = lake.snapshot()
        for step in more:
            model = after(lake, model, step)
        new = lake.snapshot()
        for factor in (0, 10**9):  # always ask for candidates, always scan side by side
            with patch.object(difference, "_SCAN_FACTOR", factor):
                assert found(old, new, prefix) == expected(before, model, prefix)
                assert found(new, old, prefix) == expected(model, before, prefix)
        assert found(new, new, prefix) == []


@pytest.mark.parametrize("factor", [0, 10**9])
def test_the_same_bytes_with_another_time_or_mode_are_touched(factor: int) -> None:
    with new_lake() as lake, patch.object(difference, "_SCAN_FACTOR", factor):
        names = ("same", "time", "mode", "attrs", "bytes", "kind")
        with lake.writer(QUIET) as writer:
            for name in names:
                writer.put(name, b"1", mtime_ns=1, attrs={"label": "x"})
        with lake.writer(QUIET) as writer:
            writer.put("same", b"1", mtime_ns=1, attrs={"label": "x"})
            writer.put("time", b"1", mtime_ns=2, attrs={"label": "x"})
            writer.put("mode", b"1", mtime_ns=1, mode=0o600, attrs={"label": "x"})
            writer.put("attrs", b"1", mtime_ns=1, attrs={"label": "y"})
            writer.put("bytes", b"2", mtime_ns=1, attrs={"label": "x"})
            writer.symlink("kind", "1")
        changes = {change.path: change.kind for change in diff(lake.snapshot(1), lake.snapshot())}
        assert changes == {"time": "touched", "mode": "touched", "attrs": "touched",
                           "bytes": "modified", "kind": "modified"}  # fmt: skip


def test_snapshots_of_two_lakes_are_not_compared() -> None:
    with new_lake(MemoryVolume("one")) as one, new_lake(MemoryVolume("two")) as two:
        write(one, {"a": b""})
        with pytest.raises(Invalid):
            list(diff(one.snapshot(), two.snapshot()))


def test_few_changes_in_a_big_lake_ask_for_those_paths_only() -> None:
    with new_lake() as lake:
        write(lake, {f"{number:04d}": b"x" for number in range(1000)})
        lake.merge_index()
        old = lake.snapshot()
        write(lake, {"0500": b"y"}, delete=["0501"])
        new = lake.snapshot()
        with patch.object(Snapshot, "scan", side_effect=AssertionError("scanned")):
            assert [(change.path, change.kind) for change in diff(old, new)] == [
                ("0500", "modified"),
                ("0501", "removed"),
            ]


def summed(lake: Lake, directory: str) -> tuple[int, int]:
    files = contents(lake.snapshot(), directory)
    return len(files), sum(map(len, files.values()))


@pytest.mark.slow
@settings(max_examples=30)
@given(steps=STEPS, depth=st.integers(0, 3))
def test_usage_equals_the_sums_over_the_dictionary(steps: list[object], depth: int) -> None:
    with small_groups(), new_lake() as lake:
        model = replay(lake, steps)
        for prefix in ("", "a", "a/b"):
            if prefix and not lake.snapshot().exists(prefix):
                continue
            lines = usage_by_directory(lake.snapshot(), prefix, depth)
            inside = [p for p in model if not prefix or p.startswith(f"{prefix}/")]
            levels = (prefix.count("/") + 1 if prefix else 0) + depth
            wanted = {"/".join(p.split("/")[:n]) for p in inside for n in range(levels + 1)
                      if n < len(p.split("/"))}  # fmt: skip
            wanted = {p for p in wanted if not prefix or p.startswith(f"{prefix}/")} | {prefix}
            assert [line.path for line in lines] == sorted(wanted)
            for line in lines:
                assert (line.files, line.size_bytes) == summed(lake, line.path)
        (whole,) = usage_by_directory(lake.snapshot(), "", 0)
        assert whole.files == len(model)


def test_usage_counts_stored_directories_and_names_what_is_missing() -> None:
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            writer.mkdir("empty/inner")
            writer.put("file", bytes(100))
        lines = usage_by_directory(lake.snapshot())
        assert [(line.path, line.files) for line in lines] == [("", 1), ("empty", 0)]
        (file,) = usage_by_directory(lake.snapshot(), "file", 0)
        assert file.size_bytes == 100
        with pytest.raises(NotFound):
            usage_by_directory(lake.snapshot(), "nothing")


def test_usage_goes_down_as_deep_as_paths_do() -> None:
    deep = "/".join("d" * 1300)
    with new_lake() as lake:
        write(lake, {f"{deep}/file": bytes(3), "d/file": bytes(4)})
        for depth, lines in ((1000, 1001), (1001, 1002), (2000, 1301)):
            found = usage_by_directory(lake.snapshot(), "", depth)
            assert len(found) == lines
            assert (found[0].size_bytes, found[-1].size_bytes) == (7, 3)
        found = usage_by_directory(lake.snapshot(), deep[:-4], 1)
        assert [(line.path, line.files) for line in found] == [(deep[:-4], 1), (deep[:-2], 1)]


def test_pack_usage_is_exact() -> None:
    with new_lake() as lake:
        write(lake, {"a": bytes(10), "b": bytes(20), "c": bytes(30)})
        write(lake, {"b": bytes(5)}, delete=["c"])
        for _ in range(2):
            first, second = pack_usage(lake.snapshot())
            assert (first.live_bytes, first.payload_bytes, first.live_rows) == (10, 60, 1)
            assert (second.live_bytes, second.payload_bytes, second.live_rows) == (5, 5, 1)
            assert first.live_ratio == pytest.approx(1 / 6)
            lake.merge_index()
        live = {info.seq: info.live_bytes for info in lake.snapshot().state.packs.values()}
        assert live == {1: 10, 2: 5}
        assert len(all_rows(lake.snapshot())) == 2
