"""The `uml` fixture: run a guest program between a real NFS server and two real clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nfs import rig

Boot = Callable[..., rig.Result]


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
