"""How long does it take to import a tree of many small files, beside `tar cf` of the same tree?

Expected: both look at every name, open, read and close every file and write the bytes once. Tar
does it in C on one thread and syncs nothing; an import pays some 20 microseconds of Python for each
file, writes on a second thread while the first one reads, and syncs everything before it commits.
So an import is a little slower than tar per small file and a little faster per big one. Baseline:
`tar cf` to a real file on the same filesystem (to /dev/null tar reads nothing). Limit: the plain
reading of the same files by one loop of open, fstat, read, close over names known beforehand.

The import is the command `lakefeed import` with the workers that it chooses itself, its start
included. Its peak memory is the most that its processes held together, seen 20 times a second in a
run of its own, because looking takes time; pages that they share (libraries) count once, as the
kernel's proportional set size does it.

Cold means: after `echo 3 > /proc/sys/vm/drop_caches`, where that is allowed. An import counts until
its last commit is durable; tar until it exits, and, in the column beside it, until its output is
durable too. Writeback of what ran before is waited for outside the measurement.

    python -m benchmarks.import_tree [--small] [--tree DIR] [--dir DIR] [--repeats 3]
                                     [--cold-repeats 1]

Without `--tree` the installed Python environment of this interpreter is copied until it is 100,000
files (`--small`: 20,000, no cold run, nothing saved); what is above 1 MiB is left out, since the
question is about small files. Against plain tar the comparison is unfair by the syncs, which the
import alone does; against tar made durable it is fair. Both are given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import harness
from lakefeed import Lake

FILES_WANTED = 100_000
FILES_SMALL = 20_000
FILE_BYTES_MAX = 1 << 20
SAMPLE_SECONDS = 0.05
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def make_tree(where: Path, wanted: int) -> None:
    """Copy installed Python files until there are enough of them."""
    sources = [Path(p) for p in (sysconfig.get_path("stdlib"), *site.getsitepackages())]
    found = number = 0
    while found < wanted:
        for source in sources:
            found += copy_small(source, where / str(number), wanted - found)
            number += 1


def copy_small(source: Path, target: Path, wanted: int) -> int:
    """Copy at most so many small files of a tree with their directories; return how many."""
    found = 0
    for directory, directories, files in os.walk(source):
        directories.sort()
        place = target / Path(directory).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in sorted(files):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= FILE_BYTES_MAX:
                shutil.copy2(path, place / name)
                found += 1
                if found >= wanted:
                    return found
    return found


def measure_tree(root: Path) -> tuple[list[str], int]:
    """Return the regular files of a tree, in the order of the directories, and their bytes."""
    names, size_bytes = [], 0
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                names.append(path)
                size_bytes += os.path.getsize(path)
    return names, size_bytes


def read_all(names: list[str]) -> None:
    """Read every file once, as plainly as Python can."""
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        left = os.fstat(fd).st_size
        while left > 0 and (data := os.read(fd, min(left, 1 << 20))):
            left -= len(data)
        os.close(fd)


def tar_all(tree: Path, out: Path, *, durable: bool) -> None:
    """Write the tree into one tar."""
    subprocess.run(["tar", "cf", out, "-C", tree, "."], check=True)
    if durable:
        with out.open("rb") as file:
            os.fsync(file.fileno())


def import_all(tree: Path, lake: Path, *, watched: bool) -> dict[str, float]:
    """Import the tree into a new lake with the command, whatever number of workers it chooses.

    Return its number of packs and, where it is watched, its peak memory.
    """
    Lake.create(lake).close()
    command = Path(sys.executable).with_name("lakefeed")
    arguments = ["import", tree, lake, "--json"]
    # As installed: compiled once, not at every start.
    usual = {name: value for name, value in os.environ.items() if name != _NO_BYTECODE}
    peak_mb = 0.0
    with subprocess.Popen([command, *arguments], stdout=subprocess.PIPE, env=usual) as running:
        done = not watched
        while not done:
            try:
                running.wait(SAMPLE_SECONDS)
                done = True
            except subprocess.TimeoutExpired:
                peak_mb = max(peak_mb, held_mb(running.pid))
        assert running.stdout is not None
        report = json.load(running.stdout)
    assert report["errors"] == 0, report["problems"]
    return {"packs": report["packs"], "peak_mb": peak_mb}


def held_mb(pid: int) -> float:
    """Return the memory that a process and its children hold together right now."""
    held = 0.0
    try:
        # A child belongs to the thread that started it.
        threads = Path(f"/proc/{pid}/task").glob("*/children")
        children = " ".join(thread.read_text() for thread in threads).split()
        for one in (str(pid), *children):
            facts = Path(f"/proc/{one}/smaps_rollup").read_text()
            share = re.search(r"^Pss:\s+(\d+) kB", facts, re.MULTILINE)
            held += int(share[1]) / 1024 if share else 0.0
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # one of them is just ending: what it held was seen before
    return held


def compare(tree: Path, scratch: Path, repeats: int, *, cold: bool) -> dict[str, object]:
    """Run all contestants in turns; return medians, ratios and the peak memory of the imports."""
    names, size_bytes = measure_tree(tree)
    tar, lake = scratch / "out.tar", scratch / "lake"
    contestants: dict[str, Callable[[], object]] = {
        "read": partial(read_all, names),
        "tar": partial(tar_all, tree, tar, durable=False),
        "tar+fsync": partial(tar_all, tree, tar, durable=True),
        "import": partial(import_all, tree, lake, watched=False),
    }

    def prepare() -> None:
        shutil.rmtree(lake, ignore_errors=True)
        tar.unlink(missing_ok=True)
        os.sync()
        if cold:
            harness.drop_caches()

    timings = harness.interleave(contestants, repeats, 0 if cold else 1, prepare)
    prepare()
    facts = import_all(tree, lake, watched=True)
    prepare()
    import_seconds = timings["import"].median
    return {
        "files": len(names),
        "bytes": size_bytes,
        "timings": {name: timing.facts() for name, timing in timings.items()},
        "import_speed_over_tar": round(timings["tar"].median / import_seconds, 3),
        "import_speed_over_tar_fsync": round(timings["tar+fsync"].median / import_seconds, 3),
        "import_speed_over_read": round(timings["read"].median / import_seconds, 3),
        "import_peak_mb": round(facts["peak_mb"]),
        "import_packs": facts["packs"],
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def print_table(title: str, result: dict[str, object], files: int, size_bytes: int) -> None:
    """Print one result for people."""
    timings = result["timings"]
    assert isinstance(timings, dict)
    rows = []
    for name, timing in timings.items():
        seconds = timing["median_seconds"]
        low, high = timing["range_seconds"]
        rows.append(
            [
                name,
                f"{seconds:.2f} s ({low:.2f} to {high:.2f})",
                f"{files / seconds:,.0f}",
                f"{size_bytes / 1e6 / seconds:,.0f}",
            ]
        )
    print(f"\n{title}: {files:,} files, {size_bytes / 1e9:.2f} GB")
    print(harness.table(["", "median (range)", "files/s", "MB/s"], rows))
    print(
        f"import: {result['import_speed_over_tar']}x the speed of tar, "
        f"{result['import_speed_over_tar_fsync']}x of tar made durable, "
        f"peak memory {result['import_peak_mb']} MB, "
        f"load {result['load_average']}"
    )


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, help="tree to import; default: a copy of this Python")
    parser.add_argument("--dir", type=Path, help="where to work; default: the temporary directory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold-repeats", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a fifth of the files, warm only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as work:
        scratch = Path(work)
        tree = options.tree
        if tree is None:
            tree = scratch / "tree"
            make_tree(tree, FILES_SMALL if options.small else FILES_WANTED)
        results: dict[str, object] = {}
        runs = [("warm", options.repeats, False)]
        if options.cold_repeats and not options.small and harness.drop_caches():
            runs.append(("cold", options.cold_repeats, True))
        for title, repeats, cold in runs:
            result = compare(tree, scratch, repeats, cold=cold)
            results[title] = result
            files, size_bytes = result["files"], result["bytes"]
            assert isinstance(files, int)
            assert isinstance(size_bytes, int)
            print_table(title, result, files, size_bytes)
        if not options.small:
            print(f"\nsaved: {harness.save('import_tree', results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
