"""The backup of docs/OPERATIONS.md, step by step, while the lake is written and compacted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.layout import LOG, REFS
from lakefeed.lake.log import CHECKPOINT_EVERY

PAGE = Path(__file__).resolve().parents[2] / "docs" / "OPERATIONS.md"
LAKE = "/mnt/lakes/main"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed"),
]


def steps(lake: Path, copies: Path) -> list[str]:
    """The page's commands, for a lake and for copies on this machine."""
    (block,) = re.findall(r"```sh\n(lakefeed tag .*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    here = block.replace("\\\n", " ").replace(LAKE, str(lake))
    here = here.replace("backup:/lakes", str(copies)).replace("ssh backup ", "")
    return here.replace(" /lakes", f" {copies}").strip().splitlines()


def back_up(lake: Path, copies: Path, between: Callable[[], object]) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    copies.mkdir(exist_ok=True)
    for step in steps(lake, copies):
        subprocess.run(step, shell=True, check=True, env={**os.environ, "PATH": path})
        between()
    a_night_passes(copies, REFS)


def a_night_passes(copies: Path, directory: str) -> None:
    """Rsync takes what is of one second, and as long, for one file."""
    for file in copies.glob(f"*/{directory}/*"):
        os.utime(file, (0, 0))


class Busy:
    """A lake that everybody works on."""

    def __init__(self, path: Path) -> None:
        self.lake = Lake.create(path)
        self.files: dict[str, bytes] = {}
        self._round = 0

    def work(self) -> None:
        """Put, overwrite and delete; compact all of it; collect what may go."""
        self._round += 1
        with self.lake.writer() as writer:
            for number in range(4):
                path = f"{self._round}/{number}"
                self.files[path] = os.urandom(5000)
                writer.put(path, self.files[path])
            writer.put("again", str(self._round).encode())
            if self._round > 1:
                writer.delete(f"{self._round - 1}/0")
        self.files["again"] = str(self._round).encode()
        self.files.pop(f"{self._round - 1}/0", None)
        compact(self.lake, CompactionOptions(target_bytes=1 << 20, packs_min=2))
        collect(self.lake, Retention(3600.0, 3600.0), orphans=True)


def findings(path: Path) -> list[object]:
    with Lake.open(path) as lake:
        return list(check(lake, deep=True).findings)


def test_a_copy_made_while_everybody_works_is_whole(tmp_path: Path) -> None:
    busy, copies = Busy(tmp_path / "lake"), tmp_path / "copies"
    with busy.lake:
        busy.work()
        for _ in range(2):
            before = dict(busy.files)
            back_up(tmp_path / "lake", copies, busy.work)
            assert findings(copies / "main") == []
            with Lake.open(copies / "main") as copy:
                tagged = copy.snapshot("nightly")
                assert {path: tagged.get(path) for path in before} == before
                newest = copy.snapshot()
                assert newest.number >= tagged.number
                # Pruned, it goes on from a commit of its own, which the next run replaces.
                collect(copy, Retention(0.0, 3600.0), orphans=True)


def test_tags_are_copied_before_the_commits_that_they_name(tmp_path: Path) -> None:
    # A long log takes its time: a tag copied behind it may name a commit that came too late.
    busy, copies = Busy(tmp_path / "lake"), tmp_path / "copies"
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        number = busy.lake.snapshot().number
        busy.lake.tag(f"at{number}", number)
        seen.append(tuple((copies / "main.next" / name).exists() for name in (REFS, LOG)))
        busy.work()

    with busy.lake:
        busy.work()
        back_up(tmp_path / "lake", copies, look)
    assert (True, False) in seen
    with Lake.open(copies / "main") as copy:
        assert max(tag.snapshot for tag in copy.refs.tags()) <= copy.snapshot().number
    assert findings(copies / "main") == []


def test_a_copy_with_more_commits_of_its_own_than_came_meanwhile_is_whole(tmp_path: Path) -> None:
    busy, copies = Busy(tmp_path / "lake"), tmp_path / "copies"
    with busy.lake:
        busy.work()
        back_up(tmp_path / "lake", copies, lambda: None)
        with Lake.open(copies / "main") as copy:
            # As when it is pruned each night, and the lake is hardly written to.
            for _ in range(3):
                with copy.writer() as writer:
                    writer.put("own", b"own")
        a_night_passes(copies, LOG)
        with busy.lake.writer() as writer:
            writer.put("new", b"new")
        back_up(tmp_path / "lake", copies, lambda: None)
    assert findings(copies / "main") == []
    with Lake.open(copies / "main") as copy:
        assert copy.snapshot().get("new") == b"new"
        assert "own" not in [row.path for row in copy.snapshot().ls("")]


def test_a_copy_that_is_pruned_forgets_what_the_lake_has_given_up(tmp_path: Path) -> None:
    busy, copies = Busy(tmp_path / "lake"), tmp_path / "copies"
    with busy.lake:
        for _ in range(3):
            busy.work()
            back_up(tmp_path / "lake", copies, lambda: None)
            a_night_passes(copies, LOG)
        collect(busy.lake, Retention(0.0, 0.0), orphans=True)
        back_up(tmp_path / "lake", copies, lambda: None)
    packs = {file.name for file in tmp_path.glob("lake/packs/*/*.pack")}
    assert packs < {file.name for file in copies.glob("main/packs/*/*.pack")}
    (prune,) = re.findall(r"Prune the\ncopy [^`]*`lakefeed (gc .*?)`", PAGE.read_text("utf-8"))
    words = prune.replace("/lakes/main", str(copies / "main")).split()
    command = [sys.executable, "-m", "lakefeed", *words, "--keep", "0s", "--grace", "0s"]
    subprocess.run(command, check=True)
    assert packs == {file.name for file in copies.glob("main/packs/*/*.pack")}
    assert findings(copies / "main") == []


def test_what_was_copied_back_is_the_lake_and_can_be_written(tmp_path: Path) -> None:
    busy, copies = Busy(tmp_path / "lake"), tmp_path / "copies"
    with busy.lake:
        while busy.lake.snapshot().number <= CHECKPOINT_EVERY:
            busy.work()
    back_up(tmp_path / "lake", copies, lambda: None)
    assert [*(tmp_path / "lake").rglob("*.checkpoint")]
    assert not [*copies.rglob("*.checkpoint")]
    shutil.rmtree(tmp_path / "lake")
    subprocess.run(["rsync", "-a", f"{copies}/main/", f"{tmp_path}/lake/"], check=True)
    assert findings(tmp_path / "lake") == []
    with Lake.open(tmp_path / "lake") as lake:
        snapshot = lake.snapshot()
        assert {path: snapshot.get(path) for path in busy.files} == busy.files
        with lake.writer() as writer:
            writer.put("new", b"new")
        assert lake.snapshot().get("new") == b"new"
