"""Erasing as docs/OPERATIONS.md prints it: no byte is left, and all else is as it was."""

from __future__ import annotations

import re
from pathlib import Path

from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake

PAGE = Path(__file__).resolve().parents[2] / "docs" / "OPERATIONS.md"
SECRET = b"a person's own"


def holders(lake: Path) -> list[Path]:
    return [pack for pack in lake.rglob("*.pack") if SECRET in pack.read_bytes()]


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
    (block,) = re.findall(r"```python\n(from pathlib.*?)```", PAGE.read_text("utf-8"), re.S)
    exec(compile(block.replace("/mnt/lakes/main", str(path)), str(PAGE), "exec"), {})
    assert len(holders(path)) == 2
    with Lake.open(path) as lake:
        compact(lake, CompactionOptions())
        collect(lake, Retention(keep_seconds=0), orphans=True)
        assert holders(path) == []
        snapshot = lake.snapshot()
        assert {row.path: snapshot.get(row.path) for row in snapshot.ls("other")} == files
        row = snapshot.stat("other/9")
        assert (row.mtime_ns, row.mode, row.attrs) == (7, 0o600, {"of": "other/9"})
        assert list(check(lake, deep=True).findings) == []
