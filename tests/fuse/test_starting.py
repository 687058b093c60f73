"""What becomes of a mount's daemon when whoever starts it is interrupted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from typing import Any

import pytest

from lakefeed.cli import mount_daemon
from lakefeed.cli.mount_daemon import Daemon, Daemons, notify_systemd
from lakefeed.errors import VolumeFailed
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


def test_a_daemon_that_is_not_up_in_time_never_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def silent(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
        started.append(start(["sleep", "1000"], **how))
        return started[0]

    monkeypatch.setattr(mount_daemon.subprocess, "Popen", silent)
    monkeypatch.setattr(mount_daemon, "START_SECONDS", 0.0)
    with pytest.raises(VolumeFailed, match="anywhere"):
        Daemon(["mount"], None, mountpoint="anywhere").wait()
    (process,) = started
    assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


def test_a_notify_socket_may_have_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"lakefeed-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        channel.settimeout(PATIENCE_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify_systemd("READY=1")
        assert channel.recv(100) == b"READY=1"
