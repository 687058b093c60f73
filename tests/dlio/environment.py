"""An environment for DLIO beside the project's own, made on first use.

DLIO 2.0.0 declares packages that clash with everybody's (a DALI of 2021, any TensorFlow), so it is
installed without its dependencies, into `.venv-dlio`, and finds torch, TensorFlow, numpy and the
rest in the environment that runs the tests. What it needs beside them takes 60 MB: pydftracer of
exactly the version that its imports fit, hydra, and Open MPI as a wheel.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
WHERE = ROOT / ".venv-dlio"
WITHOUT_DEPENDENCIES = ("dlio_benchmark==2.0.0", "pydftracer==1.0.2")
WITH_DEPENDENCIES = ("hydra-core>=1.3", "omegaconf", "mpi4py>=4", "openmpi>=5")


class NotInstallable(Exception):
    """Why DLIO cannot be had here; a reason to skip."""


def environment() -> Path:
    """Return the directory of its programs, made if it is missing; NotInstallable says why not."""
    wanted = "\n".join((sys.version, sys.prefix, *WITHOUT_DEPENDENCIES, *WITH_DEPENDENCIES))
    stamp = WHERE / "complete"
    with (ROOT / ".venv-dlio.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes, one installation
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _install()
            stamp.write_text(wanted)
    return WHERE / "bin"


def _install() -> None:
    _call(sys.executable, "-m", "venv", "--clear", "--without-pip", str(WHERE))
    (packages,) = WHERE.glob("lib/python*/site-packages")
    # Behind its own packages, so that those come first.
    (packages / "zz_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (str(WHERE / "bin/python"), "-m", "pip", "install", "-q", "--no-input")
    _call(*pip, "--no-deps", *WITHOUT_DEPENDENCIES)
    _call(*pip, *WITH_DEPENDENCIES)
    _call(str(WHERE / "bin/python"), "-c", "import dlio_benchmark, mpi4py.MPI, hydra")


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstallable(f"{' '.join(command[-3:])}: {said[-1] if said else 'failed'}")
