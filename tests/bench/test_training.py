"""`bench train` end to end with emulated accelerators: real processes, a real report."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import re
import shutil
import tempfile
import threading
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import pytest

from lakefeed.bench import bookkeeping, figures, page, reports, verdict
from lakefeed.bench.apart import run_apart
from lakefeed.bench.bookkeeping import Bookkeeping
from lakefeed.bench.emulation import Delays
from lakefeed.bench.preparing import Contents, Copy, copy_apart
from lakefeed.bench.processes import told
from lakefeed.bench.ranks import Job, run_ranks
from lakefeed.bench.sources import Delivered, NullSource, Reading, Spec
from lakefeed.bench.steps import LIVE, Company, Loop
from lakefeed.bench.steps import run as run_rank
from lakefeed.bench.training import (
    Limits,
    TrainOptions,
    close_in,
    directories,
    loop_of,
    train,
)
from lakefeed.bench.workloads import Workload
from lakefeed.errors import Invalid, NotFound, VolumeFailed
from tests.support.stalling import stalling

EVENTS_A_STEP = (
    bookkeeping.EVENTS_OF_LOADING + bookkeeping.EVENTS_OF_COMPUTE + bookkeeping.EVENTS_OF_LOGGING
)


def alone() -> Company:
    return Company(lambda: None, array("d", [0.0] * len(LIVE)), threading.Event())


def options(lake: Path, workload: Workload, **more: Any) -> TrainOptions:
    return TrainOptions(str(lake), workload, **more)


@pytest.fixture(scope="module")
def report(lake: Path, workload: Workload) -> dict[str, Any]:
    """One run of two ranks on a simulated volume, three sources and a sweep."""
    chosen = options(
        lake,
        workload,
        accelerators=2,
        sources=("plain", "lake"),
        delays=Delays("test", 0.0002),
        limits=Limits(steps=6, epochs=2, sweep_max=2),
    )
    seen: list[str] = []
    facts = train(chosen, seen.append, lambda source, count: lambda lives: None)
    facts["seen"] = seen
    return facts


@pytest.mark.slow
def test_a_report_has_every_source_and_the_ceiling(report: dict[str, Any]) -> None:
    assert [run["source"] for run in report["runs"]] == ["plain", "lake"]
    for run in (*report["runs"], report["ceiling"]):
        assert 0 < run["utilisation"] <= 1
        assert run["accelerators"] == 2
    for run in report["runs"]:
        assert (run["steps"], run["epochs"], run["samples"]) == (12, 2, 2 * 12 * 8)
        assert run["sample_bytes"] <= run["read_bytes"]
        assert sum(run["wait_histogram"]) == 24
        assert len(run["timeline"]["seconds"]) == len(run["timeline"]["utilisation"])
    assert report["sweeps"]["lake"]["most"] == 2
    assert [p["accelerators"] for p in report["sweeps"]["lake"]["points"]] == [1, 2]
    assert report["sweeps"]["lake"]["data_ends"] is False


@pytest.mark.slow
def test_what_is_simulated_or_too_small_says_so_in_its_line(report: dict[str, Any]) -> None:
    for run in report["runs"]:
        assert run["verdict"].startswith("TOO SMALL TO MEAN MUCH (12 steps")
        assert "emulated x" in run["verdict"]
    for line in report["lines"]:
        assert "simulated volume 'test'" in line
    assert any("what-if" in note for note in report["notes"])


@pytest.mark.slow
def test_the_report_is_one_page_that_needs_nothing(report: dict[str, Any], tmp_path: Path) -> None:
    html, data = page.write(report, tmp_path / "sub" / "run.html")
    text = html.read_text()
    assert not re.search(r"url\((?!#)|@import|https?://|<script|<link|<img", text)
    assert text.count("<svg") == 3
    assert "prefers-color-scheme: dark" in text
    assert reports.read(data)["verdict"] == report["verdict"]


@pytest.mark.slow
def test_copies_go_away_with_the_run(report: dict[str, Any], lake: Path) -> None:
    assert "copying the samples out of the lake as plain" in report["seen"]
    assert not [name for name in os.listdir(lake.parent) if name.startswith("lakefeed-bench")]


def test_copies_lie_on_the_lakes_own_volume(
    lake: Path, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = tmp_path / "linked"
    linked.symlink_to(lake)
    chosen = options(linked, workload, sources=("lake", "plain"))
    with directories(chosen, lambda line: None) as found:
        assert Path(found["plain"]).parents[1] == lake.parent.resolve()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(lake.resolve()))
    with pytest.raises(Invalid, match="beside it is another one"), directories(chosen, print):
        pass


@pytest.mark.slow
def test_copies_on_a_volume_that_stops_answering_are_left_behind(
    lake: Path, workload: Workload, tmp_path: Path
) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    chosen = options(tmp_path / "lake", workload, sources=("plain",), timeout_seconds=1.0)
    failing = pytest.raises(VolumeFailed, match="found none for 1")
    with ExitStack() as mounts, failing, directories(chosen, print) as found:
        mounts.enter_context(stalling(Path(found["plain"]) / "small")).stop()


@pytest.mark.slow
def test_copying_to_a_volume_that_stops_answering_ends(lake: Path, tmp_path: Path) -> None:
    with stalling(tmp_path) as filer:
        filer.stop()
        copy = Copy(Spec("plain", str(lake)), str(tmp_path / "plain"), 1, 60)
        with pytest.raises(VolumeFailed, match="found none for 1"):
            run_apart(partial(copy_apart, copy), print, 1.0)


def test_what_a_library_calls_an_os_error_is_told_in_its_words() -> None:
    said = told(OSError("libcudnn.so: cannot open shared object file"), "rank 0")
    assert not isinstance(said, VolumeFailed)
    assert "OSError: libcudnn.so: cannot open shared object file" in str(said)
    refused = told(PermissionError(errno.EACCES, "", "/data/1.tar"), "rank 0")
    assert isinstance(refused, VolumeFailed)
    assert refused.subject == "/data/1.tar, used by rank 0"


@pytest.mark.slow
def test_what_the_volume_refuses_is_no_bug(tmp_path: Path) -> None:
    """The memory of a process cannot be read at 0: EIO, as from a broken disk."""
    (tmp_path / "1.tar").symlink_to("/proc/self/mem")
    spec = Spec("webdataset", str(tmp_path), batch_size=8)
    with pytest.raises(VolumeFailed, match="used by rank 0, found input/output error") as failed:
        run_ranks(Job(spec, Loop(5, 1, 0.001)))
    assert failed.value.exit_code == 6


@pytest.mark.slow
def test_the_first_failure_ends_every_rank(lake: Path, tmp_path: Path) -> None:
    spec = Spec("lake", str(tmp_path), batch_size=8, world_size=2)
    with pytest.raises(NotFound, match="lake"):
        run_ranks(Job(spec, Loop(5, 1, 0.001)))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_volume_that_does_not_answer_ends_every_rank(ranks: int, tmp_path: Path) -> None:
    for number in range(63):
        (tmp_path / f"{number:02}").write_bytes(b"x")
    # Opening a pipe that nobody writes blocks, as a file of a hanging server does.
    os.mkfifo(tmp_path / "63")
    spec = Spec("plain", str(tmp_path), batch_size=8, world_size=ranks, reading=Reading(None))
    with pytest.raises(VolumeFailed, match="none for") as failed:
        run_ranks(Job(spec, Loop(8, 1, 0.001), timeout_seconds=0.5))
    # The last batch is the last rank's.
    assert (failed.value.subject, failed.value.errno) == (f"rank {ranks - 1}", errno.ETIMEDOUT)


@pytest.mark.slow
def test_ranks_that_are_ended_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_temp_dir()  # of multiprocessing in this process, which keeps it
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    job = Job(Spec("null", batch_size=4, world_size=2), Loop(9999, 1, 0.01))

    def interrupted(lives: list[list[float]]) -> None:
        if min(live[0] for live in lives) > 0:
            assert len(list(tmp_path.glob("*/*/log"))) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ranks(job, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_keeps_every_steps_times() -> None:
    spec = Spec("null", batch_size=4, sample_bytes=10)
    result = run_rank(NullSource(spec), Loop(5, 2, 0.0001), alone())
    assert [len(epoch.wait_seconds) for epoch in result.epochs] == [5, 5]
    assert result.samples == 40
    for epoch in result.epochs:
        assert all(busy >= 0.0001 for busy in epoch.busy_seconds)
        assert epoch.start <= epoch.began[0] <= epoch.end
    facts = figures.of_run([result], 4, 0.0001)
    assert facts["samples"] == 40
    assert facts["sample_bytes"] == 400


def test_the_dlio_harness_really_writes() -> None:
    with Bookkeeping(3) as books:
        where = Path(books._directory.name)
        books.fetched(1)
        books.computing(1, 24, 0.01)
        books.processed(1, 24, 0.06)
        books._trace.flush()
        assert "Rank 3 step 1 processed 24 samples in 0.06 s [" in (where / "log").read_text()
        events = [json.loads(line) for line in (where / "trace").read_text().splitlines()]
        assert len(events) == EVENTS_A_STEP
        assert {event["id"] for event in events} == {1}
    assert not where.exists()


def test_the_dlio_harness_keeps_its_last_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookkeeping, "STEPS_KEPT", 3)
    with Bookkeeping(0) as books:
        where = Path(books._directory.name)
        for step in range(8):
            books.fetched(step)
            books.computing(step, 24, 0.01)
            books.processed(step, 24, 0.06)
        books._trace.flush()
        assert len((where / "log").read_text().splitlines()) == 2
        events = [json.loads(line)["id"] for line in (where / "trace").read_text().splitlines()]
        assert events == [6] * EVENTS_A_STEP + [7] * EVENTS_A_STEP


def test_a_sweep_closes_in_on_the_most() -> None:
    for most, guess in itertools.product(range(17), (1, 2, 6, 16, 40)):
        tried: list[int] = []

        def passes(count: int, most: int = most, tried: list[int] = tried) -> bool:
            tried.append(count)
            return count <= most

        assert close_in(passes, 16, guess) == most
        assert len(tried) == len(set(tried)) <= 8
        if guess == most < 16:
            assert tried == [most, most + 1]


def test_a_warm_up_is_not_counted_and_leaves_nothing_in_store() -> None:
    source = Counting()
    result = run_rank(source, Loop(5, 1, 0.0001, warmup_steps=7), alone())
    assert source.taken == 12
    assert (result.samples, result.reads, result.read_bytes) == (20, 5, 500)
    assert len(result.epochs[0].wait_seconds) == 5
    assert result.supply_per_second > 0
    assert run_rank(Counting(), Loop(5, 1, 0.0001), alone()).supply_per_second == 0


class Counting(NullSource):
    """Batches from memory that are counted as a read each."""

    def __init__(self) -> None:
        super().__init__(Spec("null", batch_size=4, sample_bytes=10))
        self.taken = 0

    def batches(self) -> Iterator[Delivered]:
        for batch in super().batches():
            self.taken += 1
            yield batch

    def reads(self) -> int:
        return self.taken

    def read_bytes(self) -> int:
        return 100 * self.taken


def test_a_rank_tells_how_far_it_is() -> None:
    company = alone()
    result = run_rank(Counting(), Loop(5, 2, 0.001, warmup_steps=7), company)
    waited = sum(sum(epoch.wait_seconds) for epoch in result.epochs)
    assert dict(zip(LIVE, company.live, strict=True)) == {
        "steps": 10, "samples": 40, "bytes": 400, "compute_seconds": pytest.approx(0.01),
        "wait_seconds": pytest.approx(waited), "read_bytes": 1700,
    }  # fmt: skip


def test_steps_go_on_into_the_datas_next_epoch_on_request(lake: Path, workload: Workload) -> None:
    held = Contents(80, 80 * 3000)
    limits = Limits(steps=30, epochs=1)
    assert loop_of(options(lake, workload, limits=limits), held).steps == 10
    on = dataclasses.replace(limits, repeat=True, warmup_steps=3)
    loop = loop_of(options(lake, workload, limits=on), held)
    assert (loop.steps, loop.warmup_steps) == (30, 3)


RUN = {
    "source": "plain", "accelerators": 2, "utilisation": 0.5, "samples_per_second": 100.0,
    "bytes_per_second": 3e5, "steps": 1000, "wall_seconds": 60.0, "cpus_busy": 0.2,
    "cpu_per_thousand_samples": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "passed", "advice"),
    [
        ({}, False, "--source lake"),
        ({"source": "lake"}, False, "lakefeed bench volume"),
        ({"cpus_busy": 1.9}, False, "processors are the limit"),
        ({"utilisation": 0.9}, True, "--sweep"),
        ({"steps": 10}, False, "measure longer"),
    ],
)
def test_the_next_step_follows_from_the_figures(
    change: dict[str, Any], passed: bool, advice: str, workload: Workload
) -> None:
    strict = dataclasses.replace(workload, utilisation_min=0.85)
    found = verdict.judge({**RUN, **change}, strict, 0.99, 2)
    assert found.passed is passed
    assert advice in found.advice


@pytest.mark.parametrize(
    ("source", "most", "cpus_busy", "advice"),
    [
        ("plain", 2, 0.5, "beyond 2 storage is the limit (3 of 12 MB/s came for 3): import"),
        ("lake", 2, 0.5, "--shuffle runs=16 --window 8"),
        ("lake", 2, 1.9, "beyond 2 the processors are the limit (1.9 of 2 busy)"),
        ("lake", 3, 0.5, "go on with --sweep-max above 3"),
    ],
)
def test_the_next_step_after_a_sweep(
    source: str, most: int, cpus_busy: float, advice: str, workload: Workload
) -> None:
    points = [
        {
            "accelerators": count,
            "bytes_per_second": 3e6,
            "cpus_busy": cpus_busy,
            "steps": 100,
            "wall_seconds": 5.0,
        }
        for count in (1, 2, 3)
    ]
    strict = dataclasses.replace(workload, utilisation_min=0.85)
    found = verdict.sweep_next(source, {"most": most, "points": points}, strict, 2)
    assert advice in found
    if most == 3:
        ended = {"most": most, "points": points, "data_ends": True}
        assert "more samples" in verdict.sweep_next(source, ended, strict, 2)
    again = verdict.sweep_next(source, {"most": most, "points": points}, strict, 2, "runs=16")
    assert "--shuffle" not in again


def test_a_harness_that_cannot_pass_is_named(workload: Workload) -> None:
    strict = dataclasses.replace(workload, utilisation_min=0.85)
    assert "no storage passes here" in verdict.judge(RUN, strict, 0.5, 2).advice
