"""Daemons as processes: started, asked over HTTP, stopped or killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


class Daemon:
    """One `lakefeed compactd`. Its log is read by a thread, so that it never waits for us."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "lakefeed", "compactd", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.lines: list[str] = []
        self._listening = threading.Event()
        self._port = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            match = re.search(r"listening on [\d.]+:(\d+)", line)
            if match:
                self._port = int(match[1])
                self._listening.set()
        self._listening.set()  # it never will: who waits shall fail now

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        assert self._listening.wait(PATIENCE_SECONDS) and self._port, self.log()
        return f"http://127.0.0.1:{self._port}"

    def log(self) -> str:
        """Everything that it has logged."""
        return "".join(self.lines)

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=PATIENCE_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self) -> dict[str, Any]:
        """Return what it says of its first lake."""
        facts: dict[str, Any] = json.loads(self.get("/status")[1])["lakes"][0]
        return facts

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Return its exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code

    def kill(self) -> None:
        """End it as kill -9 does. Works twice."""
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def compactd(*arguments: str | Path) -> Iterator[Daemon]:
    """Run a daemon; whatever happens it is gone afterwards."""
    daemon = Daemon(*arguments)
    try:
        yield daemon
    finally:
        daemon.kill()


def eventually(fact: Callable[[], object], what: str = "") -> None:
    """Return once a fact is true; an AssertionError if it does not become so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not fact():
        assert time.monotonic() < deadline, what or "it never happened"
        pause.wait(0.05)
