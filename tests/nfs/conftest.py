"""The `uml` fixture: run a guest program between a real NFS server and two real clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nfs import rig

Boot = Callable[..., rig.Result]
Facts = dict[str, Any]
# The last one restarts the server.
CHECKS = ["conformance", "visible", "moved", "service", "crowd", "fed", "lost_commits"]


@pytest.fixture(scope="session")
def _user_mode_linux(tmp_path_factory: pytest.TempPathFactory) -> None:
    reason = rig.why_not(tmp_path_factory.mktemp("uml-probe"))
    if reason is not None:
        pytest.skip(f"no real NFS here: {reason}")


@pytest.fixture(scope="session")
def uml(_user_mode_linux: None, tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """Return `boot("program", *args, **options)`: guest/program.py in a fresh guest.

    The options are those of `rig.Options`; the result's `value` is what its `main` returned.
    """

    def boot(program: str, *args: Any, **options: Any) -> rig.Result:
        scratch = Path(tmp_path_factory.mktemp(program))
        result = rig.boot(rig.GUEST / f"{program}.py", scratch, rig.Options(**options), *args)
        print(
            f"{program} {options}: host {result.host_seconds:.1f} s, guest"
            f" {result.guest_seconds:.1f} s of which {result.up_seconds:.1f} s to mount"
        )
        return result

    return boot


@pytest.fixture(scope="session", params=["3", "4.2"])
def vers(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def facts(uml: Boot, vers: str) -> Facts:
    """What all the checks found that go with the usual mounts, in one boot for each version."""
    return dict(uml("checks", CHECKS, vers=vers, timeout_seconds=600).value)


def of(facts: Facts, check: str) -> Facts:
    """Return what a check found; what it raised in the guest fails the test here."""
    assert facts[check]["failure"] is None, facts[check]["failure"]
    return dict(facts[check]["value"])
