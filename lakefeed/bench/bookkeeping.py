"""What DLIO does between steps besides waiting for data, done here too, so that AU compares.

An accelerator utilisation that MLPerf Storage publishes was measured by DLIO, whose loop costs
something itself: for each step it writes a line to a log file and to standard error, through
Python's logging with the caller's file and line, and passes half a dozen tracing decorators. On
two cores that takes some 0.17 ms a step: half a point of AU for RetinaNet, 4 or more for CosmoFlow,
30 for DLRM, with any storage whatever. The `dlio` harness does such work as well, really: the same
line through the same handlers, and lines of JSON in place of the decorators and of what DLIO spends
to pass its line on. How many stand at which place was set by what DLIO's own record of its steps
says they take there (docs/BENCH.md has both). `lean` leaves it all out.

Each rank writes into a temporary directory that goes away with it, below that of its run: a rank
that is ended leaves its own behind. Both files begin anew now and then, or a
long run would fill the disk that temporary files lie on.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from datetime import datetime

from lakefeed.closing import Closing

# While a batch is taken, between the batch and compute, and behind the log's line: as much work as
# DLIO 2.0.0 does there, 22, 40 and 75 microseconds with the line. Benchmark `accelerators` compares
# the outcome with DLIO's own.
EVENTS_OF_LOADING = 16
EVENTS_OF_COMPUTE = 26
EVENTS_OF_LOGGING = 7
# 7 kB each, mostly of the trace: a run of MLPerf Storage's size would leave gigabytes a rank.
STEPS_KEPT = 1000


class Bookkeeping(Closing):
    """The log and the trace of one rank, in a directory of its own below `scratch`."""

    def __init__(self, rank: int, scratch: str | None = None) -> None:
        self._rank = rank
        self._directory = tempfile.TemporaryDirectory(prefix="lakefeed-bench-", dir=scratch)
        self._logger = logging.Logger(f"lakefeed.bench.rank{rank}", logging.INFO)
        text = logging.Formatter("[%(levelname)s] %(message)s [%(pathname)s:%(lineno)d]")
        # DLIO's second handler writes to standard error, line by line; nobody wants to see it here.
        self._log, self._trace, self._nowhere = (
            open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close
            for path in (*self._paths("log", "trace"), os.devnull)
        )
        for stream in (self._log, self._nowhere):
            handler = logging.StreamHandler(stream)
            handler.setFormatter(text)
            self._logger.addHandler(handler)
        self._steps = 0

    def _paths(self, *names: str) -> list[str]:
        return [os.path.join(self._directory.name, name) for name in names]

    def fetched(self, step: int) -> None:
        """Note that a batch has come."""
        self._events(step, EVENTS_OF_LOADING)

    def computing(self, step: int, samples: int, seconds: float) -> None:
        """Note that compute begins; the line is below the log's level."""
        self._logger.debug(f"{_now()} Rank {self._rank} step {step}: loaded {samples} in {seconds}")
        self._events(step, EVENTS_OF_COMPUTE)

    def processed(self, step: int, samples: int, seconds: float) -> None:
        """Note that a step is done, in the log."""
        self._logger.info(
            f"{_now()} Rank {self._rank} step {step} processed {samples} samples in {seconds} s"
        )
        self._events(step, EVENTS_OF_LOGGING)
        self._steps += 1
        if self._steps % STEPS_KEPT == 0:
            for file in (self._log, self._trace):
                file.seek(0)
                file.truncate()

    def _events(self, step: int, count: int) -> None:
        for number in range(count):
            now = time.time_ns() // 1000
            self._trace.write(
                f'{{"id": {step}, "name": "event{number}", "cat": "bench", "pid": {os.getpid()}, '
                f'"ts": {now}, "dur": 1, "ph": "X", "args": {{"step": {step}, "epoch": 1}}}}\n'
            )

    def close(self) -> None:
        """Close the files and remove them. Works twice."""
        for handler in list(self._logger.handlers):
            self._logger.removeHandler(handler)
            handler.close()
        for file in (self._log, self._trace, self._nowhere):
            file.close()
        self._directory.cleanup()


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%dT%H:%M:%S.%f")
