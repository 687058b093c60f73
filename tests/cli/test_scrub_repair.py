"""scrub, repair and top: what they say, what they change, how they end."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import threading
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import VolumeFailed
from lakefeed.format.commit import Changes
from lakefeed.lake import layout
from lakefeed.lake.log import CHECKPOINT_EVERY, Draft
from lakefeed.volume.posix import PosixVolume
from tests.cli.conftest import FILES, Run, damage


def test_scrub_says_what_it_verified(run: Run, lake: Path) -> None:
    done = run("scrub", lake)
    assert done.code == 0
    # Four files, one of them empty, and a symlink.
    assert done.out.startswith("verified 5 payloads, ")
    assert "round 1 is complete; 0 damaged payloads known" in done.out
    facts = run("scrub", lake, "--json").json
    assert facts["round"] == 2
    assert (facts["complete"], facts["payloads"], facts["damaged"]) == (True, 5, [])


def test_a_round_that_was_begun_goes_on_or_begins_anew(run: Run, lake: Path) -> None:
    for name in ("x", "y"):
        assert run("put", lake, __file__, name).code == 0
    assert run("scrub", lake).code == 0

    def scrub(*words: str) -> tuple[int, bool, int]:
        facts = run("scrub", lake, "--json", *words).json
        return facts["round"], facts["complete"], facts["packs"]

    assert scrub("--max-duration", "0s") == (2, False, 1)
    assert scrub() == (2, True, 2)
    assert scrub("--max-duration", "0s") == (3, False, 1)
    assert scrub("--restart")[1:] == (True, 3)


def test_scrub_ends_with_5_until_the_damage_is_gone(run: Run, lake: Path) -> None:
    damage(lake, b"hello\n")
    done = run("scrub", lake, "--max-duration", "1h")
    assert done.code == 5
    assert "damaged: a/b.txt in pack" in done.out
    later = run("scrub", lake, "--show", "--json")
    assert later.code == 5
    assert [one["path"] for one in later.json["damaged"]] == ["a/b.txt"]
    damage(lake, b"iello\n")
    assert run("scrub", lake).code == 0
    assert run("scrub", lake, "--show").out == "0 damaged payloads known\n"


def test_repair_of_a_sound_lake_changes_nothing(run: Run, lake: Path) -> None:
    before = sorted(lake.rglob("*"))
    assert run("repair", lake).out == "nothing to repair\n"
    assert sorted(lake.rglob("*")) == before


def test_repair_rebuilds_segments(run: Run, lake: Path) -> None:
    assert run("merge", lake).code == 0
    for segment in (lake / "index").iterdir():
        segment.unlink()
    assert run("ls", lake).code == 5
    dry = run("repair", lake, "--dry-run")
    assert "would rebuild the index from the packs" in dry.out
    assert run("ls", lake).code == 5
    done = run("repair", lake, "--json").json
    assert done["index"]["done"]
    assert not done["log"]["needed"]
    assert run("fsck", lake, "--deep").code == 0
    assert run("cat", lake, "a/b.txt").data == FILES["a/b.txt"]


@pytest.mark.slow
def test_repair_rebuilds_an_index_that_was_lost_with_its_directory(run: Run, lake: Path) -> None:
    assert run("merge", lake).code == 0
    shutil.rmtree(lake / layout.INDEX)
    assert run("fsck", lake).code == 5
    assert run("gc", lake, "--orphans").code == 0
    done = run("repair", lake)
    assert (done.code, "rebuilt the index" in done.out) == (0, True)
    assert run("fsck", lake, "--deep").code == 0
    for path, data in FILES.items():
        assert run("cat", lake, path).data == data


def test_repair_says_that_a_missing_pack_is_beyond_it(run: Run, lake: Path) -> None:
    (pack,) = (lake / "packs").glob("*/*.pack")
    pack.unlink()
    for words in (("--dry-run",), ()):
        done = run("repair", lake, *words)
        assert done.code == run("fsck", lake).code == 5
        assert f"missing: packs/{pack.parent.name}/{pack.name}" in done.out
        assert "1 findings are beyond repair" in done.out
        assert "nothing to repair" not in done.out


@pytest.mark.parametrize("merged", [False, True])
def test_a_lake_goes_on_without_a_lost_pack_only_on_request(
    run: Run, lake: Path, merged: bool
) -> None:
    assert run("put", lake, "-", "old", stdin=b"1").code == 0
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("lost", b"2")
        writer.delete("old")
    if merged:
        assert run("merge", lake, "--all").code == 0
    with Lake.open(lake) as opened:
        pack = opened.snapshot().stat("lost").pack
        assert pack is not None
    (lake / layout.pack_path(pack)).unlink()
    listing = run("find", lake)
    # Where the rows are in the index as well, only reading the bytes shows it.
    assert (listing.code == 0) == merged
    assert merged or "repair --log" in listing.err
    refused = run("repair", lake)
    assert (refused.code, "had deleted or replaced comes back" in refused.out) == (5, True)
    done = run("repair", lake, "--log")
    assert f"left out: {layout.pack_path(pack)} is gone" in done.out
    assert done.code == run("fsck", lake, "--deep").code == 0
    found = run("find", lake).out.splitlines()
    assert ("lost" in found, "old" in found) == (False, True)  # the tombstone went with its pack
    assert run("put", lake, "-", "newer", stdin=b"y").code == 0


def test_a_lost_pack_and_a_damaged_newest_commit_are_mended_at_once(run: Run, lake: Path) -> None:
    with Lake.open(lake) as opened:
        with opened.writer() as writer:
            writer.put("lost", b"2")
        pack = opened.snapshot().stat("lost").pack
    assert pack is not None
    (lake / layout.pack_path(pack)).unlink()
    (lake / layout.commit_path(3)).write_bytes(b"torn")
    dry = run("repair", lake, "--dry-run")
    assert (dry.code, "had deleted or replaced comes back" in dry.out) == (5, True)
    assert run("repair", lake, "--log").code == run("fsck", lake, "--deep").code == 0
    assert run("cat", lake, "a/b.txt").data == FILES["a/b.txt"]


def test_what_a_log_lost_at_its_end_is_told_and_taken_in(run: Run, lake: Path) -> None:
    for name in ("first", "second"):
        assert run("put", lake, "-", name, stdin=name.encode()).code == 0
    with Lake.open(lake) as opened:
        head = opened.log.head().number
    for number in (head - 1, head):
        (lake / layout.commit_path(number)).unlink()
    told = run("fsck", lake)
    # A copy that was made beside writers looks the same, and nothing is wrong with one.
    assert (told.code, "2 packs of them may be of later commits" in told.out) == (0, True)
    assert run("fsck", lake, "--json").json["counters"]["ahead"] == 2
    assert run("repair", lake).out == "nothing to repair\n"
    assert run("repair", lake, "--log").code == 0
    assert run("cat", lake, "second").out == "second"
    assert run("fsck", lake, "--deep", "--json").json["counters"]["ahead"] == 0


def test_repair_moves_a_damaged_newest_commit_away(run: Run, lake: Path) -> None:
    torn = lake / layout.commit_path(2)
    torn.write_bytes(b"torn")
    dry = run("repair", lake, "--dry-run")
    assert "would move damaged commit 2" in dry.out
    assert torn.exists()
    done = run("repair", lake)
    assert done.code == 0
    assert "moved damaged commit 2 to quarantine/" in done.out
    assert run("fsck", lake).code == 0
    assert run("put", lake, "-", "new", stdin=b"x").code == 0


def test_repair_moves_a_damaged_checkpoint_away_and_leaves_the_log(run: Run, lake: Path) -> None:
    with Lake.open(lake) as opened:
        while opened.log.head().number < CHECKPOINT_EVERY:
            opened.log.commit(Draft("nothing"), lambda state: Changes())
    checkpoint = lake / layout.checkpoint_path(CHECKPOINT_EVERY)
    checkpoint.write_bytes(b"torn")
    commits = sorted((lake / "log").glob("*.json"))
    dry = run("repair", lake, "--dry-run")
    assert (dry.code, "would move 1 checkpoints" in dry.out) == (0, True)
    assert checkpoint.exists()
    done = run("repair", lake)
    assert (done.code, "moved 1 checkpoints to quarantine/" in done.out) == (0, True)
    assert sorted((lake / "log").glob("*.json")) == commits
    assert run("fsck", lake, "--deep").code == 0
    assert "nothing to repair" in run("repair", lake).out


def test_repair_writes_a_lost_log_only_on_request(run: Run, lake: Path) -> None:
    shutil.rmtree(lake / "log")
    refused = run("repair", lake)
    assert refused.code == 5
    assert "repair --log" in refused.err
    for words in (("--dry-run",), ("--log", "--dry-run")):
        assert "repair --log" in run("repair", lake, *words).out
        assert not (lake / "log").exists()
    done = run("repair", lake, "--log")
    assert "wrote the log anew: 1 packs in 2 commits" in done.out
    assert run("fsck", lake, "--deep").code == 0
    for path, data in FILES.items():
        assert run("cat", lake, path).data == data


def test_what_is_sound_is_left_alone_whatever_may_be_written_anew(run: Run, lake: Path) -> None:
    before = sorted(path for path in lake.rglob("*") if path.is_file())
    done = run("repair", lake, "--log")
    assert (done.code, done.out) == (0, "nothing to repair\n")
    assert sorted(path for path in lake.rglob("*") if path.is_file()) == before
    assert "rebuilt the index: " in run("repair", lake, "--index").out


def test_a_log_with_a_gap_is_not_repaired_by_accident(run: Run, lake: Path) -> None:
    for number in range(3):
        assert run("put", lake, "-", f"{number}", stdin=b"x").code == 0
    (lake / layout.commit_path(2)).unlink()
    refused = run("repair", lake)
    assert refused.code == 5
    done = run("repair", lake, "--log")
    assert (done.code, "rebuilt the index: " in done.out) == (0, True)
    assert run("fsck", lake, "--deep").code == 0
    assert run("cat", lake, "2").data == b"x"


def test_top_shows_a_lake_once_without_a_terminal(run: Run, lake: Path) -> None:
    with Lake.open(lake) as opened:
        opened.leases.acquire("compactor", "replica-1", 3600)
        opened.leases.acquire("gc", "replica-2", 0)
        opened.leases.release(opened.leases.acquire("repair", "replica-3", 60))
    done = run("top", lake)
    assert done.code == 0
    for shown in (r"replica-1, token 1, .* left", r"replica-2, token 1, ended .* ago",
                  "replica-3, token 1, given back"):  # fmt: skip
        assert re.search(shown, done.out)
    facts = run("top", lake, "--json").json
    assert (facts["snapshot"], facts["packs"], facts["damaged"]) == (1, 1, 0)
    assert facts["leases"][0]["holder"] == "replica-1"
    assert facts["recent"][0]["operation"] == "import"


@pytest.mark.parametrize("refusal", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_looking_takes_no_right_to_write(
    run: Run, lake: Path, refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(volume: PosixVolume, path: str) -> None:
        raise VolumeFailed(f"create {path}", errno=refusal)

    with Lake.open(lake) as opened:
        opened.leases.acquire("compactor", "replica-1", 3600)
    monkeypatch.setattr(PosixVolume, "create", create)
    facts = run("top", lake, "--json").json
    assert (facts["snapshot"], facts["leases"][0]["seconds_left"] > 0) == (1, True)
    assert run("gc", lake, "--dry-run").code == 0
    assert run("gc", lake).code == 6


def test_top_of_a_daemon_that_is_not_there_is_exit_code_6(run: Run) -> None:
    done = run("top", "http://127.0.0.1:9", "--json")
    assert done.code == 6
    assert "expected the status of a compactd" in done.err
    assert "found [Errno 111] Connection refused;" in done.err
    assert run("top", "ftp://x").code == 2
    assert run("top", "/no/such/lake").code == 3


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 200 OK\r\n\r\n[1]"],
)
def test_top_of_another_program_is_no_bug(run: Run, answer: bytes) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        done = run("top", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert done.code == 6
    assert "expected the status of a compactd" in done.err
    assert run("top", "http://127.0.0.1:port").code == 6
