"""The rig shows the NFS behaviour that our code has to survive; each fact fails on its own.

One boot for each version gathers the facts (guest/selftest.py and friends), the tests judge them.
"""

from __future__ import annotations

import pytest

from tests.nfs.conftest import Boot, Facts

pytestmark = [pytest.mark.nfs, pytest.mark.slow]


@pytest.fixture(scope="module")
def facts(uml: Boot, vers: str) -> Facts:
    return dict(uml("selftest", vers=vers).value)


@pytest.fixture(scope="module")
def lost(uml: Boot, vers: str) -> Facts:
    return dict(uml("lost_replies", vers=vers, mount=False).value)


@pytest.fixture(scope="module")
def disk(uml: Boot) -> Facts:
    return dict(uml("disk_faults", vers="4.2", export="ext4").value)


def test_mounts_are_hard_with_default_caching(facts: Facts, vers: str) -> None:
    for options in facts["options"]:
        words = options.split(",")
        assert f"vers={vers}" in words
        assert "hard" in words
        assert not any(word.startswith(("ac", "noac", "lookupcache", "soft")) for word in words)


def test_a_lock_of_one_client_excludes_the_other_on_v4(facts: Facts, vers: str) -> None:
    # With equal client identifiers both would get it: the clients would not be two. On v3 the
    # mounts are `nolock`, so there both do get it, which is why no promise may rest on a lock.
    assert facts["locks"] == (["ok", "ok"] if vers == "3" else ["ok", "EAGAIN"])


def test_a_new_name_hides_behind_a_cached_miss_until_the_folder_is_opened(facts: Facts) -> None:
    seen = facts["hidden name"]
    assert seen["before"] == seen["after"] == seen["by open"] == "ENOENT"
    assert seen["after opening the folder"] == "ok"


def test_on_v3_a_name_made_in_the_tick_of_the_miss_hides_until_the_folder_changes_again(
    facts: Facts, vers: str
) -> None:
    # v3 tells a changed folder by its time stamp alone, and the server's clock ticks in
    # milliseconds. Two changes in one tick look like one, for as long as nothing else changes.
    seen = facts["hidden in one tick"]
    assert seen["after opening the folder"] == ("ENOENT" if vers == "3" else "ok")
    assert seen["after the folder's time moved"] == "ok"


def test_link_and_exclusive_create_have_one_winner(facts: Facts) -> None:
    assert facts["one winner"] == {
        "links": ["ok", "EEXIST"],
        "winner": "first",
        "exclusive": ["ok", "EEXIST"],
        "crowd": ["EEXIST", "EEXIST", "EEXIST", "ok"],
    }


def test_only_the_change_time_tells_how_old_a_file_is_that_is_being_made(facts: Facts) -> None:
    # The mtime is the CREATE's verifier until the client sets it: jiffies, taken for a date.
    ages = facts["being made"]
    assert abs(ages["ctime"]) < 10
    assert abs(ages["mtime"]) > 10**6


def test_a_file_renamed_over_another_is_seen_once_the_folder_is_opened(facts: Facts) -> None:
    assert facts["renamed over"]["before"] == "old"
    assert facts["renamed over"]["after opening the folder"] == "new"


def test_a_file_deleted_by_the_other_client_goes_stale_on_v3(facts: Facts, vers: str) -> None:
    assert facts["deleted"]["read"] == ("ESTALE" if vers == "3" else "ok")


def test_unnamed_files_are_refused(facts: Facts) -> None:
    assert facts["refused"]["tmpfile"] == "ENOTSUP"


def test_a_late_cable_is_late(facts: Facts) -> None:
    # Ten creations of at least one round trip each, sent 20 ms late.
    assert facts["delay"]["late"] > facts["delay"]["plain"] + 0.2


def test_the_caller_of_a_link_whose_reply_was_lost_is_told_it_failed(
    lost: Facts, vers: str
) -> None:
    # v4.1 and later replay the reply from the session's slot: there the caller learns the truth.
    assert lost["dropped"]["LINK"] >= 1
    assert lost["told"]["link"] == ("EEXIST" if vers == "3" else "ok")
    assert lost["links"] == 2


def test_after_a_server_restart_a_lost_reply_is_lost_on_every_version(lost: Facts) -> None:
    assert lost["told after restart"] == "EEXIST"
    assert lost["links after restart"] == 2


def test_other_calls_whose_reply_was_lost_fail_on_v3_although_done(lost: Facts, vers: str) -> None:
    told = {name: lost["told"][name] for name in ("mkdir", "rename", "unlink")}
    done = {"mkdir": "ok", "rename": "ok", "unlink": "ok"}
    denied = {"mkdir": "EEXIST", "rename": "ENOENT", "unlink": "ENOENT"}
    assert told == (denied if vers == "3" else done)


def test_creating_survives_a_lost_reply(lost: Facts) -> None:
    # An exclusive create carries a verifier, so the server knows its own client again.
    assert lost["told"]["create"] == lost["told"]["create exclusively"] == "ok"


def test_a_power_cut_of_the_server_keeps_only_what_was_synced(disk: Facts) -> None:
    assert disk["power cut"] == ["synced by the client"]


def test_a_disk_that_drops_writes_loses_synced_files(disk: Facts) -> None:
    assert disk["lying disk"] == ["synced by the client"]


def test_a_slow_disk_delays_a_sync_and_a_broken_one_fails_it(disk: Facts) -> None:
    assert disk["seconds"]["slow"] > disk["seconds"]["plain"] + 0.1
    assert disk["broken disk"] == "EIO"
