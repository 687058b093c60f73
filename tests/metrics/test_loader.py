"""Feeds count into Prometheus, in one process or in many, and any process can show the sums."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lakefeed.errors import Conflict, Invalid, VolumeFailed
from lakefeed.feed.feed import Cache, Feed, FeedOptions
from lakefeed.lake.lake import Lake
from lakefeed.metrics.exporter import metered, page, serve
from lakefeed.metrics.loader import LoaderMetrics, loader_metrics
from tests.feed.lakes import QUIET, lake_of, some_files
from tests.support.patience import PATIENCE_SECONDS

FILES = some_files(100)


def values(text: str) -> dict[str, float]:
    """The samples without labels, and the sums over labels of the others."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_what_a_feed_did_is_on_the_page(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = LoaderMetrics(registry)
    options = FeedOptions(16, epochs=2, observer=metrics, cache=Cache(tmp_path, "64MiB"))
    with lake_of(FILES) as lake, Feed(lake, "train", options) as feed:
        size = sum(batch.data.nbytes for batch in feed)
        stats = feed.stats()
    with serve(0, registry=registry) as exporter:
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            found = values(answer.read().decode())
    assert found["lakefeed_loader_samples_total"] == 2 * len(FILES)
    assert found["lakefeed_loader_bytes_total"] == size
    assert found["lakefeed_loader_wait_seconds_count"] == stats.batches
    assert found["lakefeed_io_reads_total"] == stats.reads
    assert found["lakefeed_io_read_seconds_count"] == stats.reads
    assert found["lakefeed_io_read_bytes_total"] == stats.read_bytes
    assert found["lakefeed_cache_misses_total"] == stats.cache_misses > 0
    assert found["lakefeed_cache_hits_total"] == stats.cache_hits
    assert found["lakefeed_loader_stall_ratio"] == pytest.approx(stats.stall_share)
    assert found["lakefeed_io_read_amplification_ratio"] > 0.9
    assert found["lakefeed_loader_stage_seconds_count"] > 0
    assert found["lakefeed_loader_epoch"] == 1, "of the last batch"
    assert found["lakefeed_loader_queue_depth"] == found["lakefeed_loader_inflight_reads"] == 0


def test_gauges_show_what_they_were_told_last() -> None:
    registry = CollectorRegistry()
    metrics = LoaderMetrics(registry)
    for wait_seconds, ready, epoch in ((9.0, 3, 0), (1.0, 2, 1)):
        metrics.step(wait_seconds, 5.0)
        metrics.queue(ready, ready + 2)
        metrics.reads([0.1], 60)
        metrics.delivered(2, 40, epoch)
    found = values(generate_latest(registry).decode())
    assert found["lakefeed_loader_queue_depth"] == 2
    assert found["lakefeed_loader_inflight_reads"] == 4
    assert found["lakefeed_loader_epoch"] == 1
    assert found["lakefeed_loader_stall_ratio"] == 0.5
    assert found["lakefeed_io_read_amplification_ratio"] == 1.5


def test_counters_add_up_what_they_were_told() -> None:
    registry = CollectorRegistry()
    metrics = LoaderMetrics(registry)
    for compute_seconds in (0.0, 0.25, 0.5):  # before the first batch nothing was computed
        metrics.step(1.0, compute_seconds)
    for reason in ("EIO", "straggler", "EIO"):
        metrics.retried(reason)
    for name, seconds in (("index", 1.0), ("verify", 2.0), ("index", 4.0)):
        metrics.stage(name, seconds)
    metrics.reads([0.5, 1.5], 100)
    metrics.corrupt(2)
    metrics.corrupt(3)
    metrics.cached(5, 7, 1 << 20)
    metrics.cached(1, 2, 1 << 20)
    found = values(generate_latest(registry).decode())
    assert found["lakefeed_loader_wait_seconds_sum"] == 3
    assert found["lakefeed_loader_step_seconds_sum"] == 0.75
    assert found["lakefeed_loader_step_seconds_count"] == 2
    assert found["lakefeed_loader_corrupt_samples_total"] == 5
    assert found["lakefeed_io_read_seconds_sum"] == found["lakefeed_io_reads_total"] == 2
    assert found["lakefeed_io_read_bytes_total"] == 100
    assert found["lakefeed_cache_hits_total"] == 6
    assert found["lakefeed_cache_misses_total"] == 9
    assert found["lakefeed_cache_bytes"] == 1 << 20
    assert registry.get_sample_value("lakefeed_loader_retries_total", {"reason": "EIO"}) == 2
    stage = {"stage": "index"}
    assert registry.get_sample_value("lakefeed_loader_stage_seconds_sum", stage) == 5


def test_of_a_feed_that_was_closed_nothing_is_ready_or_under_way() -> None:
    registry = CollectorRegistry()
    options = FeedOptions(4, epochs=None, observer=LoaderMetrics(registry))
    with lake_of(FILES) as lake, Feed(lake, "train", options) as feed:
        for _ in range(40):
            next(feed)
    found = values(page(registry))
    assert found["lakefeed_loader_queue_depth"] == found["lakefeed_loader_inflight_reads"] == 0


def test_the_page_of_a_taken_port_says_so() -> None:
    with serve(0) as exporter:
        with pytest.raises((VolumeFailed, Conflict), match=str(exporter.port)):
            serve(exporter.port)
        exporter.close()


def test_one_set_a_process() -> None:
    assert loader_metrics() is loader_metrics()
    assert "lakefeed_loader_samples_total" in page()
    assert pickle.loads(pickle.dumps(loader_metrics())) is loader_metrics()


def fetched(port: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return values(answer.read().decode())


def test_a_port_in_one_line_serves_all_feeds_of_the_process() -> None:
    options, port = metered_anywhere(FeedOptions(16))
    before = fetched(port)
    with lake_of(FILES) as lake:
        for _ in range(2):
            with Feed(lake, "train", metered(options, port)) as feed:
                assert sum(map(len, feed)) == len(FILES)
    after = fetched(port)
    samples = "lakefeed_loader_samples_total"
    assert after[samples] - before[samples] == 2 * len(FILES)


def metered_anywhere(options: FeedOptions) -> tuple[FeedOptions, int]:
    """Take a free port; another program may be quicker, then another one."""
    while True:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
        try:
            return metered(options, port), port
        except (VolumeFailed, Conflict):
            continue


def test_a_port_beside_another_observer_and_an_impossible_one_are_refused() -> None:
    with pytest.raises(Invalid, match="observer"):
        metered(FeedOptions(observer=LoaderMetrics(CollectorRegistry())), 9466)
    with pytest.raises(Invalid, match="65535"):
        metered(FeedOptions(), 0)


WORKER = """
import sys
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.metrics.loader import loader_metrics
rank = int(sys.argv[2])
options = FeedOptions(8, rank=rank, world_size=2, observer=loader_metrics())
with Feed(sys.argv[1], "train", options) as feed:
    print(sum(len(batch) for batch in feed))
from lakefeed.metrics.exporter import _all_processes, page
shown = _all_processes()
assert shown is not None and f"lakefeed_loader_samples_total {50.0 * (rank + 1)}" in page(shown)
"""


@pytest.mark.slow
def test_worker_processes_add_up_dead_ones_included(tmp_path: Path) -> None:
    lake, values_directory = tmp_path / "lake", tmp_path / "values"
    values_directory.mkdir()
    with Lake.create(lake) as made, made.writer(QUIET) as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(values_directory)}
    counts = []
    for rank in range(2):
        done = subprocess.run([sys.executable, "-c", WORKER, str(lake), str(rank)], check=True,
                              env=environment, capture_output=True, text=True)  # fmt: skip
        counts.append(int(done.stdout))
    with serve(0, directory=values_directory) as exporter:
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            found = values(answer.read().decode())
    assert counts == [50, 50]
    assert found["lakefeed_loader_samples_total"] == 100
    assert found["lakefeed_loader_bytes_total"] == sum(map(len, FILES.values()))
    assert "lakefeed_loader_queue_depth" not in found, "of no process that is there any more"
    assert found["lakefeed_loader_epoch"] == 0, "of the last batch, whoever took it"
