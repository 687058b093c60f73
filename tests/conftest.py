"""What the markers mean: `root` skips without root, `nfs` keeps one rig on one worker.

Hypothesis prints how to replay a failure, and asserts nothing about time: a busy machine is no bug.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support.threads import Threads

settings.register_profile(
    "lakefeed", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lakefeed")


@pytest.fixture
def threads() -> Threads:
    """The package's threads that begin in this test."""
    return Threads()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The rig boots once and its kernel has one CPU: two workers would boot two.
        if item.get_closest_marker("nfs"):
            item.add_marker(pytest.mark.xdist_group("nfs"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root (loop devices, mounts)"))
