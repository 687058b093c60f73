"""What the benchmark of the mount does to a directory, from one process or several.

Each function does its share of a row and returns how much it did; `timed` runs it in processes that
start together and returns the time until the last one is done.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_fork = multiprocessing.get_context("fork")
Share = tuple[int, int]


def shuffled(names: list[str], share: Share) -> list[str]:
    """Return this process's part of the names, in an order that no read-ahead likes."""
    mine = names[share[0] :: share[1]]
    random.Random(share[0]).shuffle(mine)
    return mine


def read_files(directory: Path, names: list[str], share: Share) -> int:
    """Open, read and close files; return how many."""
    mine = shuffled(names, share)
    for name in mine:
        handle = os.open(f"{directory}/{name}", os.O_RDONLY)
        while os.read(handle, 1 << 18):
            pass
        os.close(handle)
    return len(mine)


def stat_files(directory: Path, names: list[str], share: Share) -> int:
    """Ask for the attributes of files; return how many."""
    mine = shuffled(names, share)
    for name in mine:
        os.stat(f"{directory}/{name}")
    return len(mine)


def scan(directory: Path, share: Share) -> int:
    """List a directory; return how many names it has."""
    with os.scandir(directory) as found:
        return sum(1 for _ in found)


def scan_with_stat(directory: Path, share: Share) -> int:
    """List a directory with the attributes of everything in it, as `ls -l` does."""
    with os.scandir(directory) as found:
        return sum(1 for entry in found if entry.stat(follow_symlinks=False).st_mode)


def forget(path: Path) -> None:
    """Drop a file's pages from the page cache; those of the files below a FUSE mount stay."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(path: Path, share: Share) -> int:
    """Read a file from beginning to end; return its bytes."""
    buffer = bytearray(1 << 20)
    total = 0
    with open(path, "rb", buffering=0) as file:
        while done := file.readinto(buffer):
            total += done
    return total


def find(directory: Path, share: Share) -> int:
    """Run find(1); return how many names it printed."""
    done = subprocess.run(["find", directory], capture_output=True, check=True)
    return done.stdout.count(b"\n")


def tar_out(directory: Path, share: Share) -> int:
    """Pack a tree with tar(1); return the bytes that came out."""
    with subprocess.Popen(["tar", "cf", "-", "-C", directory, "."], stdout=subprocess.PIPE) as tar:
        counted = subprocess.run(["wc", "-c"], stdin=tar.stdout, capture_output=True, check=True)
        assert tar.wait() == 0
    return int(counted.stdout)


def tar_in(archive: Path, directory: Path, share: Share) -> int:
    """Unpack a tree with tar(1), into a new directory; return the number of files and more."""
    target = directory / f"untar-{time.time_ns()}"
    target.mkdir()
    command = ["tar", "xf", archive, "-C", target, "--no-same-owner"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return sum(len(files) for _, _, files in os.walk(target))


def create_files(directory: Path, count: int, share: Share) -> int:
    """Create, write and close files of 4 KiB in a new directory; return how many."""
    target = directory / f"create-{share[0]}-{time.time_ns()}"
    target.mkdir()
    data = os.urandom(4096)
    for number in range(count):
        handle = os.open(f"{target}/{number:06d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(handle, data)
        os.close(handle)
    return count


def _work(pipe: Any, ready: Any, action: Callable[[Share], int], share: Share) -> None:
    ready.wait()
    began = time.perf_counter()
    done = action(share)
    pipe.send((began, done, time.perf_counter()))
    pipe.close()


def timed(action: Callable[[Share], int], processes: int = 1) -> tuple[float, int]:
    """Return the seconds from the first start to the last end, and the sum of what was done."""
    ready = _fork.Barrier(processes + 1)
    pipes, workers = [], []
    for number in range(processes):
        mine, theirs = _fork.Pipe(duplex=False)
        worker = _fork.Process(target=_work, args=(theirs, ready, action, (number, processes)))
        worker.start()
        theirs.close()
        pipes.append(mine)
        workers.append(worker)
    ready.wait()
    results = [pipe.recv() for pipe in pipes]
    for worker in workers:
        worker.join()
    began, ended = min(r[0] for r in results), max(r[2] for r in results)
    return ended - began, sum(r[1] for r in results)
