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

PROGRAM = """
import sys
import lakefeed.tf
data = lakefeed.tf.dataset(sys.argv[1], batch_size=16, shuffle="runs=8", seed=1)
batches = iter(data.repeat().prefetch(int(sys.argv[2])))
for _ in range(int(sys.argv[3])):
    next(batches)
print("left")
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("lake")
    with lake_of({f"{at:05d}": b"%05d" % at * 800 for at in range(4000)}, PosixVolume(where)):
        pass
    return where


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("prefetch", "steps"), [(2, 30), (64, 5), (64, 5), (1000, 1)])
def test_a_program_ends_in_the_middle_of_an_epoch(where: Path, prefetch: int, steps: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(where), str(prefetch), str(steps)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "left\n", done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-2000:]
    assert "terminate called" not in done.stderr
