"""The live view of `lakefeed top`: what a terminal shows while things come and go."""

from __future__ import annotations

import http.server
import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lakefeed.service.status import LakeStatus
from tests.cli.conftest import Run, command
from tests.support.patience import PATIENCE_SECONDS


class Daemon(http.server.ThreadingHTTPServer):
    """What a compactd says of itself, for as long as it is `up`."""

    def __init__(self, *lakes: LakeStatus) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.lakes = lakes
        self.up = True


class Answer(http.server.BaseHTTPRequestHandler):
    """One answer."""

    server: Daemon

    def do_GET(self) -> None:
        if not self.server.up:
            self.send_error(503)
            return
        self.send_response(200)
        self.end_headers()
        lakes = [one.facts() for one in self.server.lakes]
        self.wfile.write(json.dumps({"name": "replica", "lakes": lakes}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(*lakes: LakeStatus) -> Iterator[tuple[Daemon, str]]:
    with Daemon(*lakes) as daemon:
        thread = threading.Thread(target=daemon.serve_forever)
        thread.start()
        try:
            yield daemon, f"http://127.0.0.1:{daemon.server_port}"
        finally:
            daemon.shutdown()
            thread.join()


class Screen:
    """A terminal that remembers what was drawn on it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._drawn = b""

    def wait_for(self, text: str) -> None:
        """Return once a text is drawn; what was drawn up to there is forgotten."""
        while text.encode() not in self._drawn:
            self._drawn += os.read(self._fd, 1 << 16)
        self._drawn = self._drawn.split(text.encode(), 1)[1]


@pytest.mark.slow
def test_a_live_view_outlives_what_it_looks_at() -> None:
    status = LakeStatus("/lake", leader=True, token=7)
    with serving(status) as (daemon, url):
        ours, theirs = pty.openpty()
        words = command("top", url, "--interval", "100ms")
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs,
                              env=environment) as running:  # fmt: skip
            os.close(theirs)
            overdue = threading.Timer(PATIENCE_SECONDS, running.kill)
            overdue.start()
            try:
                screen = Screen(ours)
                screen.wait_for("leads, token 7")
                daemon.up = False
                screen.wait_for("last seen")
                screen.wait_for("503")
                screen.wait_for("leads, token 7")
                status.token = 8
                daemon.up = True
                screen.wait_for("leads, token 8")
                running.send_signal(signal.SIGINT)
                assert running.wait() == 130
            finally:
                overdue.cancel()
                running.kill()
                os.close(ours)


def test_a_small_terminal_shows_first_what_is_in_trouble_and_names_as_they_are(run: Run) -> None:
    well = LakeStatus("/mnt/[one]", leader=True)
    waits = LakeStatus("/mnt/two", holder="other/1 has it", last_failure={"inbox /[/a]": "gone"})
    with serving(well, waits) as (_, url):
        seen = run("top", url).out
    assert seen.index("/mnt/two") < seen.index("/mnt/[one]")
    assert "stands by: other/1 has it" in seen
    assert "failed: inbox /[/a]" in seen
