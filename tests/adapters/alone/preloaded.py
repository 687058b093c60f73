"""Processes that begin with TensorFlow loaded, to be killed or to train together.

Loading it takes several times as long as most of them work. So one process loads it, does nothing
else, and is forked for each: importing TensorFlow starts no thread, only using it does.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tests.adapters.alone.tf_worker"])


class Preloaded:
    """A process that does `work(*arguments, say)`. What it says comes out here, in order."""

    def __init__(self, process: BaseProcess, said: Connection, log: Path) -> None:
        self.process = process
        self.log = log
        self._said = said

    @classmethod
    def begin(
        cls,
        work: Callable[..., None],
        *arguments: Any,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Preloaded:
        """Start it; all that it prints goes to the log."""
        said, saying = _FORKED.Pipe(duplex=False)
        given = (work, arguments, saying, log, dict(environment or {}))
        process = _FORKED.Process(target=_work, args=given)
        process.start()
        saying.close()
        return cls(process, said, log)

    def sayings(self) -> Iterator[Any]:
        """What it says, until it ends or is killed."""
        with self._said:
            while True:
                try:
                    yield self._said.recv()
                except EOFError:
                    break
        self.process.join()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self.process.join()


def _work(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    saying: Connection,
    log: Path,
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    work(*arguments, saying.send)
