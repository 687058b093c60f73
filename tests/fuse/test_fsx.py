"""Random reads, writes and truncates give what a plain file gives.

A million operations in four parts, about half a minute each; `LAKEFEED_FSX=10000` runs so many a
part.
"""

from __future__ import annotations

import os

import pytest

from lakefeed import Lake
from tests.fuse.fsx import Exerciser
from tests.fuse.tools import Mounted, fsck, needs_fuse

pytestmark = [needs_fuse, pytest.mark.root, pytest.mark.slow]
OPERATIONS = int(os.environ.get("LAKEFEED_FSX", "250000"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_a_file_under_random_operations_is_what_the_model_says(rw: Mounted, seed: int) -> None:
    exerciser = Exerciser(str(rw.path / "file"), seed)
    exerciser.run(OPERATIONS)
    content = (rw.path / "file").read_bytes()
    rw.sync()
    with Lake.open(rw.lake) as lake:
        assert lake.snapshot().get("file") == content
    fsck(rw.lake)
