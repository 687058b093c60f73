"""What `benchmarks.service` puts to work: the daemon, who drops files, who writes them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from lakefeed import Lake
from lakefeed.lake.batch import PutHandle

FILE_BYTES = 4096
SETTLE_SECONDS = 600.0


@contextmanager
def compactd(lake: Path, *words: str) -> Iterator[None]:
    """Run the service while the block runs; it ends in good order."""
    command = [sys.executable, "-m", "lakefeed", "compactd", str(lake), *words,
               "--listen", "127.0.0.1:0", "--gc-interval", "0s", "--scrub-interval", "0s",
               "--interval", "2s"]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        daemon = subprocess.Popen(command, stderr=log)
        try:
            yield
        finally:
            daemon.terminate()
            code = daemon.wait(120)
            if code:
                log.seek(0)
                sys.exit(f"compactd ended with {code}: {log.read().decode()[-2000:]}")


def settle(lake: Path) -> None:
    """Let the service finish everything that it would do in time."""
    done = subprocess.run(
        [sys.executable, "-m", "lakefeed", "compactd", str(lake), "--once", "--packs-min", "2",
         "--gc-interval", "0s", "--keep", "365d"],
        capture_output=True, text=True, check=False, timeout=SETTLE_SECONDS,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    with Lake.open(lake) as opened:
        opened.merge_index(everything=True)


def produce(inbox: str, first: int, count: int, times: str) -> None:
    """Drop files of 4 KiB, renamed into place; note when each was there."""
    data = bytearray(np.random.default_rng(first).bytes(FILE_BYTES))
    dropped = np.zeros(count, np.int64)
    for at in range(count):
        number = first + at
        directory = f"{inbox}/{number // 1000:06d}"
        if at % 1000 == 0:
            os.makedirs(directory, exist_ok=True)
        # No two files alike, or their checksums would cost nothing in the index.
        data[:8] = number.to_bytes(8, "little")
        hidden = f"{directory}/.{number}.part"
        with open(hidden, "wb", buffering=0) as file:
            file.write(data)
        os.rename(hidden, f"{directory}/{number}")
        dropped[at] = time.time_ns()
    np.save(times, dropped)


def write_files(where: str, first: int, count: int, results: Any) -> None:
    """Put files through one Writer; note how long some of them took to be durable."""
    data = np.random.default_rng(first).bytes(FILE_BYTES)
    waiting: SimpleQueue[tuple[float, PutHandle] | None] = SimpleQueue()
    seconds: list[float] = []

    def watch() -> None:
        while (one := waiting.get()) is not None:
            began, handle = one
            handle.wait()
            seconds.append(time.perf_counter() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Lake.open(where) as lake, lake.writer() as writer:
        for number in range(first, first + count):
            unlike = number.to_bytes(8, "little") + data[8:]
            handle = writer.put(f"w/{number // 1000:06d}/{number}", unlike)
            if number % 50 == 0:
                waiting.put((time.perf_counter(), handle))
    waiting.put(None)
    watcher.join()
    results.put(seconds)


def wait_until(fact: Callable[[], bool]) -> None:
    """Return once a fact is true."""
    deadline = time.monotonic() + SETTLE_SECONDS
    pause = threading.Event()
    while not fact():
        if time.monotonic() > deadline:
            sys.exit("it never happened")
        pause.wait(0.2)
