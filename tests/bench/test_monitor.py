"""A user's own training, measured in one line."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lakefeed.monitor
from lakefeed.bench import monitoring, reports
from lakefeed.bench.keeping import Keeper
from lakefeed.bench.monitoring import Monitor, MonitorOptions, Watched, measure
from lakefeed.errors import Conflict, Invalid
from lakefeed.feed.feed import Feed, FeedOptions
from tests.support.patience import PATIENCE_SECONDS

WAIT_SECONDS = 0.005


class Slow:
    """A loader whose every batch takes a while."""

    def __init__(self, batches: int, seconds: float = WAIT_SECONDS) -> None:
        self._batches = batches
        self._seconds = seconds
        self._never = threading.Event()

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(self._batches):
            self._never.wait(self._seconds)
            yield np.zeros((8, 4), np.float32), np.zeros(8, np.int64)


def test_a_watched_loader_is_the_loader_and_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    class Waits(Slow):
        """Takes its while by the clock, whatever else the machine has to do."""

        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for batch in super().__iter__():
                clock[0] += 4 * WAIT_SECONDS
                yield batch

    watch = SimpleNamespace(monotonic=lambda: clock[0], process_time=time.process_time)
    monkeypatch.setattr(monitoring, "time", watch)
    loader = lakefeed.monitor.watch(Waits(5, 0.0), tmp_path / "run.html", name="mine")
    assert len(loader) == 5
    for _ in range(2):
        for batch in loader:
            assert len(batch[0]) == 8
            clock[0] += WAIT_SECONDS
    loader.monitor.close()
    loader.monitor.close()
    facts = reports.read(tmp_path / "run.json")
    (run,) = facts["runs"]
    assert (run["epochs"], run["samples"], run["sample_bytes"]) == (2, 80, 10 * 8 * (16 + 8))
    assert run["steps"] == 10
    assert run["wait_seconds"]["p50"] == pytest.approx(4 * WAIT_SECONDS)
    assert run["stall_share"] == pytest.approx(0.8)
    assert "mine waits for batches" in facts["verdict"]
    assert facts["verdict"].startswith("TOO SMALL")
    assert "<svg" in (tmp_path / "run.html").read_text()


def test_starting_a_loader_is_waiting_for_its_first_batch(tmp_path: Path) -> None:
    class Starting(Slow):
        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            self._never.wait(0.05)
            return super().__iter__()

    for _ in lakefeed.monitor.watch(Starting(2, 0.0), tmp_path / "run.html"):
        pass
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert run["wait_seconds"]["max"] >= 0.045


def test_an_epoch_that_is_left_out_leaves_its_samples_out(tmp_path: Path) -> None:
    sizes = [1, 3]
    loader = lakefeed.monitor.watch(Slow(0), tmp_path / "run.html")
    for size in sizes:
        loader._loader = Slow(size)
        for _ in loader:
            pass
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert (run["epochs"], run["samples"]) == (1, 24)


def test_what_is_done_between_epochs_is_no_cost_of_the_samples(tmp_path: Path) -> None:
    loader = lakefeed.monitor.watch(Slow(3, 0.0), tmp_path / "run.html")
    for _ in range(3):
        for _ in loader:
            pass
        validated = time.process_time() + 0.5
        while time.process_time() < validated:
            pass
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert 0 < run["cpu_seconds"] < 0.5


def test_epochs_of_one_batch_have_a_report_without_utilisation(tmp_path: Path) -> None:
    loader = lakefeed.monitor.watch(Slow(1), tmp_path / "run.html")
    for _ in range(3):
        for _ in loader:
            pass
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert (run["epochs"], run["samples"], run["utilisation"]) == (3, 24, None)


def test_a_report_that_cannot_be_written_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "file"
    taken.write_bytes(b"")
    with pytest.raises(Conflict, match="report"):
        lakefeed.monitor.watch(Slow(3), taken / "run.html")
    loader = lakefeed.monitor.watch(Slow(3), tmp_path / "run.html")
    assert not (tmp_path / "run.html").exists()
    (tmp_path / "run.json").mkdir()
    with pytest.raises(KeyError, match="mine"):
        for number, _ in enumerate(loader):
            if number == 2:
                raise KeyError("mine")
    assert "run.html" in caplog.text


def test_a_name_may_hold_dollars_and_begin_with_an_underscore(tmp_path: Path) -> None:
    for _ in lakefeed.monitor.watch(Slow(3), tmp_path / "run.html", name="_$run_$date"):
        pass
    assert (tmp_path / "run.html").read_text().count("> _$run_$date</text>") == 2


def test_leaving_the_loop_early_leaves_a_report_too(tmp_path: Path) -> None:
    loader = lakefeed.monitor.watch(Slow(50), tmp_path / "run.html")
    for number, _ in enumerate(loader):
        if number == 3:
            break
    loader.monitor.close()
    # The step that was left is not one.
    assert reports.read(tmp_path / "run.json")["runs"][0]["steps"] == 3


def test_a_long_training_is_reported_in_bounded_memory(tmp_path: Path) -> None:
    """What is a sum is the same, however few stretches of steps are kept."""
    runs = []
    for stretches_max in (1 << 20, 64):
        monitor = Monitor(MonitorOptions(tmp_path / "run.html"))
        monitor._keeper = Keeper(stretches_max)
        for epoch in range(3):
            monitor.begin_epoch()
            now = monitor._keeper.epochs[-1].start = 1000.0 * epoch
            for step in range(1000):
                waited = 0.5 if step == 777 else 0.001 * (step % 10)
                monitor.step(now, now + waited, now + waited + 0.1, (8, 100 + step))
                now += waited + 0.1
        kept = sum(len(epoch.wait_seconds) for epoch in monitor._keeper.epochs)
        assert kept <= stretches_max
        runs.append(monitor.report()["runs"][0])
        monitor.close()
    one, other = runs
    for name in ("steps", "samples", "sample_bytes", "wall_seconds", "stall_share", "utilisation"):
        assert one[name] == pytest.approx(other[name]), name
    assert (one["steps"], one["wait_seconds"]["max"]) == (3000, pytest.approx(0.5))
    for name in ("max", "mean"):
        assert one["wait_seconds"][name] == pytest.approx(other["wait_seconds"][name]), name
    for line in ("utilisation", "bytes_per_second"):
        assert sum(one["timeline"][line]) == pytest.approx(sum(other["timeline"][line]), rel=0.01)


def test_waits_that_have_a_rhythm_keep_their_share(tmp_path: Path) -> None:
    monitor = Monitor(MonitorOptions(tmp_path / "run.html"))
    monitor._keeper = Keeper(4096)
    monitor.begin_epoch()
    for step in range(40_000):
        waited = 0.5 if step % 8 == 0 else 0.002
        monitor.step(step, step + waited, step + 1, (1, 1))
    histogram = monitor.report()["runs"][0]["wait_histogram"]
    monitor.close()
    assert sum(histogram) == 40_000
    assert 0.09 < histogram[10] / sum(histogram) < 0.16


def test_first_steps_of_many_short_epochs_keep_their_share(tmp_path: Path) -> None:
    monitor = Monitor(MonitorOptions(tmp_path / "run.html"))
    monitor._keeper = Keeper(1024)
    for epoch in range(500):
        monitor.begin_epoch()
        for step in range(10):
            now = 20.0 * epoch + step
            monitor.step(now, now + (0.002 if step else 0.5), now + 1, (1, 1))
    run = monitor.report()["runs"][0]
    monitor.close()
    assert run["wait_histogram"][10] == 500
    assert (run["wait_seconds"]["p50"], run["wait_seconds"]["p95"]) == pytest.approx((0.002, 0.5))


def test_last_steps_of_many_short_epochs_keep_their_share() -> None:
    """They are a stretch of fewer steps than others when the two are put together."""
    keeper = Keeper(1024)
    for _ in range(1000):
        keeper.begin(0)
        for step in range(34):
            keeper.add(0, 0.002 if step < 33 else 0.5, 1, (1, 1))
    each = [zip(epoch.waits, epoch.counts, strict=True) for epoch in keeper.epochs]
    long = sum(count for pairs in each for wait, count in pairs if wait == 0.5)
    assert 500 < long < 2000


def test_epochs_of_a_step_are_not_put_together_again_and_again() -> None:
    keeper = Keeper(4)
    for number in range(100):
        keeper.begin(float(number))
        keeper.add(number, number, number + 1, (1, 1))
    assert sum(epoch.steps for epoch in keeper.epochs) == 100
    assert keeper._steps_each <= 64


def test_a_monitor_of_nothing_says_so(tmp_path: Path) -> None:
    monitor = Monitor(MonitorOptions(tmp_path / "run.html"))
    monitor.close()
    assert not (tmp_path / "run.html").exists()
    with pytest.raises(Invalid, match="a step or more"):
        monitor.report()


def test_metrics_are_served_meanwhile(tmp_path: Path) -> None:
    options = MonitorOptions(tmp_path / "run.html", "mine", metrics_port=0)
    loader = Watched(Slow(4, 0.3), Monitor(options))
    text = ""
    for _ in loader:
        assert loader.monitor.address is not None
        with urllib.request.urlopen(loader.monitor.address, timeout=PATIENCE_SECONDS) as answer:
            text = answer.read().decode()
    loader.monitor.close()
    assert 'lakefeed_bench_steps_total{source="mine"}' in text


def test_batches_of_any_kind_are_measured() -> None:
    assert measure((np.zeros((3, 2), np.uint8), np.zeros(3, np.int32))) == (3, 6 + 12)
    assert measure({"x": np.zeros((5, 2), np.uint8)}) == (5, 10)
    assert measure([b"ab", b"c"]) == (2, 3)
    assert measure(b"abc", batch_size=7) == (7, 3)
    buffer = {"data": np.zeros(9, np.uint8), "row_splits": np.array([0, 4, 9])}
    assert measure(buffer) == (2, 9 + 24)
    assert measure((buffer, np.zeros(2, np.int32))) == (2, 9 + 24 + 8)
    assert measure([np.array([b"ab", b"c"], object)]) == (2, 3)


def test_mappings_of_any_class_are_measured_as_dicts() -> None:
    assert measure(UserDict(ids=np.zeros((5, 2), np.uint8))) == (5, 10)


def test_a_batch_that_cannot_be_looked_at_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        """An array that does not tell its bytes, as PyTorch's sparse ones."""

        shape, dtype = (3, 2), "float32"

        @property
        def nbytes(self) -> int:
            raise NotImplementedError("nbytes of a sparse tensor")

    for _ in lakefeed.monitor.watch([Odd(), Odd()], tmp_path / "run.html"):
        pass
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert (run["steps"], run["samples"], run["sample_bytes"]) == (2, 2, 0)
    assert caplog.text.count("a batch of Odd cannot be measured: nbytes of a sparse tensor") == 1


def test_a_batch_with_the_names_of_a_feeds_is_the_users_own() -> None:
    """PyTorch's nested tensors and tables may have them, as methods or as columns."""
    theirs = SimpleNamespace(data=1, offsets=lambda: 2, lengths=lambda: 3)
    assert measure(theirs, batch_size=7)[0] == 7
    assert measure(theirs)[0] == 1


def test_a_feeds_own_batches_are_measured(lake: Path) -> None:
    with Feed(lake, "", FeedOptions(batch_size=64, epochs=1)) as feed:
        found = [(measure(batch), int(batch.lengths.sum())) for batch in feed]
    assert [samples for (samples, _), _ in found] == [64, 64, 64, 8]
    assert all(size_bytes == told for (_, size_bytes), told in found)
