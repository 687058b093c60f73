"""Erasing as docs/OPERATIONS.md prints it: no byte is left, and all else is as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake

PAGE = Path(__file__).resolve().parents[2] / "docs" / "OPERATIONS.md"
SECRET = b"a person's own"


def holders(lake: Path) -> list[Path]:
    return [pack for pack in lake.rglob("*.pack") if SECRET in pack.read_bytes()]


def erase(lake: Path, *names: str) -> None:
    """Do what the page says, for each name; and what comes behind it."""
    (block,) = re.findall(r"```python\n(from contextlib.*?)```", PAGE.read_text("utf-8"), re.S)
    block = block.replace("/mnt/lakes/main", str(lake))
    for name in names:
        exec(compile(block.replace("people/17", name), str(PAGE), "exec"), {})
    with Lake.open(lake) as opened:
        compact(opened, CompactionOptions())
        collect(opened, Retention(keep_seconds=0), orphans=True)
        assert list(check(opened, deep=True).findings) == []


def test_no_byte_of_what_was_erased_is_left(tmp_path: Path) -> None:
    path = tmp_path / "lake"
    files = {f"other/{number}": b"%d" % number * 500 for number in range(50)}
    with Lake.create(path) as lake:
        # Two versions, in two packs that stay mostly alive.
        for version in range(2):
            with lake.writer() as writer:
                writer.put("people/17/face.jpg", SECRET + bytes(version))
                for name, data in files.items():
                    if int(name[6:]) % 2 == version:
                        writer.put(name, data, mtime_ns=7, mode=0o600, attrs={"of": name})
    assert len(holders(path)) == 2
    erase(path, "people/17")
    assert holders(path) == []
    with Lake.open(path) as lake:
        snapshot = lake.snapshot()
        assert {row.path: snapshot.get(row.path) for row in snapshot.ls("other")} == files
        row = snapshot.stat("other/9")
        assert (row.mtime_ns, row.mode, row.attrs) == (7, 0o600, {"of": "other/9"})


@pytest.mark.parametrize("happened", ["renamed", "overwritten before", "copied", "deleted", "file"])
def test_what_was_moved_or_deleted_before_is_erased_too(tmp_path: Path, happened: str) -> None:
    path, name = tmp_path / "lake", "people/17/face.jpg"
    moved = happened in {"renamed", "overwritten before"}
    with Lake.create(path) as lake:
        for _ in range(1 + (happened == "overwritten before")):
            with lake.writer() as writer:
                writer.put("incoming/face.jpg" if moved else name, SECRET)
                for number in range(50):
                    writer.put(f"other/{number}", b"%d" % number * 500)
        with lake.writer() as writer:
            if moved:
                writer.rename("incoming", "people/17")
            elif happened == "copied":
                writer.copy(name, "copy/face.jpg")
            elif happened == "deleted":
                writer.delete_tree("people/17")
    assert holders(path)
    erase(path, *{"overwritten before": ["people/17", "incoming"], "file": [name],
                  "copied": ["people/17", "copy"]}.get(happened, ["people/17"]))  # fmt: skip
    assert holders(path) == []
    with Lake.open(path) as lake:
        assert {row.path.split("/")[0] for row in lake.snapshot().ls("")} == {"other"}
