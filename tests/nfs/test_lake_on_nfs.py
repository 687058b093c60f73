"""The lake keeps its promises between two real NFS clients, on v3 and v4.2 with default options.

One boot for each version runs all the checks (tests/nfs/guest), each test here judges one of them.
"""

from __future__ import annotations

import pytest

from tests.nfs.conftest import Boot, Facts, of

pytestmark = [pytest.mark.nfs, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def after_power_cuts(uml: Boot, vers: str) -> Facts:
    return dict(uml("checks", ["power"], vers=vers, export="ext4", timeout_seconds=240).value)


def assert_whole(lake: Facts) -> None:
    """Nothing acknowledged is lost, no byte is wrong, and the history has no gap."""
    assert lake["acknowledged"] > 0
    assert lake["lost"] == []
    assert lake["wrong"] == []
    assert lake["chain is total"]


def test_a_volume_on_nfs_keeps_every_promise(facts: Facts) -> None:
    found = of(facts, "conformance")
    assert found["failed"] == {}
    assert found["passed"] > 30
    assert found["exit code"] == 0


def test_a_new_lake_is_found_by_a_client_that_looked_for_it_before(facts: Facts) -> None:
    assert of(facts, "visible")["there"] == [False, True]


def test_each_commit_is_seen_by_the_next_refresh_of_the_other_client(facts: Facts) -> None:
    assert of(facts, "visible")["late commits"] == []


def test_commits_would_be_missed_on_v3_if_the_log_were_not_touched(facts: Facts, vers: str) -> None:
    # The negative control of the test above: it can fail, and this is what keeps it from failing.
    late = of(facts, "visible")["late without the touch"]
    assert late > 0 if vers == "3" else late == 0


def test_tags_made_or_moved_are_seen_by_the_other_client_at_once(facts: Facts) -> None:
    assert of(facts, "visible")["late tags"] == []


def test_i3_a_pin_is_seen_by_a_collector_on_the_other_client_at_once(facts: Facts) -> None:
    assert of(facts, "visible")["late pins"] == []


def test_i2_no_commit_names_a_pack_that_the_other_client_removed(facts: Facts) -> None:
    assert "garbage collection took it" in of(facts, "visible")["commit of what the other removed"]


def test_i7_a_reader_whose_packs_were_moved_reads_the_same_bytes_elsewhere(facts: Facts) -> None:
    found = of(facts, "moved")
    assert found["before"] == found["moved"] == found["newest"] == "right"
    assert found["moved, nothing open"] in ("right", "SnapshotExpired")


def test_i7_a_reader_whose_files_are_gone_is_told_so_and_never_reads_wrong_bytes(
    facts: Facts, vers: str
) -> None:
    # A v4 server keeps a deleted file for the client that has it open; a v3 server cannot know.
    found = of(facts, "moved")
    assert found["replaced"] == ("SnapshotExpired" if vers == "3" else "right")
    assert found["replaced, nothing open"] == "SnapshotExpired"


def test_v8_what_a_feed_announces_is_fetched_at_once_and_once(facts: Facts) -> None:
    found = of(facts, "fed")
    assert found["takes hints"]
    assert found["fetches unread"]
    assert found["missing"] == []
    assert found["wrong"] == []
    # Headers of replies come on top; read twice it would be twice as much.
    assert found["received bytes"] < 1.5 * found["pack bytes"]


def test_writers_killed_at_random_on_both_clients_lose_nothing_acknowledged(facts: Facts) -> None:
    found = of(facts, "crowd")
    assert found["killed"] > 0
    assert_whole(found["c1"])
    assert_whole(found["c2"])


def test_a_reader_finds_all_that_the_other_client_was_promised_before_its_refresh(
    facts: Facts,
) -> None:
    for reader in of(facts, "crowd")["readers"]:
        assert reader["rounds"] > 0
        assert reader["missed"] == []


def test_i4_a_writer_whose_replies_are_lost_knows_what_it_committed(facts: Facts) -> None:
    for operation, found in of(facts, "lost_commits")["calls"].items():
        assert found["dropped"] > 0, operation
        assert found["failures"] == {}, operation
        assert found["acknowledged"] == found["written"] == [1, 2, 3, 4, 5], operation
        assert found["once"], operation
        assert found["readable"], operation
        assert found["tags"] == [["new", 1]], operation


def test_i4_a_writer_whose_link_was_forgotten_by_the_server_knows_it_committed(
    facts: Facts,
) -> None:
    # The one way to lose a reply on v4.1 and later: the server restarts before it is asked again.
    found = of(facts, "lost_commits")["restart"]
    assert found["acknowledged"] == found["written"] == [1, 2, 3, 4, 5]


def test_what_was_acknowledged_survives_power_cuts_of_the_server(after_power_cuts: Facts) -> None:
    found = of(after_power_cuts, "power")
    assert len(found["acknowledged at the cuts"]) == 2
    assert_whole(found["c1"])
    assert_whole(found["c2"])
