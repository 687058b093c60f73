"""Processes that use a lake until something stops them, and a way to fork them.

`write_forever` changes its own directory batch after batch and keeps a journal; `read_forever`
reads whatever is there and fails on any error or wrong byte. `forked` runs a function in a child
process and ends the child without any clean-up of the parent's.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from lakefeed import Lake, WriterOptions
from lakefeed.lake.batch import PutHandle
from lakefeed.lake.writer import Writer
from lakefeed.volume.base import Volume
from tests.survival.journal import Journal, Model, Step, after, content, id_of, plan
from tests.survival.lakes import files_of

# Merges run beside the writers all the time; a batch is a commit, by `flush` alone.
OPTIONS = WriterOptions(flush_age_seconds=3600.0, merge_after=12)


def forked(work: Callable[[], object]) -> int:
    """Return the id of a new process that does `work`; its exit code is 1 after an exception."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def write_forever(volume: Volume, journals: Path, directory: str) -> None:
    """Change one directory of a lake, batch after batch, until an error or the end of the process.

    A writer that lost a batch does not go on: the journal allows for one unknown outcome only.
    """
    numbers = random.Random(directory)
    journal = Journal(journals / f"{directory}.journal")
    model: Model = {}
    with Lake.open(volume) as lake, lake.writer(OPTIONS) as writer:
        for batch in itertools.count():
            steps = plan(numbers, directory, batch, model)
            journal.begin(steps)
            handles = [do(writer, step) for step in steps]
            writer.flush()
            journal.done(max(handle.wait() for handle in handles))
            model = after(model, steps)


def do(writer: Writer, step: Step) -> PutHandle:
    """Hand one step to the writer and return its handle."""
    if step.verb == "put":
        return writer.put(step.path, content(step.other))
    if step.verb == "rename":
        return writer.rename(step.path, step.other)
    return writer.delete(step.path)


def read_forever(volume: Volume, seed: int) -> None:
    """Read the newest snapshot and an older one, over and over; any error ends the process."""
    numbers = random.Random(seed)
    with Lake.open(volume) as lake:
        old = lake.snapshot()
        was = files_of(old)
        while True:
            snapshot = lake.snapshot()
            for data in files_of(snapshot).values():
                id_of(data)
            assert snapshot.number >= old.number
            assert files_of(old) == was
            if numbers.random() < 0.3:
                old, was = snapshot, files_of(snapshot)
