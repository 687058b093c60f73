"""Run every benchmark, one after the other: `python -m benchmarks`."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "index",
    "big_index",
    "small_files",
    "import_tree",
    "service",
    "mount",
    "feed_core",
    "feed_open",
    "shuffle",
    "resume",
    "tf_paths",
    "tf_data",
    "decode",
    "accelerators",
)


def main() -> int:
    """Run each module in a process of its own; return 1 if one failed."""
    failed = 0
    for module in MODULES:
        print(f"\n## {module}\n", flush=True)
        failed |= subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}"], check=False
        ).returncode
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
