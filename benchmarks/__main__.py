"""Run benchmarks, one after the other: `python -m benchmarks [--small] [MODULE …]`, or all."""

from __future__ import annotations

import argparse
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


def main(words: list[str] | None = None) -> int:
    """Run each module in a process of its own; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}")
    parser.add_argument("--small", action="store_true", help="to see that they work")
    options = parser.parse_args(words)
    unknown = [module for module in options.modules if module not in MODULES]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}")
    failed = 0
    for module in options.modules or MODULES:
        print(f"\n## {module}\n", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{module}"]
        command += ["--small"] if options.small else []
        failed |= subprocess.run(command, check=False).returncode
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
