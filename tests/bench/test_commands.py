"""The bench commands as a user types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from lakefeed.bench import environment, mountstats, page, probing, volume
from lakefeed.bench.mountstats import NfsMount, Operation
from lakefeed.bench.reports import SCHEMA
from lakefeed.bench.volume import VolumeOptions, measured
from lakefeed.bench.watching import Difference, plot
from lakefeed.cli import app
from lakefeed.cli.benching import data_option, delays_option
from lakefeed.volume.mountinfo import Mount
from tests.support.patience import PATIENCE_SECONDS
from tests.support.silent import silenced
from tests.support.stalling import stalling

pytestmark = pytest.mark.slow


def ran(*words: str | Path) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def process(*words: str | Path, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lakefeed", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's background job, as these tests may be, ignores interrupts and hands that down.
    return subprocess.Popen(
        command,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **{**pipes, **more},
    )


def test_generate_and_train(tmp_path: Path, workload_file: Path) -> None:
    lake = tmp_path / "lake"
    assert ran("create", lake).exit_code == 0
    made = ran("bench", "generate", lake, "--workload", workload_file, "--samples", 64, "--json")
    assert json.loads(made.stdout)["samples"] == 64
    done = ran(
        "bench", "train", lake, "--workload", workload_file, "--epochs", 1, "--steps", 6, "--json",
        "--report", tmp_path / "run", "--check",
    )  # fmt: skip
    assert done.exit_code == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["schema"] == SCHEMA
    assert facts["passed"] is True
    assert json.loads((tmp_path / "run.json").read_text()) == facts
    assert (tmp_path / "run.html").stat().st_size > 10_000
    strict = tmp_path / "strict.toml"
    strict.write_text(workload_file.read_text().replace("_min = 0.01", "_min = 1.0"))
    failed = ran(
        "bench", "train", lake, "--workload", strict, "--epochs", 1, "--steps", 6, "--check"
    )
    assert failed.exit_code == 1
    assert "FAIL: lake keeps 1 emulated x waiting" in failed.stdout
    both = ran("bench", "compare", tmp_path / "run.json", tmp_path / "run.json", "--json")
    assert json.loads(both.stdout)["changes"][0]["samples_per_second"] == 1


def test_bad_input_has_its_exit_codes(lake: Path, tmp_path: Path, workload_file: Path) -> None:
    own = ("--workload", workload_file)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    for words, code, said in (
        (("bench", "train", tmp_path / "none", *own), 3, "none"),
        (("bench", "train", lake, "--workload", "retinnet"), 3, "known are cosmoflow"),
        (("bench", "train", lake, "--accelerator", "tpu"), 2, "b200"),
        (("bench", "train", lake, *own, "--at", "9"), 3, "at most"),
        (("bench", "train", lake, *own, "--at", "2100-01-01", "-n", "500"), 2, "8,000 or more"),
        (("bench", "feed", lake, "--at", "@9999999999", "--batch-sizes", "999"), 2, "batch of 999"),
        (("bench", "train", lake, *own, "-n", "500"), 2, "8,000 or more"),
        (("bench", "train", lake, *own, "--strict"), 2, "MLPerf Storage's rule"),
        (("bench", "train", lake, *own, "--source", "mount"), 2, "lakefeed mount"),
        (("bench", "train", lake, *own, "--emulate", "slow"), 2, "write far, nas"),
        (("bench", "train", lake, *own, "--data", "plain"), 2, "plain=DIR"),
        (("bench", "train", lake, *own, "--device", "cpu", "-n", 2), 2, "--accelerators, expected"),
        (("bench", "train", lake, *own, "--device", "cpu", "--check"), 2, "leave it out"),
        (("bench", "train", lake, *own, "--device", "cpu", "--harness", "lean"), 2, "--harness"),
        (("bench", "train", lake, *own, "--batch-size", 32), 2, "--batch-size, expected a real"),
        (("bench", "train", lake, *own, "--sweep-max", 4), 2, "--sweep-max, expected --sweep"),
        (("bench", "train", lake, *own, "--metrics-port", port), 2, "a free port"),
        (("bench", "feed", lake, "--batch-sizes", "999"), 2, "batch of 999"),
        (("bench", "feed", lake, "--batch-sizes", "²"), 2, "write numbers"),
        (("bench", "feed", lake, "--batch-sizes", "8", "--shuffles", "global,rnus=8"), 2, "rnus=8"),
        (("bench", "train", lake, *own, "--source", "plain", "--shuffle", "glob"), 2, "'glob'"),
        (("bench", "train", lake, *own, "--window", 8), 2, 'shuffle="runs=K" with it'),
        (("bench", "volume", tmp_path, "--file-size", "1kB"), 2, "1 MiB or more"),
        (("bench", "volume", tmp_path / "none"), 3, "name a directory"),
        (("bench", "compare", tmp_path / "none.json"), 3, "name the .json that --report wrote"),
        (("doctor", tmp_path / "none"), 3, "name a directory"),
    ):
        done = ran(*words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        told = " ".join(re.sub("[│╭╰─╮╯]", " ", done.stderr).split())
        assert said in told, words
        assert "ceiling" not in told, "refused before anything was measured"
    taken.close()


@pytest.mark.parametrize("how", [(), ("--device", "cpu", "--framework", "torch")])
def test_a_volume_that_does_not_answer_ends_the_command(
    how: tuple[str, ...], lake: Path, workload_file: Path, tmp_path: Path
) -> None:
    stuck = tmp_path / "lake"
    shutil.copytree(lake, stuck)
    # Rows come from the index then, so that it is not before the payloads that nothing answers.
    assert ran("merge", "--all", stuck).exit_code == 0
    silent = silenced(tmp_path / "silent", *stuck.glob("packs/*/*.pack"))
    words = ("bench", "train", stuck, "--workload", workload_file, *how)
    running = process("--timeout", "500ms", *words, env={**os.environ, **silent})
    said = running.communicate(timeout=PATIENCE_SECONDS)[1]  # PyTorch takes its time to load
    assert (running.returncode, "found none for" in said) == (6, True), said


def test_measuring_a_volume_that_does_not_answer_ends(tmp_path: Path) -> None:
    with stalling(tmp_path) as filer:
        filer.stop()
        running = process("--timeout", "500ms", "bench", "volume", tmp_path)
        said = running.communicate(timeout=PATIENCE_SECONDS)[1]
    assert (running.returncode, "none for 0.5 seconds" in said) == (6, True), said


def test_doctor_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(probing, "probes", lambda directory: never.wait(60))
    done = ran("--timeout", "100ms", "doctor", tmp_path)
    never.set()
    assert (done.exit_code, "no answer in 0.1 seconds" in done.stderr) == (6, True)


def test_what_was_measured_is_printed_wherever_the_report_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = ("--file-size", "1MiB", "--files", 1, "--seconds", "10ms", "--concurrency", 1)
    (tmp_path / "file").write_bytes(b"")
    before = ran("bench", "volume", tmp_path, *cells, "--report", tmp_path / "file" / "r")
    assert (before.exit_code, before.stdout) == (4, "")
    (tmp_path / "r.html").mkdir()
    monkeypatch.setattr(page, "check", lambda where: None)
    after = ran("bench", "volume", tmp_path, *cells, "--report", tmp_path / "r")
    assert after.exit_code == 6
    assert "reads at most" in after.stdout


@pytest.mark.root
def test_cold_without_permission_is_a_usage_error() -> None:
    program = (
        "import os, sys; from lakefeed.bench import environment\n"
        "from lakefeed.errors import Invalid\n"
        "os.seteuid(65534)\n"
        "try: environment.drop_caches()\n"
        "except Invalid as error: print(error); sys.exit(error.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "leave --cold out" in done.stdout


@pytest.mark.parametrize(
    "words", [("train",), ("train", "--source", "plain"), ("train", "--device", "cpu"), ("feed",)]
)
def test_cold_without_permission_is_told_before_anything_is_copied_or_measured(
    words: tuple[str, ...], lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's file is another here, which nobody can write: the tests may run as root."""
    monkeypatch.setattr(environment, "DROP_CACHES", tmp_path / "none" / "drop_caches")
    done = ran("bench", words[0], lake, *words[1:], "--cold")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: invalid: cold run, expected permission to write")


def test_feed_has_ceilings_in_its_table(lake: Path, tmp_path: Path) -> None:
    done = ran(
        "bench", "feed", lake, "--batch-sizes", "16", "--shuffles", "global",
        "--prefetches", "4,auto", "--seconds", "100ms", "--json", "--report", tmp_path / "feed",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    names = [row["name"] for row in facts["feeds"]]
    assert names[:2] == ["memory (ceiling)", "bare reads (ceiling)"]
    assert names[2:] == [
        "batch 16, shuffle global, prefetch 4",
        "batch 16, shuffle global",
    ]
    assert facts["verdict"].startswith("TOO SMALL TO MEAN MUCH")
    for row in facts["feeds"]:
        assert row["samples_per_second"] > 0
        assert row["peak_rss_bytes"] > 1 << 20


def test_volume_measures_every_cell_and_cleans_up(tmp_path: Path) -> None:
    done = ran(
        "bench", "volume", tmp_path, "--file-size", "2MiB", "--files", 10, "--seconds", "20ms",
        "--concurrency", "1,2", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    names = {cell["name"] for cell in facts["reads"]}
    sizes = ("4 KiB", "64 KiB", "1 MiB")
    assert names == {f"{how} {size}" for how in ("sequential", "random") for size in sizes}
    assert {cell["name"] for cell in facts["calls"]} == {
        "open + close", "stat", "create 4 KiB", "create + fsync", "link", "rename"
    }  # fmt: skip
    for cell in (*facts["reads"], *facts["calls"]):
        assert cell["calls"] > 0
        assert cell["knee"] in (1, 2)
    assert "warm page cache" not in page.render(facts)
    assert list(tmp_path.iterdir()) == []


def test_volume_prints_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as on a local disk, then as on NFS: with what the client asked of the server."""
    cells = ("--file-size", "1MiB", "--files", 3, "--seconds", "10ms", "--concurrency", "1,2")
    local = ran("bench", "volume", tmp_path, *cells, "-q").stdout
    assert re.search(r"^MB/s, in flight: +1 +2 +knee +p50 +p99", local, re.MULTILINE)
    for kind in ("sequential 4 KiB", "random 1 MiB", r"create \+ fsync"):
        figures = r" +[\d,]+ +[\d,]+ +[12] +[\d.,]+ ms +[\d.,]+ ms"
        assert re.search(f"^{kind}{figures}", local, re.MULTILINE)
    assert "round trip" not in local
    # In this process, which knows of the mount that is none.
    line = SimpleNamespace(waits=lambda: None, tell=lambda *message: None)
    monkeypatch.setattr(volume, "run_apart", lambda work, hear, seconds: work(line))
    monkeypatch.setattr(volume, "mount_of", lambda _: Mount(1, "/m", "nfs4", "s:/", "0:1", {}))
    counted = [Operation(8, 9, round_trip_ms=4, execute_ms=16), Operation()]
    monkeypatch.setattr(
        mountstats, "read", lambda point: NfsMount(point, "4.2", 1, "", {"READ": counted.pop()})
    )
    nfs = ran("bench", "volume", tmp_path, *cells, "-q").stdout
    assert re.search(r"^READ +8 +\d+ +0.5 ms +2.0 ms +1", nfs, re.MULTILINE)


def test_nothing_is_read_beyond_the_end_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, short = os.pread, []

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        data = real(descriptor, length, offset)
        short.append(length - len(data))
        return data

    monkeypatch.setattr(os, "pread", pread)
    cells = VolumeOptions(str(tmp_path), 2_000_000, 1, 0.02, (1,), (4096,))
    line: Any = SimpleNamespace(waits=lambda: None, tell=lambda *message: None)
    measured(cells, tmp_path, line)
    assert set(short) == {0}


def test_doctor_passes_a_local_directory(tmp_path: Path) -> None:
    done = ran("doctor", tmp_path)
    assert done.exit_code == 0
    assert "fit for a lake" in done.stdout
    assert json.loads(ran("doctor", tmp_path, "--json").stdout)["level"] in ("ok", "warning")


def test_metrics_are_served_while_it_runs(lake: Path, workload_file: Path) -> None:
    running = process(
        "bench", "train", lake, "--workload", workload_file, "--epochs", 900, "--steps", 20,
        "--metrics-port", 0,
    )  # fmt: skip
    try:
        assert running.stderr is not None
        address = running.stderr.readline().removeprefix("metrics: ").strip()
        assert address.startswith("http://127.0.0.1:")
        text, waiting = "", threading.Event()
        while 'lakefeed_bench_steps_total{source="lake"}' not in text:
            assert running.poll() is None
            waiting.wait(0.1)
            with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS) as answer:
                text = answer.read().decode()
        assert 'lakefeed_bench_accelerator_utilization_ratio{source="lake"}' in text
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 130


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_is_left_behind(how: int, lake: Path, workload_file: Path) -> None:
    running = process(
        "bench", "train", lake, "--workload", workload_file, "-n", 2, "--epochs", 900, "--steps", 9,
        start_new_session=True,
    )  # fmt: skip
    assert running.stderr is not None
    while not running.stderr.readline().startswith("lake: 2 emulated"):
        assert running.poll() is None
    if how == signal.SIGINT:
        os.killpg(running.pid, how)  # as the terminal does it: everybody gets it
    else:
        running.kill()
    running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == (130 if how == signal.SIGINT else -how)
    # Python's own tracker of shared memory goes a moment after its parent.
    waiting, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return
        waiting.wait(0.1)
    raise AssertionError("a process of the group is still there")


def test_options_in_words() -> None:
    own = delays_option("latency=2ms,calls=5000,bandwidth=1GB")
    assert own is not None
    assert (own.call_seconds, own.calls_per_second, own.bytes_per_second) == (0.002, 5000, 1e9)
    assert delays_option("nas") is not None
    assert delays_option(None) is None
    assert data_option(["plain=/"]) == {"plain": "/"}


def test_the_live_plot_fits_its_terminal() -> None:
    plot([10.0], [1.0], 100)
    lines = plot([10.0, 90.0, 95.0], [1.0, 2.0, 3.0], 100).splitlines()
    assert 8 <= len(lines) <= 14
    assert lines[0].count("AU %") == lines[0].count("MB/s") == 1, "drawn anew, not divided again"
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert max(map(len, plain)) <= 100
    assert any("AU" in line for line in plain)


def test_a_look_sees_what_happened_since_the_last_one() -> None:
    clock = iter([0.0, 1.0, 3.0])
    difference = Difference(lambda: next(clock))
    moved, seconds = difference.since([[1, 10, 100, 0.5, 0.1, 0], [2, 20, 200, 0.5, 0.2, 0]])
    assert (moved["samples"], moved["accelerators"], seconds) == (30, 2, 1.0)
    moved, seconds = difference.since([[2, 20, 200, 1.0, 0.1, 0], [2, 20, 200, 0.5, 0.2, 0]])
    assert (moved["samples"], moved["compute_seconds"], seconds) == (10, 0.5, 2.0)
