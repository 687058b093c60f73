"""compact: says what it would do, does it, and names what is damaged."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.cli import compaction
from lakefeed.lake import layout
from tests.cli.conftest import Run

MANUAL = WriterOptions(flush_age_seconds=3600.0, merge_after=0)


def packs(where: Path) -> str:
    """Make a lake of three small packs."""
    with Lake.create(where) as lake, lake.writer(MANUAL) as writer:
        for number in range(3):
            writer.put(f"f{number}", os.urandom(1000))
            writer.flush()
    return str(where)


def test_the_plan_the_work_and_nothing_left_to_do(tmp_path: Path, run: Run) -> None:
    lake = packs(tmp_path / "lake")
    dry = run("compact", lake, "--dry-run")
    assert dry.code == 0
    assert dry.out.count("would rewrite") == 4
    assert run("show", lake, "--json").json["packs"] == 3
    facts = run("compact", lake, "--layout", "shuffled", "--seed", "7", "--rate", "1GB/s",
                "--json").json  # fmt: skip
    assert (len(facts["packs_removed"]), len(facts["packs_added"]), facts["left"]) == (3, 1, 0)
    assert [pack["reason"] for pack in facts["inputs"]] == ["small"] * 3
    assert run("compact", lake).out == "nothing to compact\n"
    assert run("fsck", lake, "--deep").code == 0


def test_what_became_of_the_packs_is_one_line(tmp_path: Path, run: Run) -> None:
    done = run("compact", packs(tmp_path / "lake"))
    assert done.out.startswith("3 packs of ")
    assert done.out.endswith(" in snapshot 4\n")


def test_a_damaged_file_is_named_and_the_exit_code_is_5(tmp_path: Path, run: Run) -> None:
    where = packs(tmp_path / "lake")
    with Lake.open(where) as lake:
        row = lake.snapshot().stat("f1")
    path = Path(where, layout.pack_path(row.pack))
    data = bytearray(path.read_bytes())
    data[row.offset] ^= 1
    path.write_bytes(data)
    done = run("compact", where)
    assert done.code == 5
    assert done.out.startswith(f"damaged: f1 in pack {row.pack}")
    assert "2 packs of " in done.out


def test_a_lost_pack_is_named_as_one_by_a_dry_run_too(tmp_path: Path, run: Run) -> None:
    where = packs(tmp_path / "lake")
    with Lake.open(where) as lake:
        lake.merge_index()
        pack = layout.pack_path(lake.snapshot().stat("f1").pack)
    Path(where, pack).unlink()
    for words in (["--dry-run"], []):
        done = run("compact", where, *words)
        assert done.code == 5
        assert done.out.startswith(f"left out: {pack}: expected a file of ")
        assert "found none; restore it from a copy of the lake\n" in done.out
        assert "2 packs of " in done.out


def test_wrong_options_are_usage_errors(tmp_path: Path, run: Run) -> None:
    lake = packs(tmp_path / "lake")
    for wrong in (["--live-ratio", "0.9"], ["--rate", "fast"], ["--target-size", "0"],
                  ["--layout", "random"]):  # fmt: skip
        assert run("compact", lake, *wrong).code == 2, wrong


class At:
    """A clock for the commands: a time of day, one for each look."""

    def __init__(self, *times: str) -> None:
        self.times = list(times)

    def now(self) -> datetime:
        time = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        return datetime.fromisoformat(f"2026-02-03T{time}")


def test_outside_its_window_nothing_is_done(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = packs(tmp_path / "lake")
    monkeypatch.setattr(compaction, "datetime", At("06:00:00"))
    done = run("compact", lake, "--window", "22:00-06:00")
    assert (done.code, done.out) == (0, "nothing done: it is not 22:00-06:00\n")
    assert run("compact", lake, "--window", "22:00-06:00", "--json").json["outside"]
    dry = run("compact", lake, "--window", "22:00-06:00", "--dry-run")
    assert (dry.code, dry.out) == (0, "nothing would be done: it is not 22:00-06:00\n")
    assert run("show", lake, "--json").json["packs"] == 3
    monkeypatch.setattr(compaction, "datetime", At("23:59:59"))
    assert run("compact", lake, "--window", "22:00-06:00", "--rate", "1GB/s").code == 0
    assert run("show", lake, "--json").json["packs"] == 1


def test_a_run_takes_on_half_of_what_its_rate_does_in_the_window(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = packs(tmp_path / "lake")  # of 1000 bytes each
    monkeypatch.setattr(compaction, "datetime", At("05:59:58"))
    words = ("compact", lake, "--window", "22:00-06:00", "--rate", "2000")
    dry = run(*words, "--dry-run", "--json").json
    done = run(*words, "--json").json
    assert [len(facts["inputs"]) for facts in (dry, done)] == [2, 2]
    assert run("compact", lake, "--window", "25:00-6", "--dry-run").code == 2


def test_a_window_that_closes_ends_the_run_and_leaves_nothing(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = packs(tmp_path / "lake")
    files = sorted(path for path in Path(lake).rglob("*") if path.suffix in (".pack", ".parquet"))
    monkeypatch.setattr(compaction, "datetime", At("05:59:58", "05:59:59", "06:00:00"))
    done = run("compact", lake, "--window", "22:00-06:00")
    assert done.code == 4
    assert "closed" in done.err
    left = sorted(path for path in Path(lake).rglob("*") if path.suffix in (".pack", ".parquet"))
    assert left == files
    assert run("compact", lake, "--window", "25:00-6").code == 2
