"""Two ways to run the program: inside this process (quick) and as a process of its own (real)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lakefeed import Lake
from lakefeed.cli import app
from tests.support.patience import PATIENCE_SECONDS

FILES = {
    "a/b.txt": b"hello\n",
    "a/c/d.bin": bytes(range(256)) * 40,
    "a/c/e.txt": b"",
    "top.csv": b"x,y\n1,2\n",
}
# 2026-01-31T00:00:00Z
MTIME_NS = 1_769_817_600_000_000_000


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str
    data: bytes

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The documents on stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture
def run() -> Run:
    """Run a command in this process; a bug comes out as its exception."""

    def invoke(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        done = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ran(done.exit_code, done.stdout, done.stderr, done.stdout_bytes)

    return invoke


def command(*arguments: str | Path) -> Sequence[str]:
    """The words that start the program as a process."""
    return [sys.executable, "-m", "lakefeed", *map(str, arguments)]


@pytest.fixture
def process() -> Run:
    """Run a command as a process."""

    def start(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> Ran:
        done = subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
            env={**os.environ, **environment},
        )
        out = done.stdout.decode(errors="replace")
        return Ran(done.returncode, out, done.stderr.decode(), done.stdout)

    return start


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake with FILES, a symlink and an empty directory, in one commit."""
    where = tmp_path / "lake"
    with Lake.create(where) as made, made.writer(operation="import", message="first") as writer:
        for path, data in FILES.items():
            writer.put(path, data, mtime_ns=MTIME_NS, attrs={"label": path[0]})
        writer.symlink("link", "a/b.txt")
        writer.mkdir("empty")
    return where


def damage(lake: Path, needle: bytes) -> None:
    """Change one byte of a payload in whichever pack holds it."""
    for pack in lake.glob("packs/*/*.pack"):
        data = pack.read_bytes()
        at = data.find(needle)
        if at >= 0:
            pack.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            return
    raise AssertionError("no pack holds those bytes")
