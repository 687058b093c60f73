"""What becomes of a mount's daemon when whoever starts it is interrupted."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest

from lakefeed.cli import mount_daemon
from lakefeed.cli.mount_daemon import Daemons
from tests.support.patience import PATIENCE_SECONDS


def test_an_interrupt_in_the_moment_of_starting_ends_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def interrupted(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
        started.append(start(["sleep", "1000"], **how))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    monkeypatch.setattr(mount_daemon.subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), Daemons() as starting:
        starting.begin(["mount"], None, mountpoint="anywhere").wait()
    (process,) = started
    try:
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGTERM
    finally:
        process.kill()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
