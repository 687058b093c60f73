"""Runs the programs of these tests, which begin writers, readers and daemons that never end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def play(program: str, config: Any, seconds: float) -> str:
    """Return what a program prints that does what its `Config` says.

    When it takes longer, or the test is interrupted, it is killed, and with it all that it began.
    """
    with subprocess.Popen(
        [sys.executable, "-m", f"tests.survival.{program}", json.dumps(asdict(config))],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        try:
            said, complaints = running.communicate(timeout=seconds)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    assert running.returncode == 0, f"{config}: {complaints}"
    return said
