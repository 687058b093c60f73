"""What the markers mean: `root` skips without root, `nfs` keeps one rig on one worker.

Hypothesis prints how to replay a failure, and asserts nothing about time: a busy machine is no bug.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.threads import Threads

settings.register_profile(
    "lakefeed", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lakefeed")

# In the background of a script (`make test &`) Ctrl-C is ignored, here and in all that is started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads of OpenMP spin while they wait for each other, and here three processes share two
# processors: half of torch's seconds went there. Read when a library is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).parent

# Their threads do not survive a fork, and other tests fork (`tests/test_alone.py`).
NEVER_FORKED = {"tensorflow", "jax"}


@pytest.fixture(autouse=True)
def forkable(request: pytest.FixtureRequest) -> Iterator[None]:
    """What must not be forked is loaded only by the files that have a process of their own."""
    yield
    loaded = NEVER_FORKED & sys.modules.keys()
    assert not loaded or request.path.parent.name == "alone", f"{loaded} belong into alone/"


@pytest.fixture
def threads() -> Threads:
    """The package's threads that begin in this test."""
    return Threads()


def pytest_collection(session: pytest.Session) -> None:
    """Each worker begins with a share of its own, and finds the others' shares compiled.

    All collect the same in the same order: side by side each would rewrite and compile every test.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker or session.config.args != ["tests"]:
        return
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    share = sorted(TESTS.rglob("test_*.py"))[int(worker.removeprefix("gw")) :: workers]
    for path in share:
        name = ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
        # What it says comes up again, and is reported, when the file is collected.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(name)


# First: xdist reads the groups in the same hook, and would not see one that comes later.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The rig boots once and its kernel has one CPU: two workers would boot two.
        if item.get_closest_marker("nfs"):
            item.add_marker(pytest.mark.xdist_group("nfs"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root (loop devices, mounts)"))
    # Minutes each: begun last, one of them would keep the run waiting when all else is done.
    items.sort(key=lambda item: item.path.name != "test_alone.py")
