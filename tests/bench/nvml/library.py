"""Compiles the stand-in, and has the real bindings speak to it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pynvml
import pytest

_SOURCE = Path(__file__).with_name("standin.c")

# What `Standin.refuse` names, in the order of `standin.c`.
HANDLE, UTILIZATION, POWER, ENERGY, GPM, METRIC, PROCESS, SHUTDOWN = range(8)


def compiled(directory: Path) -> Path:
    """Return the stand-in as a shared library, under the name of the real one."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = directory / "libnvidia-ml.so.1"
    if not made.exists():
        flags = ("-std=gnu11", "-Wall", "-Werror", "-shared", "-fPIC")
        subprocess.run([compiler, *flags, "-o", made, _SOURCE], check=True, timeout=60)
    return made


class Standin:
    """The stand-in in this process, as many GPUs as a test wants."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def has(self, gpus: int) -> None:
        """Begin anew with so many GPUs."""
        self._library.standin_reset(gpus)

    def refuse(self, gpu: int, call: int, code: int) -> None:
        """Let a call return an error for one GPU."""
        self._library.standin_return(gpu, call, code)

    def cut(self, gpu: int) -> None:
        """Cut a GPU into two MIG instances."""
        self._library.standin_cut(gpu)

    def make_old(self, gpu: int) -> None:
        """Make a GPU older than Hopper: no GPM, no MIG, no energy counter."""
        self._library.standin_old(gpu)

    def run_process(self, gpu: int, pid: int, part: int = -1) -> None:
        """Let a process compute on a GPU, or on one of its MIG instances."""
        self._library.standin_process(gpu, part, pid)

    def left(self) -> tuple[int, int, int]:
        """Return how often it is open, how many samples live, how many calls were wrong."""
        library = self._library
        return library.standin_opened(), library.standin_samples(), library.standin_wrong()


def lent(path: Path, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """Return the stand-in, behind the real bindings until the test ends."""
    standin = Standin(path)
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(path)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return standin


class _Older:
    """A library without one of its functions, as an older driver's."""

    def __init__(self, library: Any, missing: str) -> None:
        self._library = library
        self._missing = missing

    def __getattr__(self, name: str) -> Any:
        if name == self._missing:
            raise AttributeError(name)
        return getattr(self._library, name)


def take_away(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library that was lent lack a function."""
    monkeypatch.setattr(pynvml, "nvmlLib", _Older(pynvml.nvmlLib, name))
