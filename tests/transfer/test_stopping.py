"""An import that is interrupted or killed keeps what it committed, and goes on when run again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.format.rows import Kind
from lakefeed.lake.check import check
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import export
from lakefeed.transfer.filling import Filling
from lakefeed.transfer.importing import Importer, ImportOptions, Task, import_tree
from lakefeed.transfer.problems import Problems
from lakefeed.transfer.walk import Found
from tests.transfer.trees import facts

# Sends itself a signal from the thread that fills packs, and waits there until it has arrived.
DRIVER = """
import os, signal, sys, threading
from lakefeed import Lake
from lakefeed.transfer.importing import ImportOptions, import_tree

number = int(sys.argv[3])
arrived = threading.Event()

def handler(number, frame):
    arrived.set()
    raise KeyboardInterrupt

def stop_at(progress):
    if progress.files >= 150 and not arrived.is_set():
        os.kill(os.getpid(), number)
        arrived.wait()

if number == signal.SIGINT:
    signal.signal(number, handler)
with Lake.open(sys.argv[1]) as lake:
    import_tree(lake, sys.argv[2], ImportOptions(pack_rows=int(sys.argv[4])), stop_at)
"""


def count(lake: Lake) -> int:
    return sum(len(table) for table in lake.snapshot().scan())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("pack_rows", [30, 100_000])
def test_a_stopped_import_goes_on_where_it_was(
    lake: Lake, tree: Path, tmp_path: Path, number: signal.Signals, pack_rows: int
) -> None:
    arguments = [lake.name, str(tree), str(int(number)), str(pack_rows)]
    stopped = subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments], capture_output=True, text=True, check=False
    )
    assert stopped.returncode == -number, stopped.stderr
    assert not check(lake, deep=True).findings
    done = count(lake)
    packs = len(list(Path(lake.name).rglob("*.pack")))
    if number == signal.SIGINT:
        assert 150 <= done < len(facts(tree))
        assert packs == len(lake.snapshot().state.packs)
    elif pack_rows == 30:
        # One pack may be sealed and one filled at the time; all before them are committed.
        assert done >= 150 - 3 * 64
    else:
        assert done == 0
    again = import_tree(lake, tree, ImportOptions(pack_rows=pack_rows))
    assert again.errors == 0
    assert again.skipped == done
    export(lake.snapshot(), DirectoryTarget(tmp_path / "out"))
    assert facts(tmp_path / "out") == facts(tree)
    assert not check(lake, deep=True).findings


def test_an_import_that_is_given_up_ends_whatever_a_full_pack_has_left_over(
    lake: Lake, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(str(tree), ImportOptions(pack_rows=5))
    importer = Importer(lake, task, Problems(), lambda _: None)
    add, begin, begun = Filling.add, Filling.begin, iter(range(3))

    def adding(filling: Filling, *arguments: Any) -> int:
        taken = add(filling, *arguments)
        importer.stop(abandon=True)
        return taken

    def beginning(filling: Filling) -> None:
        begin(filling)
        next(begun)  # fails in the fourth pack

    monkeypatch.setattr(Filling, "add", adding)
    monkeypatch.setattr(Filling, "begin", beginning)
    importer.begin([Found(f"many/0/{n:04d}.png", Kind.FILE) for n in range(0, 300, 7)])
    importer.run()
    assert not list(Path(lake.name).rglob("*.pack"))


MEMORY = """
import re, sys
from lakefeed import Lake
from lakefeed.transfer.importing import import_tree

with Lake.open(sys.argv[1]) as lake:
    assert import_tree(lake, sys.argv[2]).errors == 0
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tree(lake: Lake, tmp_path: Path) -> None:
    """A gigabyte in files just below and far above what is held at once (holes, to be quick)."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(500):
        with (tree / f"{number:04d}").open("wb") as file:
            file.truncate(1 << 20)
    with (tree / "huge").open("wb") as file:
        file.truncate(500 << 20)
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, lake.name, str(tree)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The interpreter with Arrow, and at most 64 threads with 2 MiB each where reading is slow.
    assert int(ran.stdout) < 450 << 10
    assert lake.snapshot().stat("huge").size == 500 << 20
