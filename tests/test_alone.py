"""What loads TensorFlow or JAX is tested under a pytest of its own, which knows the same rules.

Both start threads that do not survive a fork, and what they leave behind in a forked child aborts
it sooner or later. Other tests fork. So whatever loads them into its own process is a file
`alone/…_cases.py`; call it directly to run one case:
`pytest tests/adapters/alone/jax_cases.py -k flat`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CASES = sorted(TESTS.glob("*/alone/*_cases.py"))
# TensorFlow takes longer to load than many of its cases: one process has all of them.
TF = [path for path in CASES if "mark.tf" in path.read_text()]
PROGRAMS = [TF, *([path] for path in CASES if path not in TF)]
SECONDS_MAX = 1200  # for each file
# For all files of a process: within the calls of such a library nothing else ends what hangs.
ALL_SECONDS_MAX = 4000


def name(files: list[Path]) -> str:
    return "tensorflow" if files is TF else str(files[0].relative_to(TESTS))


@pytest.mark.slow
@pytest.mark.timeout(ALL_SECONDS_MAX + 20)
@pytest.mark.parametrize("files", PROGRAMS, ids=name)
def test_the_cases_hold(files: list[Path]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    # Not xdist's variables: they would make the inner run believe that it is a worker.
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [*command, *map(str, files)],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=min(SECONDS_MAX * len(files), ALL_SECONDS_MAX),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
