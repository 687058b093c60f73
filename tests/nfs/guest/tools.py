"""Small helpers of the guest: run a command, fork a child that returns a value, wait for a fact."""

from __future__ import annotations

import errno
import os
import pickle
import select
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def sh(*command: str, timeout_seconds: float = 60) -> str:
    """Return what the command printed; a non-zero exit is a RuntimeError with that text."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def outcome(call: Callable[..., Any], *args: Any) -> str:
    """Return "ok", or the name of the errno that the call ended with."""
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


@dataclass
class Child:
    """A forked process that computes one value. Forking skips imports, which are slow in here."""

    pid: int
    pipe_fd: int
    status: int | None = None

    @classmethod
    def start(cls, work: Callable[..., Any], *args: Any) -> Child:
        """Fork and run `work(*args)`. The caller must still be single-threaded."""
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_fd)
            _report(write_fd, work, args)
        os.close(write_fd)
        return cls(pid, read_fd)

    def kill(self) -> None:
        """End the child as `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)

    def done(self, timeout_seconds: float = 0) -> bool:
        """Say whether the child has written its value or is gone."""
        return bool(select.select([self.pipe_fd], [], [], timeout_seconds)[0])

    def value(self, timeout_seconds: float = 120) -> Any:
        """Return the child's value; its exception comes out here, a killed child gives None."""
        deadline = time.monotonic() + timeout_seconds
        data = b""
        while True:
            if not self.done(max(0.0, deadline - time.monotonic())):
                stack = _where(self.pid)
                self.kill()
                raise TimeoutError(f"child {self.pid} gave nothing in {timeout_seconds} s: {stack}")
            piece = os.read(self.pipe_fd, 1 << 16)
            if not piece:
                break
            data += piece
        os.close(self.pipe_fd)
        _, self.status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(self.status):
            return None
        value, failure = pickle.loads(data)
        if failure is not None:
            raise RuntimeError(f"child {self.pid} failed:\n{failure}")
        return value


def _report(write_fd: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    value, failure = None, None
    try:
        value = work(*args)
    except BaseException:
        failure = traceback.format_exc()
    with os.fdopen(write_fd, "wb") as pipe:
        pickle.dump((value, failure), pipe)
    os._exit(0)


def _where(pid: int) -> str:
    """Return where in the kernel a stuck process waits."""
    try:
        with open(f"/proc/{pid}/wchan") as wchan, open(f"/proc/{pid}/stack") as stack:
            return f"{wchan.read()} {stack.read()}"
    except OSError as error:
        return str(error)


def wait_until(
    fact: Callable[[], bool], timeout_seconds: float, step_seconds: float = 0.05
) -> bool:
    """Return whether `fact()` became true in time, for kernel state that has no event."""
    deadline = time.monotonic() + timeout_seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(step_seconds)
    return True
