"""What `doctor` and the kernel's counters say of a real NFS mount: facts, judged on the host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from world import World

from lakefeed.bench import mountstats, probing


def main(world: World) -> dict[str, Any]:
    root = world.c1.root
    before = mountstats.read(str(root))
    assert before is not None
    began = time.monotonic()
    for number in range(20):
        (root / f"file{number}").write_bytes(b"x" * 8192)
    (root / "folder").mkdir()
    after = mountstats.read(str(root))
    assert after is not None
    return {
        "examined": probing.examine(str(root)),
        "version": after.version,
        "done": mountstats.between(before, after, time.monotonic() - began),
        "text": Path("/proc/self/mountstats").read_text(),
        "left": sorted(path.name for path in root.iterdir()),
    }
