"""Processes that measure: how they start, whatever comes in between."""

from __future__ import annotations

import signal
import threading
from multiprocessing.process import BaseProcess
from types import SimpleNamespace
from typing import cast

import pytest

from lakefeed.bench import processes
from lakefeed.bench.processes import LOOK_SECONDS, Patience, start


class _Interrupted:
    """A process in whose start Ctrl-C comes, heard by another thread than ours."""

    def __init__(self) -> None:
        self._begun, self._heard = threading.Event(), threading.Event()
        self._other = threading.Thread(target=self._hear)
        self._other.start()
        self.inherited: set[int] = set()

    def _hear(self) -> None:
        self._begun.wait()
        signal.raise_signal(signal.SIGINT)
        self._heard.set()

    def start(self) -> None:
        self._begun.set()
        self._heard.wait()
        self._other.join()
        self.inherited = {*signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_ctrl_c_waits_until_a_process_has_started_and_is_noted() -> None:
    one = _Interrupted()
    started: list[BaseProcess] = []
    with pytest.raises(KeyboardInterrupt):
        start(cast("BaseProcess", one), started)
    assert started == [one]
    assert signal.SIGINT in one.inherited  # so the server does not die of it while it imports
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_time_for_which_a_process_was_stopped_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    patience, waited = Patience(), []
    for seen, later in [(1, 0.5), (1, 0.5), (1, 0.25), (1, 3600.0), (1, 0.5), (2, 0.5), (2, 0.5)]:
        clock[0] += later * LOOK_SECONDS
        waited.append(patience.looked(seen) / LOOK_SECONDS)
    assert waited == [0, 0.5, 0.75, 1.75, 2.25, 0, 0.5]
