"""The volume's conformance suite on a real NFS mount: each promise, on client c1.

pytest runs inside the guest, on the same class of tests that every other volume passes.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from world import World

from lakefeed.volume.base import Volume
from lakefeed.volume.posix import PosixVolume
from tests.volume.conformance import VolumePromises

_root = Path("/run/c1")
_fresh = itertools.count()


class TestPosixOnNfs(VolumePromises):
    @pytest.fixture
    def volume(self) -> Volume:
        root = _root / f"volume{next(_fresh)}"
        root.mkdir()
        return PosixVolume(root)


class Verdicts:
    """A pytest plugin that keeps what came of each test."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid.rpartition("::")[2]] = report.longreprtext[-1500:]
        elif report.when == "call" and report.passed:
            self.passed += 1


def main(world: World) -> dict[str, Any]:
    verdicts = Verdicts()
    # Loading the plugins of the development environment takes longer than the tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-q", "--color=no", "--assert=plain", "-p", "no:cacheprovider"]
    ini = ["-c", "/dev/null", "--rootdir", "/run", "-o", "python_files=*.py"]
    code = pytest.main([*options, *ini, "--import-mode=importlib", __file__], plugins=[verdicts])
    return {"passed": verdicts.passed, "failed": verdicts.failed, "exit code": int(code)}
