"""compactd as a process: it works, takes over, ends well, and answers while a volume hangs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.lake import layout
from lakefeed.lake.scrub import scrub
from tests.service.daemons import ROOT, Daemon, compactd, eventually
from tests.service.tools import drop, waiting
from tests.support.patience import PATIENCE_SECONDS
from tests.survival.mounts import Image, freeze, skip_for, thaw, why_no_loop

pytestmark = pytest.mark.slow
QUICK = ("--interval", "1s", "--pack-age", "0s", "--lease", "3s", "--gc-interval", "1s")


def make(tmp_path: Path) -> tuple[Path, Path]:
    Lake.create(tmp_path / "lake").close()
    (tmp_path / "inbox").mkdir()
    return tmp_path / "lake", tmp_path / "inbox"


def paths(lake: Path) -> list[str]:
    with Lake.open(lake) as opened:
        return [p for table in opened.snapshot().find("") for p in table["path"].to_pylist()]


def once(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lakefeed", "compactd", "--once", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def test_it_takes_files_in_says_so_and_ends_well_on_sigterm(tmp_path: Path) -> None:
    lake, inbox = make(tmp_path)
    with compactd(lake, "--inbox", f"{inbox}=in", *QUICK, "--log-format", "json") as daemon:
        assert daemon.get("/healthz") == (200, "ok\n")
        eventually(lambda: daemon.get("/readyz")[0] == 200)
        for number in range(20):
            drop(inbox, f"{number}", b"x" * 100)
        eventually(lambda: daemon.status()["files_packed"] == 20, daemon.log())
        eventually(lambda: "look" in daemon.status()["last_success"])
        eventually(lambda: daemon.status()["index_entries"] == 20)
        told = {
            f'lakefeed_compactor_files_packed_total{{lake="{lake}"}} 20.0',
            f'lakefeed_compactor_ingested_bytes_total{{lake="{lake}"}} 2000.0',
            f'lakefeed_compactor_leader{{lake="{lake}"}} 1.0',
            f'lakefeed_index_entries{{lake="{lake}"}} 20.0',
            f'lakefeed_compactor_backlog_files{{lake="{lake}"}} 0.0',
        }
        # It leads most of the time: a busy machine may keep it from its lease for a while.
        eventually(lambda: told <= {*daemon.get("/metrics")[1].splitlines()}, daemon.log())
        assert daemon.stop() == 0
        lines = [json.loads(line) for line in daemon.log().splitlines()]
        assert {"time", "level", "message", "logger"} <= lines[0].keys()
    assert waiting(inbox) == []
    assert len(paths(lake)) == 20
    with Lake.open(lake) as opened:
        lease = opened.leases.read("compactor")
        assert lease is not None
        assert lease.expires_ns == 0


def waits_for(daemon: Daemon, other: str) -> bool:
    status = daemon.status()
    return other in status["holder"] and not status["leader"]


def test_a_replica_takes_over_when_the_leader_is_killed(tmp_path: Path) -> None:
    lake, inbox = make(tmp_path)
    words = (lake, "--inbox", inbox, *QUICK)
    with compactd(*words, "--name", "first") as first:
        eventually(lambda: first.status()["leader"])
        with compactd(*words, "--name", "second") as second:
            # The second one may have the lease in between, if the first is kept from it for long.
            eventually(lambda: waits_for(second, "first"), second.log())
            eventually(lambda: second.get("/readyz")[0] == 200, second.log())
            first.kill()
            drop(inbox, "a", b"1")
            eventually(lambda: second.status()["files_packed"] == 1, second.log())
            eventually(lambda: second.status()["token"] >= 2, second.log())
            assert second.stop() == 0
    assert paths(lake) == ["a"]


def test_of_two_replicas_with_one_name_one_leads(tmp_path: Path) -> None:
    lake, _ = make(tmp_path)
    words = (lake, *QUICK, "--name", "alike")
    with compactd(*words) as first:
        eventually(lambda: first.status()["leader"])
        with compactd(*words) as second:
            eventually(lambda: second.status()["holder"], second.log())
            # A busy machine may keep the first one from its lease for so long that it moves.
            assert len({one.status()["token"] for one in (first, second)}) == 2
            assert first.stop() == 0
            eventually(lambda: second.status()["leader"], second.log())
            assert second.status()["token"] >= 2
            assert second.stop() == 0


def test_once_does_what_is_due_and_leaves_a_lake_that_somebody_looks_after(tmp_path: Path) -> None:
    lake, inbox = make(tmp_path)
    for number in range(10):
        drop(inbox, f"{number}", b"x")
    done = once(lake, "--inbox", inbox, "--pack-files", "2", "--packs-min", "2")
    assert done.returncode == 0, done.stderr
    assert "took in 10 files" in done.stdout
    assert {line.split()[2] for line in done.stderr.splitlines()} == {"info"}
    with Lake.open(lake) as opened:
        assert len(opened.snapshot().state.packs) == 1
        lease = opened.leases.acquire("compactor", "somebody", 600)
    drop(inbox, "late", b"y")
    skipped = once(lake, "--inbox", inbox, "--json")
    assert skipped.returncode == 0
    assert json.loads(skipped.stdout)["skipped"] == [str(lake)]
    assert "another replica is at work: somebody has it" in once(lake).stdout
    assert waiting(inbox) == ["late"]
    with Lake.open(lake) as opened:
        opened.leases.release(lease)
    missing = once(tmp_path / "none", lake)
    assert missing.returncode == 3
    assert "not found" in missing.stderr


def test_a_usage_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = once(tmp_path, "--pack-bytes", "many")
    assert done.returncode == 2
    assert done.stderr.startswith("error: invalid: setting pack-bytes, expected a size")


@pytest.mark.root
def test_a_volume_that_hangs_holds_up_neither_the_probes_nor_other_lakes(tmp_path: Path) -> None:
    skip_for(why_no_loop(tmp_path / "probe"))
    good, inbox = make(tmp_path)
    with Image(tmp_path / "image").mounted() as mount:
        sick = mount / "lake"
        Lake.create(sick).close()
        config = tmp_path / "settings.toml"
        config.write_text(
            f'lakes = ["{sick}", "{good}"]\n[inboxes]\n"{good}" = ["{inbox}"]\n'
        )  # fmt: skip
        with compactd("--config", config, *QUICK) as daemon:
            eventually(lambda: all(lake["leader"] for lake in all_lakes(daemon)))
            freeze(mount)
            try:
                eventually(lambda: not all_lakes(daemon)[0]["leader"], daemon.log())
                assert daemon.get("/healthz") == (200, "ok\n")
                drop(inbox, "a", b"1")
                eventually(lambda: all_lakes(daemon)[1]["files_packed"] == 1, daemon.log())
            finally:
                thaw(mount)
            eventually(lambda: all_lakes(daemon)[0]["leader"], daemon.log())
            assert daemon.stop() == 0


def all_lakes(daemon: Daemon) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(daemon.get("/status")[1])["lakes"]
    return found


def test_ctrl_c_ends_it_as_well(tmp_path: Path) -> None:
    lake, _ = make(tmp_path)
    with compactd(lake, *QUICK) as daemon:
        eventually(lambda: daemon.status()["leader"])
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.wait() == 0


def test_an_address_in_use_is_exit_code_6(tmp_path: Path) -> None:
    lake, _ = make(tmp_path)
    with compactd(lake, *QUICK) as daemon:
        address = daemon.url.removeprefix("http://")
        with compactd(lake, "--listen", address) as other:
            assert other.wait() == 6
            assert "choose another address" in other.log()


def test_damage_that_another_program_found_is_told(tmp_path: Path) -> None:
    """A nightly `lakefeed scrub` leaves its notes on the volume, and the metrics show them."""
    lake, _ = make(tmp_path)
    with Lake.open(lake) as opened, opened.writer() as writer:
        writer.put("a", b"x" * 100).wait()
        (row,) = [opened.snapshot().stat("a")]
        pack = lake / layout.pack_path(row.pack)
        damaged = bytearray(pack.read_bytes())
        damaged[row.offset] ^= 1
        pack.write_bytes(damaged)
        assert len(scrub(opened).damaged) == 1
    done = once(lake, "--json", "--scrub-interval", "0s")
    assert json.loads(done.stdout)["lakes"][0]["corrupt_payloads"] == 1, done.stderr
