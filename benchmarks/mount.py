"""How close does the mount come to what pyfuse3 can do, and to file systems that are not in Python?

The same files on ext4 (the ceiling), in a SquashFS image (loop), in a tar behind ratarmount, in a
do-nothing in-memory filesystem written with pyfuse3 (`benchmarks.memfs`), and in a lake behind
`lakefeed mount`, each row from all of them in turn. Expected: a small request costs pyfuse3 some
70 us, of which the loop is the greater part; the mount waits more cheaply and does more for each
request (look-ups, extents, checksums), so about the same comes out. Wanted: 0.7 of the in-memory
filesystem or better in every row, ahead of ratarmount, 200,000 names a second from scandir.

Cold means that the page cache was dropped before, warm is the same again at once. The in-memory
filesystem has no disk under it, so its cold rows are only cold above. Writing compares ext4, the
in-memory filesystem and `lakefeed mount --rw`, none of which waits for a disk.

A peer that is not installed (apt squashfs-tools, pip ratarmount) is left out.

    python -m benchmarks.mount [--small] [--dir DIR] [--repeats 3] [--big-gib 4]
                               [--rows sequential --rows "110 kB" …]

`--rows` measures only the rows whose names hold one of these words, prints them and saves nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import harness, mount_load
from lakefeed.adapters.fuse import kernel

Row = tuple[str, Callable[[Path], tuple[float, int]], bool]


@dataclass(frozen=True)
class Shape:
    """How much of everything."""

    small: int = 100_000
    probed: int = 20_000
    medium: int = 2_000
    tree: int = 21_000
    created: int = 10_000
    big_bytes: int = 4 << 30


SMALL = Shape(4_000, 2_000, 150, 2_000, 1_000, 128 << 20)


# -- the files -------------------------------------------------------------------------------------


def fill(directory: Path, shape: Shape) -> None:
    """Write the files, the same whenever the shape is the same."""
    noise = random.Random(1).randbytes(1 << 20)
    (directory / "small").mkdir(parents=True)
    for number in range(shape.small):
        start = number * 7 % (len(noise) - 4096)
        (directory / f"small/{number:06d}").write_bytes(noise[start : start + 4096])
    (directory / "medium").mkdir()
    for number in range(shape.medium):
        data = noise[number % 1000 :][:110_000]
        (directory / f"medium/{number:06d}").write_bytes(data)
    with open(directory / "big", "wb") as file:
        for number in range(shape.big_bytes >> 20):
            file.write(number.to_bytes(8, "big") + noise[8:])
    grow(directory / "tree", shape.tree, noise)


def grow(directory: Path, files: int, noise: bytes) -> None:
    """Write a tree like that of a source package: some 14 files a directory, most of them short."""
    randomly = random.Random(2)
    directories = [directory]
    for number in range(files):
        if number % 14 == 0:
            parent = randomly.choice(directories[-200:])
            directories.append(parent / f"package{number}")
            directories[-1].mkdir(parents=True)
        size = min(int(randomly.lognormvariate(8, 1.3)), 200_000)
        (directories[-1] / f"module{number}.py").write_bytes(noise[:size])


# -- the contestants -------------------------------------------------------------------------------


@contextmanager
def served(command: list[str], where: Path) -> Iterator[Path]:
    """Run a FUSE daemon in the foreground for the time of the block."""
    where.mkdir()
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while kernel.mounted_at(str(where)) is None:
            if daemon.poll() is not None:
                raise RuntimeError(f"{command} ended with {daemon.returncode}")
            time.sleep(0.05)
        os.statvfs(where)
        mount = kernel.mounted_at(str(where))
        assert mount is not None
        kernel.widen_read_ahead(mount.minor)
        yield where
    finally:
        subprocess.run(["umount", where], check=False)
        daemon.wait(60)


@contextmanager
def looped(image: Path, where: Path) -> Iterator[Path]:
    """Mount a SquashFS image."""
    where.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def python(*words: object) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]


def ratarmount() -> str | None:
    """Return the program: this environment's own, else that of the PATH; None without one."""
    own = Path(sys.executable).with_name("ratarmount")
    return str(own) if own.exists() else shutil.which("ratarmount")


def readers(stack: ExitStack, base: Path) -> dict[str, Path]:
    """Return where each contestant shows the files."""
    data, here = base / "data", base / "mounts"
    here.mkdir()
    found = {"ext4": data}
    if shutil.which("mksquashfs"):
        # Stored, not compressed: decompression is not the question.
        store = ["-noI", "-noD", "-noF", "-noX", "-quiet", "-no-progress"]
        subprocess.run(["mksquashfs", data, base / "image", *store], check=True)
        found["squashfs"] = stack.enter_context(looped(base / "image", here / "squashfs"))
    program = ratarmount()
    if program is not None:
        with tarfile.open(base / "data.tar", "w") as archive:
            archive.add(data, ".")
        command = [program, "-f", "--index-file", str(base / "index"), str(base / "data.tar")]
        where = here / "ratarmount"
        found["ratarmount"] = stack.enter_context(served([*command, str(where)], where))
    where = here / "memfs"
    found["memfs"] = stack.enter_context(served(python("benchmarks.memfs", data, where), where))
    lake = base / "lake"
    subprocess.run(python("lakefeed", "create", lake), check=True)
    subprocess.run(python("lakefeed", "import", data, lake, "-q"), check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    subprocess.run(python("lakefeed", "tag", lake, "bench"), check=True, stdout=subprocess.DEVNULL)
    where = here / "lakefeed"
    command = python("lakefeed", "mount", lake, where, "--foreground", "--at", "bench")
    found["lakefeed"] = stack.enter_context(served(command, where))
    return found


def writers(stack: ExitStack, base: Path) -> dict[str, Path]:
    """Return where each contestant takes files."""
    here = base / "writable"
    (here / "empty").mkdir(parents=True)
    (here / "ext4").mkdir()
    where = here / "memfs"
    command = python("benchmarks.memfs", here / "empty", where, "rw")
    found = {"ext4": here / "ext4", "memfs": stack.enter_context(served(command, where))}
    lake = base / "written"
    subprocess.run(python("lakefeed", "create", lake), check=True)
    where = here / "lakefeed"
    command = python("lakefeed", "mount", lake, where, "--foreground", "--rw")
    found["lakefeed"] = stack.enter_context(served(command, where))
    return found


# -- the rows --------------------------------------------------------------------------------------


def reading_rows(shape: Shape) -> list[Row]:
    """Return the reading rows: name, what to do below a directory, and whether caches go first."""
    small = [f"{number:06d}" for number in range(shape.small)]
    probed = random.Random(3).sample(small, shape.probed)
    medium = [f"{number:06d}" for number in range(shape.medium)]
    rows: list[Row] = []
    for label, folder, names in (("4 KiB", "small", probed), ("110 kB", "medium", medium)):
        for processes in (1, 4):
            for temperature in ("cold", "warm"):

                def read(top: Path, folder: str = folder, names: list[str] = names,
                         processes: int = processes) -> tuple[float, int]:  # fmt: skip
                    action = partial(mount_load.read_files, top / folder, names)
                    return mount_load.timed(action, processes)

                name = f"open+read+close {label}, {processes} processes, {temperature}"
                rows.append((name, read, temperature == "cold"))

    def one(action: Callable[..., int], place: str) -> Callable[[Path], tuple[float, int]]:
        return lambda top: mount_load.timed(partial(action, top / place))

    def read_below_cached(top: Path) -> tuple[float, int]:
        if kernel.mounted_at(str(top)) is not None:
            mount_load.forget(top / "big")
        return mount_load.timed(partial(mount_load.read_whole, top / "big"))

    def stats(top: Path, processes: int) -> tuple[float, int]:
        action = partial(mount_load.stat_files, top / "small", probed)
        return mount_load.timed(action, processes)

    rows += [
        ("stat, 1 process, cold", partial(stats, processes=1), True),
        ("stat, 1 process, warm", partial(stats, processes=1), False),
        ("stat, 4 processes, cold", partial(stats, processes=4), True),
        (f"scandir of {shape.small:,} names, cold", one(mount_load.scan, "small"), True),
        (f"scandir of {shape.small:,} names, warm", one(mount_load.scan, "small"), False),
        (
            f"scandir+stat of {shape.small:,} names, cold",
            one(mount_load.scan_with_stat, "small"),
            True,
        ),
        ("find, cold", one(mount_load.find, "tree"), True),
        ("find, warm", one(mount_load.find, "tree"), False),
        ("tar of the tree, cold", one(mount_load.tar_out, "tree"), True),
        ("tar of the tree, warm", one(mount_load.tar_out, "tree"), False),
        ("sequential read, cold", one(mount_load.read_whole, "big"), True),
        ("sequential read, bytes below the mount cached", read_below_cached, False),
    ]
    return rows


def writing_rows(shape: Shape, archive: Path) -> list[Row]:
    """Return the writing rows."""

    def create(top: Path, processes: int) -> tuple[float, int]:
        action = partial(mount_load.create_files, top, shape.created // processes)
        return mount_load.timed(action, processes)

    def untar(top: Path) -> tuple[float, int]:
        return mount_load.timed(partial(mount_load.tar_in, archive, top))

    return [
        ("create+write+close 4 KiB, 1 process", partial(create, processes=1), False),
        ("create+write+close 4 KiB, 4 processes", partial(create, processes=4), False),
        ("untar of the tree", untar, False),
    ]


def measure(rows: list[Row], places: dict[str, Path], repeats: int) -> dict[str, dict[str, object]]:
    """Run each row on each contestant in turn; return rates (things or bytes a second)."""
    rates: dict[str, dict[str, list[float]]] = {}
    for name, _, _ in rows:
        rates[name] = {who: [] for who in places}
    for _ in range(repeats):
        for who, top in places.items():
            for name, action, cold in rows:
                if cold:
                    harness.drop_caches()
                seconds, done = action(top)
                rates[name][who].append(done / seconds)
        print(".", end="", flush=True)
    print()
    return {
        name: {who: summary(values) for who, values in found.items()}
        for name, found in rates.items()
    }


def summary(values: list[float]) -> dict[str, object]:
    return {
        "median": round(statistics.median(values)),
        "range": [round(min(values)), round(max(values))],
    }


def ratio(row: dict[str, object], one: str, other: str) -> float | None:
    if one not in row or other not in row:
        return None
    rates = [float(row[who]["median"]) for who in (one, other)]  # type: ignore[index]
    return round(rates[0] / rates[1], 2)


def shown(rows: dict[str, dict[str, object]], places: dict[str, Path]) -> str:
    """Return the rates as a table, with the ratios that were promised."""
    lines = []
    for name, row in rows.items():
        in_bytes = "sequential" in name or name.startswith("tar ")
        cells = []
        for who in places:
            rate = float(row[who]["median"])  # type: ignore[index]
            cells.append(f"{rate / 1e6:,.0f} MB/s" if in_bytes else f"{rate:,.0f}/s")
        ratios = (ratio(row, "lakefeed", "memfs"), ratio(row, "lakefeed", "ratarmount"))
        lines.append((name, *cells, *("" if value is None else value for value in ratios)))
    return harness.table(["", *places, "lakefeed / memfs", "lakefeed / ratarmount"], lines)


def chosen(rows: list[Row], words: list[str]) -> list[Row]:
    """Return the rows whose names hold one of the words; all without words."""
    return [row for row in rows if not words or any(word in row[0] for word in words)]


def compare(
    rows: list[Row],
    contestants: Callable[[ExitStack, Path], dict[str, Path]],
    base: Path,
    repeats: int,
) -> dict[str, dict[str, object]]:
    """Mount the contestants, measure, print."""
    with ExitStack() as stack:
        places = contestants(stack, base)
        found = measure(rows, places, repeats)
        print(shown(found, places))
    return found


def main() -> None:
    """Make the files, mount them all, run both parts, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a minute instead of half an hour")
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--big-gib", type=float, default=None)
    parser.add_argument("--rows", action="append", default=[], help="only rows with this word")
    options = parser.parse_args()
    shape = SMALL if options.small else Shape()
    if options.big_gib is not None:
        shape = Shape(**{**shape.__dict__, "big_bytes": int(options.big_gib * 2**30)})
    repeats = options.repeats or (1 if options.small else 3)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        base = Path(name)
        fill(base / "data", shape)
        archive = base / "tree.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(base / "data/tree", "tree")
        reading = chosen(reading_rows(shape), options.rows)
        writing = chosen(writing_rows(shape, archive), options.rows)
        read = compare(reading, readers, base, repeats) if reading else {}
        written = compare(writing, writers, base, repeats) if writing else {}
    if options.rows:
        return
    ratios = {
        row: {peer: ratio(found, "lakefeed", peer) for peer in ("memfs", "ratarmount")}
        for row, found in {**read, **written}.items()
    }
    result = {"shape": shape.__dict__, "repeats": repeats, "small": options.small,
              "reading": read, "writing": written, "ratios": ratios}  # fmt: skip
    print(harness.save("mount_small" if options.small else "mount", result))


if __name__ == "__main__":
    main()
