"""A power cut under a mount takes nothing that a program was told is durable.

The lake lies on an ext4 filesystem of its own, the mount is the daemon that a user runs, and the
programs that use it keep their journals on another disk.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from lakefeed import Lake
from tests.fuse.tools import is_mounted, is_running, mounted, needs_fuse, wait_until
from tests.support.patience import PATIENCE_SECONDS
from tests.survival.lakes import audit, files_of
from tests.survival.mounts import Image, cut_power, skip_for, why_no_loop
from tests.survival.programs import ROOT
from tests.survival.syncing import broken, durable

pytestmark = [needs_fuse, pytest.mark.slow, pytest.mark.root]

PROGRAMS = 2
SEED = int(os.environ.get("LAKEFEED_SEED", int.from_bytes(os.urandom(3), "little")))


@pytest.mark.parametrize("mode", ["fsync", "close"])
def test_what_is_durable_under_a_mount_survives_a_power_cut(mode: str, tmp_path: Path) -> None:
    skip_for(why_no_loop(tmp_path))
    numbers = random.Random(f"{SEED} {mode}")
    image = Image(tmp_path / "disk")
    journals = [tmp_path / f"w{number}.journal" for number in range(PROGRAMS)]
    with image.mounted() as disk:
        Lake.create(disk / "lake").close()
        _work_until_cut(disk, tmp_path / "mnt", journals, mode, numbers)
    with image.mounted() as disk:
        with Lake.open(disk / "lake") as lake:
            found = files_of(lake.snapshot())
        for journal in journals:
            assert not broken(journal, found), f"seed {SEED}"
        audit(disk / "lake")


def _work_until_cut(
    disk: Path, point: Path, journals: list[Path], mode: str, numbers: random.Random
) -> None:
    options = ("--sync", "close") if mode == "close" else ()
    with mounted(disk / "lake", point, "--rw", *options) as here, ExitStack() as stack:
        daemon = here.pid
        for number, journal in enumerate(journals):
            what = (point / journal.stem, journal, mode, SEED + number)
            command = [sys.executable, "-m", "tests.survival.syncing", *map(str, what)]
            program = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
            stack.callback(_end, program)
        wanted = numbers.randint(4, 60)
        wait_until(lambda: sum(map(durable, journals)) >= wanted)
        threading.Event().wait(numbers.uniform(0, 0.05))
        cut_power(disk)
        os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: not is_running(daemon) and not is_mounted(point))


def _end(program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.wait(PATIENCE_SECONDS)
