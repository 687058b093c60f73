"""The packing service keeps its promises between two real NFS clients, on v3 and v4.2."""

from __future__ import annotations

import pytest

from tests.nfs.conftest import Facts, of

pytestmark = [pytest.mark.nfs, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def service(facts: Facts) -> Facts:
    return of(facts, "service")


def test_i3_a_held_snapshot_stays_whole_while_the_other_client_rewrites_and_collects(
    service: Facts,
) -> None:
    found = service["held"]
    assert found["rewritten"][0] > 0
    assert found["held"] == found["held, nothing open"] == found["newest"] == "right"
    assert found["deleted afterwards"] > 0
    assert found["given up"] == "SnapshotExpired"


def test_i7_a_reader_whose_packs_were_compacted_and_collected_reads_the_same_bytes(
    service: Facts,
) -> None:
    found = service["moved"]
    assert found["rewritten"][0] > 0
    assert found["rewritten"][1] > 0
    assert found["before"] == found["moved"] == "right"


@pytest.mark.parametrize("way", ["ahead", "behind"])
def test_a_client_whose_clock_is_hours_off_does_no_harm(service: Facts, way: str) -> None:
    found = service["skew"][way]
    assert found["lease"] == "held"
    assert found["young orphan"] == "kept"
    assert (found["deleted"], found["horizon"]) == (0, 0)
    # The commit's time is the server's: seconds from ours, where the client is off by hours.
    assert abs(found["commit is off by"]) < 600


def test_an_inbox_that_two_clients_take_in_at_once_is_taken_in_once(service: Facts) -> None:
    found = service["replicas"]
    assert found["wrong"] == []
    assert found["left"] == []
    assert found["committed"] == found["dropped"] >= 120
    assert found["authors"] >= 2
