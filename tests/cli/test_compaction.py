"""compact: says what it would do, does it, and names what is damaged."""

from __future__ import annotations

import os
from pathlib import Path

from lakefeed import Lake, WriterOptions
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


def test_wrong_options_are_usage_errors(tmp_path: Path, run: Run) -> None:
    lake = packs(tmp_path / "lake")
    for wrong in (["--live-ratio", "0.9"], ["--rate", "fast"], ["--target-size", "0"],
                  ["--layout", "random"]):  # fmt: skip
        assert run("compact", lake, *wrong).code == 2, wrong
