"""A writable mount of a lake on NFS keeps what it called durable when server and client lose power.

The daemon is the one that a user runs, its kernel a real NFS client, the server's disk an ext4.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.nfs.conftest import Boot

pytestmark = [
    pytest.mark.nfs,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("pyfuse3") is None, reason="needs pyfuse3"),
]

SEED = int(os.environ.get("LAKEFEED_SEED", int.from_bytes(os.urandom(3), "little")))


def test_what_is_durable_on_a_mount_survives_power_cuts_of_server_and_client(
    uml: Boot, vers: str
) -> None:
    found = uml("mount_power", SEED, vers=vers, export="ext4", timeout_seconds=400).value
    assert found["broken"] == [], f"seed {SEED}"
    first, second = found["at the cuts"]
    assert 0 < first < second, "nothing went on after the server's power cut"
    assert found["files"] > 0
