"""`lakefeed doctor` on a real kernel NFS mount, and the kernel's own counters of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nfs.conftest import Boot

pytestmark = [pytest.mark.nfs, pytest.mark.slow]


@pytest.fixture(scope="module")
def facts(uml: Boot, vers: str) -> dict[str, Any]:
    options = "soft,rsize=65536" if vers == "3" else "nconnect=4,lookupcache=positive"
    return dict(uml("examined", vers=vers, mount_options=options).value)


def levels(facts: dict[str, Any]) -> dict[str, str]:
    return {verdict["name"]: verdict["level"] for verdict in facts["examined"]["verdicts"]}


def test_options_of_a_real_mount_are_judged(facts: dict[str, Any], vers: str) -> None:
    found = levels(facts)
    assert facts["version"] == vers
    if vers == "3":
        assert found["soft"] == "bad"
        assert found["rsize"] == found["nconnect"] == found["lookupcache"] == "warning"
    else:
        assert found["soft"] == found["nconnect"] == found["lookupcache"] == "ok"


def test_a_real_server_links_renames_and_agrees_on_time(facts: dict[str, Any]) -> None:
    found = levels(facts)
    assert found["link"] == found["rename"] == found["exclusive create"] == "ok"
    assert found["clock"] == "ok"
    assert found["root_squash"] == "ok"


def test_the_kernel_counts_what_was_written(facts: dict[str, Any], vers: str) -> None:
    done = {row["operation"]: row for row in facts["done"]}
    opened = "CREATE" if vers == "3" else "OPEN"
    assert done[opened]["calls"] >= 20
    assert done["WRITE"]["calls"] >= 20
    assert done["WRITE"]["sent_bytes"] >= 20 * 8192
    assert done["WRITE"]["round_trip_seconds"] >= 0
    assert done["MKDIR" if vers == "3" else "CREATE"]["calls"] >= 1


def test_probes_leave_nothing_behind(facts: dict[str, Any]) -> None:
    assert not [name for name in facts["left"] if name.startswith(".lakefeed")]
