"""What a replica says of its lake, and when it has nothing to say any more."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.errors import Corrupt, VolumeFailed, from_os_error
from lakefeed.format.commit import State
from lakefeed.lake.garbage import Collected, GarbagePlan
from lakefeed.lake.scrub import Scrubbed, ScrubState
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service.inbox import Backlog
from lakefeed.service.ingest import Outcome
from lakefeed.service.jobs import CompactionDone
from lakefeed.service.logs import JsonFormatter, TextFormatter, log_to_stderr
from lakefeed.service.naming import Naming
from lakefeed.service.records import Record
from lakefeed.service.telling import Teller
from lakefeed.volume.base import Space

# Of the lake as it is now: the leader alone keeps looking.
OF_THE_LEADER = {
    "lakefeed_compactor_orphan_bytes",
    "lakefeed_compactor_write_amplification_ratio",
    "lakefeed_index_bytes",
    "lakefeed_index_entries",
    "lakefeed_index_segments",
    "lakefeed_scrub_corrupt_payloads",
    "lakefeed_snapshot_age_seconds",
    "lakefeed_snapshot_version",
}


def tell(teller: Teller) -> None:
    teller.moved(1, 1)
    teller.collected(Collected(GarbagePlan(None, ()), False), 7)
    teller.looked(State(), Space(10, 5), 3)


def shown(metrics: CompactorMetrics) -> set[str]:
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return {sample.name for sample in samples} & OF_THE_LEADER


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_a_line_of_the_log_has_its_facts_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    teller = Teller("lake", CompactorMetrics())
    teller.leads(True, "us", 7)
    teller.collected(Collected(GarbagePlan(None, ()), False, 3, 500), None)
    teller.collected(Collected(GarbagePlan(None, ()), False, 1, 0), None)
    first, second, third = lines(caplog)
    assert (first["lake"], first["token"]) == ("lake", 7)
    assert "job" not in first
    assert (second["job"], second["files"], second["bytes"]) == ("gc", 3, 500)
    assert third["bytes"] == 0


def test_a_full_volume_is_told_once_however_often_it_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    teller = Teller("lake", CompactorMetrics())

    def fail(name: str, why: int = errno.ENOSPC) -> VolumeFailed:
        error = from_os_error(OSError(why, ""), f"write to /l/{name}")
        assert isinstance(error, VolumeFailed)
        return error

    for number in range(3):
        teller.problem(str(fail(f"tmp/{number:032x}.json")))
        teller.failure("inbox", fail(f"packs/{number:02x}/{number:032x}.pack"))
        free = VolumeFailed("compaction", expected=f"{number + 7} bytes free", found=f"{number}")
        teller.failure("compaction", free)
    assert len(caplog.records) == 3
    assert f"{2:032x}" in teller.status.problem
    assert f"{2:032x}" in teller.status.last_failure["inbox"]
    teller.failure("inbox", fail(f"packs/00/{0:032x}.pack", errno.EROFS))
    teller.failure("inbox", fail(f"index/00/{0:032x}.segment", errno.EROFS))
    teller.problem("")
    teller.problem(str(fail(f"tmp/{0:032x}.json")))
    assert len(caplog.records) == 6


def test_a_full_inbox_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    teller = Teller("lake", CompactorMetrics())
    for number in range(3):
        name = f"{1:032x}-{7:020d}-{number:032x}.open.tmp"
        failure = from_os_error(OSError(errno.EDQUOT, ""), f"inbox /in/.lakefeed/{name}")
        teller.failure("inbox /in", failure)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("subject", ["{}", "read of {} at 0", "open of {}"])
def test_each_pack_that_is_damaged_or_cannot_be_read_is_told(
    caplog: pytest.LogCaptureFixture, subject: str
) -> None:
    teller = Teller("lake", CompactorMetrics())
    for number in range(3):
        where = subject.format(f"/l/packs/00/{number:032x}.pack")
        teller.failure("merge", Corrupt(where))
        teller.failure("compaction", from_os_error(OSError(errno.EIO, ""), where))
    assert len(caplog.records) == 6


def test_what_compaction_cannot_move_is_told_once_and_again_when_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    teller = Teller("lake", CompactorMetrics())
    for damages in (("a", "b"), ("a", "b"), ("b", "c"), (), ("b",)):
        teller.compacted(CompactionDone("damaged", damages=damages))
    told = [str(line["message"]).rpartition(" ")[2] for line in lines(caplog)]
    assert told == ["a", "b", "c", "b"]


def test_a_name_that_is_not_utf_8_can_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    Naming("/in", 10).name("bad\udcff", "unreadable")
    (line,) = lines(caplog)
    assert (line["inbox"], line["path"], line["reason"]) == ("/in", "bad\udcff", "unreadable")
    JsonFormatter().format(caplog.records[0]).encode()


def test_who_gives_the_lease_back_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    teller = Teller("lake", CompactorMetrics())
    for held, holder in ((True, "us"), (False, "them has it"), (True, "us"), (False, "")):
        teller.leads(held, holder, int(held))
    assert ["token" in line for line in lines(caplog)] == [True, False, True, False]
    assert [line["message"] for line in lines(caplog)][1::2] == [
        "lake: no lease: them has it", "lake: the lease is given back",
    ]  # fmt: skip


def test_a_replica_that_lost_its_lease_says_no_more_how_the_lake_is() -> None:
    metrics = CompactorMetrics()
    teller = Teller("lake", metrics)
    other = Teller("other", metrics)
    teller.leads(True, "us", 1)
    tell(teller)
    assert shown(metrics) == OF_THE_LEADER
    teller.leads(False, "them", 0)
    assert shown(metrics) == set()
    tell(teller)  # a job that ends after the lease was lost
    assert shown(metrics) == set()
    teller.leads(True, "us", 3)
    other.leads(True, "us", 1)
    tell(teller)
    tell(other)
    other.leads(False, "them", 0)
    for lake, damaged in (("lake", 3), ("other", None)):
        value = metrics.registry.get_sample_value("lakefeed_scrub_corrupt_payloads", {"lake": lake})
        assert value == damaged


def test_a_line_of_text_is_one_whatever_a_name_holds() -> None:
    facts = {"levelname": "WARNING", "msg": "damaged: %s", "args": ("a\nINFO \x1b[2J\udcff",)}
    try:
        raise OSError("of ours\nINFO \x1b[2J")
    except OSError as error:
        facts["exc_info"] = (type(error), error, error.__traceback__)
    record = logging.makeLogRecord(facts)
    lines = TextFormatter("%(levelname)s %(message)s").format(record).splitlines()
    assert lines[0] == r"WARNING damaged: a\nINFO \x1b[2J\udcff"
    assert lines[1] == "  Traceback (most recent call last):"
    assert lines[-2:] == ["  OSError: of ours", r"  INFO \x1b[2J"]


def test_a_log_goes_to_what_stderr_is_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before, after = (io.TextIOWrapper(io.BytesIO()) for _ in range(2))
    monkeypatch.setattr(sys, "stderr", before)
    log_to_stderr(TextFormatter(), logging.WARNING)
    before.close()
    monkeypatch.setattr(sys, "stderr", after)
    logging.getLogger("lakefeed").warning("told")
    after.seek(0)
    assert after.read() == "told\n"


def test_a_lake_whose_name_is_not_utf_8_does_not_end_the_metrics() -> None:
    metrics = CompactorMetrics()
    teller = Teller(os.fsdecode(b"/mnt/l\xff"), metrics)
    teller.leads(True, "us", 1)
    assert rb'lakefeed_compactor_leader{lake="/mnt/l\\xff"} 1.0' in metrics.render()


def test_each_figure_is_told_under_its_own_name(tmp_path: Path) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        with lake.writer() as writer:
            writer.put("a", b"1")
            writer.put("b", b"2")
        lake.merge_index()
        with lake.writer() as writer:
            writer.put("c", b"3")
        state = lake.snapshot().state
    (segment,) = (tmp_path / "lake" / "index").iterdir()
    metrics = CompactorMetrics()
    teller = Teller("lake", metrics)
    teller.leads(True, "us", 7)
    record = Record("0" * 32, 0, (), "1" * 32)
    teller.packed(Outcome(record, snapshot=1, files=2, bytes=100, written_bytes=150))
    teller.moved(10, 20)
    teller.compacted(CompactionDone("done", 1000, 2000))
    teller.waiting([Backlog(3, 30, 5.0), Backlog(4, 40, 9.0), Backlog(0, 0, 0.0)])
    teller.collected(Collected(GarbagePlan(None, ()), False, 3, 500), 11)
    teller.scrubbed(Scrubbed(ScrubState(), True, 1, 2, 600, 0.0, ()))
    teller.looked(state, Space(90, 80), 12)
    facts = teller.status.facts()
    figures = {
        "files_packed_total": ("files_packed", 2), "ingested_bytes_total": ("bytes_ingested", 100),
        "backlog_files": ("backlog_files", 7), "backlog_bytes": ("backlog_bytes", 70),
        "ingest_lag_seconds": ("ingest_lag_seconds", 9.0), "orphan_bytes": ("orphan_bytes", 11),
        "write_amplification_ratio": ("write_amplification", 21.7),
    }  # fmt: skip
    found = {f"lakefeed_compactor_{name}": figure for name, figure in figures.items()}
    found |= {
        "lakefeed_vacuum_deleted_bytes_total": (None, 500),
        "lakefeed_scrub_verified_bytes_total": (None, 600),
        "lakefeed_scrub_corrupt_payloads": ("corrupt_payloads", 12),
        "lakefeed_index_entries": ("index_entries", 3),
        "lakefeed_index_segments": ("index_segments", 1),
        "lakefeed_index_bytes": ("index_bytes", segment.stat().st_size),
        "lakefeed_snapshot_version": ("snapshot", 3),
        "lakefeed_volume_free_bytes": ("free_bytes", 80),
    }
    value = metrics.registry.get_sample_value
    for name, (key, figure) in found.items():
        assert value(name, {"lake": "lake"}) == figure, name
        assert key is None or facts[key] == figure, key
    moved = [value("lakefeed_compactor_bytes_total", {"lake": "lake", "direction": direction})
             for direction in ("read", "written")]  # fmt: skip
    assert moved == [1110, 2170] == [facts["bytes_read"], facts["bytes_written"]]
    assert value("lakefeed_compactor_runs_total", {"lake": "lake", "result": "done"}) == 1
    assert (facts["packs"], facts["unmerged_packs"]) == (2, 1)
