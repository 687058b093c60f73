"""What a replica says of its lake, and when it has nothing to say any more."""

from __future__ import annotations

import errno
import json
import logging
import os

import pytest

from lakefeed.errors import Corrupt, VolumeFailed, from_os_error
from lakefeed.format.commit import State
from lakefeed.lake.garbage import Collected, GarbagePlan
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service.jobs import CompactionDone
from lakefeed.service.logs import JsonFormatter, TextFormatter
from lakefeed.service.naming import Naming
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


def test_a_lake_whose_name_is_not_utf_8_does_not_end_the_metrics() -> None:
    metrics = CompactorMetrics()
    teller = Teller(os.fsdecode(b"/mnt/l\xff"), metrics)
    teller.leads(True, "us", 1)
    assert rb'lakefeed_compactor_leader{lake="/mnt/l\\xff"} 1.0' in metrics.render()
