"""JAX and Grain are tested in processes of their own.

JAX warns about every fork once it is loaded, and rightly: its threads do not survive one. Other
tests fork. So each file of cases runs under a pytest of its own, which knows the same rules; call
it directly to run one case: `pytest tests/adapters/alone/jax_cases.py -k flat`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cases", ["jax_cases.py", "grain_cases.py"])
def test_the_cases_hold(cases: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    # Not xdist's variables: they would make the inner run believe that it is a worker.
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [*command, str(HERE / "alone" / cases)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
