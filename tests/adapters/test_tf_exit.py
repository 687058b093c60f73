"""A program may end in the middle of an epoch: it ends, and at once.

TensorFlow asks Python for the next batch from a thread of its own. Were that still so when the
interpreter goes, each would wait for the other for ever, or the process would be taken down.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lakefeed.volume.posix import PosixVolume
from tests.feed.lakes import lake_of

# Each case is a process of its own. They are forked after the import, which takes longer than all
# else and has started nothing yet, and each comes to the interpreter's end like any program.
PROGRAM = """
import os, sys
import lakefeed.tf

def begin(prefetch, steps):
    global data, batches
    data = lakefeed.tf.dataset(sys.argv[1], batch_size=16, shuffle="runs=8", seed=1)
    batches = iter(data.repeat().prefetch(int(prefetch)))
    for _ in range(int(steps)):
        next(batches)
    print("left", flush=True)

for case in sys.argv[2:]:
    if not os.fork():
        begin(*case.split(","))
        break
    print(case, "ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
CASES = ["2,30", "64,5", "64,5", "1000,1"]  # batches prefetched, batches taken


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("lake")
    with lake_of({f"{at:05d}": b"%05d" % at * 800 for at in range(4000)}, PosixVolume(where)):
        pass
    return where


@pytest.mark.tf
@pytest.mark.slow
def test_a_program_ends_in_the_middle_of_an_epoch(where: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(where), *CASES],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    expected = [line for case in CASES for line in ("left", f"{case} ended 0")]
    assert done.stdout.splitlines() == expected, done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-2000:]
    assert "terminate called" not in done.stderr
