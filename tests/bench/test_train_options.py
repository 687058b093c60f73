"""What `bench train` is asked for is what it measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lakefeed.bench import environment, training
from lakefeed.bench.emulation import Delays
from lakefeed.bench.preparing import Contents
from lakefeed.bench.sources import Reading, Spec
from lakefeed.bench.training import Limits, TrainOptions, check_samples, spec_of, train
from lakefeed.bench.workloads import Workload
from lakefeed.cli import app
from lakefeed.cli.benching import delays_option, measured_option
from lakefeed.errors import Invalid


def test_every_flag_reaches_what_it_is_for(
    lake: Path, workload_file: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainOptions] = []

    def train(options: TrainOptions, *_: Any) -> None:
        asked.append(options)
        raise Invalid("enough", expected="to be asked", found="asked")

    monkeypatch.setattr(training, "train", train)
    words = (
        f"--timeout 7s bench train {lake} --workload {workload_file} -n 2 --source plain "
        "--source lake --data plain=/ --select small/** --at 1 --sweep --sweep-max 3 --steps 4 "
        "--epochs 5 --repeat --warmup 6 --emulate nas --harness lean --read-threads 8 --prefetch 9 "
        "--shuffle runs=10 --window 11 --seed 12 --cold --strict"
    )
    done = CliRunner().invoke(app, words.split())
    assert (done.exit_code, asked) == (2, [TrainOptions(
        lake=str(lake), workload=workload, accelerators=2, sources=("plain", "lake"),
        select="small/**", at=1, data={"plain": "/"},
        reading=Reading("runs=10", 12, read_threads=8, prefetch=9, window=11),
        delays=delays_option("nas"),
        limits=Limits(steps=4, epochs=5, sweep_max=3, repeat=True, warmup_steps=6),
        harness="lean", cold=True, strict=True, timeout_seconds=7.0,
    )]), done.output  # fmt: skip


def test_a_source_holds_what_was_selected_and_is_as_slow_as_was_asked(workload: Workload) -> None:
    """A copy was selected when it was made; memory is the ceiling, which nothing slows down."""
    reading, delays = Reading(seed=5), Delays("slow", 0.1)
    options = TrainOptions(
        "/lake", workload, accelerators=2, select="small/**", at=3, data={"plain": "/p"},
        reading=reading, delays=delays,
    )  # fmt: skip
    for kind, select, slow in (
        ("lake", "small/**", delays), ("plain", "small/**", delays), ("tfrecord", "", delays),
        ("null", "", None),
    ):  # fmt: skip
        assert spec_of(options, kind, "/there", Contents(10, 25_041)) == Spec(
            kind, "/there", select=select, at=3, batch_size=workload.batch_size,
            sample_bytes=2504, world_size=2, reading=reading, delays=slow,
        )  # fmt: skip


def test_too_few_samples_are_refused_by_name(workload: Workload) -> None:
    few = TrainOptions("/lake", workload, accelerators=4)
    with pytest.raises(Invalid, match="64 or more") as refused:
        check_samples(few, Contents(63, 63 * 3000))
    assert refused.value.exit_code == 2
    assert check_samples(few, Contents(64, 64 * 3000))[0].startswith("what-if: 64 samples")
    with pytest.raises(Invalid, match="MLPerf Storage's rule"):
        check_samples(dataclasses.replace(few, strict=True), Contents(64, 64 * 3000))


def test_samples_without_bytes_are_refused(workload: Workload) -> None:
    with pytest.raises(Invalid, match="64 empty files"):
        check_samples(TrainOptions("/lake", workload), Contents(64, 0))


def test_a_sweep_does_not_begin_above_its_most(workload: Workload) -> None:
    chosen = TrainOptions("/none", workload, accelerators=20, limits=Limits(sweep_max=16))
    with pytest.raises(Invalid, match="at most 16, found 20"):
        train(chosen, print, lambda source, count: print)


def test_samples_of_another_size_are_another_workload(workload: Workload) -> None:
    notes = check_samples(TrainOptions("/lake", workload), Contents(10**9, 10**9 * 9000))
    assert notes == ["what-if: samples have 9,000 bytes on average, the workload's 3,000"]


def test_a_cold_run_needs_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "DROP_CACHES", tmp_path / "none" / "drop_caches")
    with pytest.raises(Invalid, match="leave --cold out"):
        environment.drop_caches()


@pytest.mark.parametrize("text", ["0s", "9ms"])
def test_a_time_in_which_nothing_can_be_measured_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="too short to measure anything"):
        measured_option(text)
    assert measured_option("10ms") == 0.01
