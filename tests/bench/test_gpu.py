"""GPU sampling: this machine's own GPUs or their absence, and what becomes of a probe's readings.

NVML itself is met in `test_nvml`.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lakefeed.bench import gpu, gpu_gauges
from lakefeed.bench.gpu import RsmiProbe, Sampler
from lakefeed.bench.gpu_probe import NoProbe, Reading
from lakefeed.bench.monitoring import Monitor, MonitorOptions
from lakefeed.bench.watching import Gauges
from lakefeed.metrics.gpu import GpuMetrics
from tests.support.patience import PATIENCE_SECONDS


def test_this_machine_has_gpus_or_says_why_not() -> None:
    probe = gpu.find()
    try:
        assert bool(probe.names) != bool(probe.why)
        assert len(probe.read()) == len(probe.names)
    finally:
        probe.close()
        probe.close()


def test_no_gpu_is_a_value() -> None:
    with Sampler(NoProbe("no GPU (none)")) as sampler:
        pass
    facts = sampler.facts([(0, 1e12)], 10)
    assert facts["busy"] is None
    assert facts["joules_per_sample"] is None
    assert facts["why"] == "no GPU (none)"
    assert sampler.line(0, [1, 2]) == []


def test_a_gpu_that_was_not_read_in_time_is_no_missing_one() -> None:
    facts = Sampler(Steady()).facts([(0, 1)], 10)  # type: ignore[arg-type]
    assert facts["names"] == ["one"]
    assert facts["busy"] is facts["joules"] is None


class Steady:
    """One GPU that draws 100 W; says when it was read often enough."""

    why = ""
    names = ("one",)

    def __init__(self) -> None:
        self.enough = threading.Event()
        self.count = 0

    def read(self) -> list[Reading]:
        self.count += 1
        if self.count >= 4:
            self.enough.set()
        return [Reading(0, busy=0.25, watts=100.0)]

    def close(self) -> None: ...


def test_samples_become_means_and_energy() -> None:
    probe = Steady()
    with Sampler(probe, 0.01) as sampler:  # type: ignore[arg-type]
        assert probe.enough.wait(30)
    moments = [moment for moment, _ in sampler._samples]
    facts = sampler.facts([(moments[0], moments[-1])], 10)
    assert (facts["busy"], facts["watts"], facts["sm"]) == (0.25, 100, None)
    assert facts["joules"] == pytest.approx(100 * (moments[-1] - moments[0]))
    assert facts["joules_per_sample"] == pytest.approx(facts["joules"] / 10)
    assert sampler.line(moments[0], [0.0]) == [0.25]
    assert sampler.facts([(0, 1)], 10)["busy"] is None


def test_a_long_run_keeps_some_samples_of_all_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SAMPLES_MAX", 4)
    probe = Steady()
    sampler = Sampler(probe, 1.0)  # type: ignore[arg-type]
    paused: list[float] = []

    def wait(seconds: float) -> bool:
        paused.append(seconds)
        return len(paused) == 7

    monkeypatch.setattr(sampler._stop, "wait", wait)
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    sampler._run()
    assert paused == [1, 1, 1, 2, 2, 4, 4]
    assert [moment for moment, _ in sampler._samples] == [0, 4, 6]
    assert sampler.facts([(1, 6)], 1)["joules"] == 500
    assert sampler.line(0, [-1, 3, 9]) == [0.25] * 3


def test_what_is_done_between_two_stretches_is_not_counted() -> None:
    sampler = Sampler(NoProbe("none"))
    sampler._samples = [
        (float(at), [Reading(0, busy=float(at not in (3, 4, 5)), watts=100.0)]) for at in range(9)
    ]
    facts = sampler.facts([(0, 2), (6, 8)], 10)
    assert (facts["busy"], facts["joules"], facts["joules_per_sample"]) == (1, 400, 40)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("epoch", [0.5, 1.6, 8.0])
def test_epochs_have_all_of_their_energy(epoch: float, counts: bool) -> None:
    """Between samples too, which may be further apart than an epoch is long."""
    sampler = Sampler(NoProbe("none"))
    sampler._samples = [
        (float(at), [Reading(0, watts=100.0, joules=at * 100.0 if counts else None)])
        for at in range(200)
    ]
    spans = [(2 * epoch * at, 2 * epoch * at + epoch) for at in range(10)]
    facts = sampler.facts(spans, 10)
    assert facts["joules"] == pytest.approx(100 * 10 * epoch)
    assert facts["joules_per_sample"] == pytest.approx(100 * epoch)


def test_energy_is_never_negative_where_a_driver_is_loaded_anew() -> None:
    joules = [1e6, 1e6 + 100, 1e6 + 200, 60, 160]
    sampler = Sampler(NoProbe("none"))
    sampler._samples = [(float(at), [Reading(0, joules=each)]) for at, each in enumerate(joules)]
    assert sampler.facts([(0, 4)], 1)["joules"] == 360
    registry = CollectorRegistry()
    with gpu_gauges.GpuGauges(GpuMetrics(registry), Told(joules)) as gauges:
        for _ in joules:
            gauges.read()
    assert 'lakefeed_gpu_energy_joules_total{gpu="0"} 360.0' in generate_latest(registry).decode()


class Told:
    """One GPU whose counter shows one figure after the other."""

    names = ("told",)
    why = ""

    def __init__(self, joules: list[float]) -> None:
        self._joules = iter(joules)

    def read(self) -> list[Reading]:
        return [Reading(0, joules=next(self._joules))]

    def close(self) -> None:
        """Nothing to let go of."""


def test_each_moment_has_its_nearest_sample() -> None:
    sampler = Sampler(NoProbe("none"))
    sampler._samples = [(at, [Reading(0, busy=at)]) for at in (0.0, 1.0, 4.0)]
    assert sampler.line(0, [-9, 0.4, 0.6, 2.0, 3.0, 99]) == [0, 0, 1, 1, 4, 4]


def test_where_nobody_tells_how_busy_a_gpu_is_there_is_no_line() -> None:
    sampler = Sampler(NoProbe("none"))
    sampler._samples = [(float(at), [Reading(0, sm=0.5)]) for at in range(4)]
    assert sampler.line(0, [0, 1, 2]) == []
    sampler._samples.append((4.0, [Reading(0, busy=0.75)]))
    assert sampler.line(0, [0, 1, 2]) == [0.75] * 3


def test_gpus_that_others_use_do_not_count_once_a_process_is_seen_on_its_own() -> None:
    sampler = Sampler(NoProbe("none", ["a", "b"]))
    others = Reading(0, busy=0.1, watts=900.0)
    sampler._samples = [
        (float(at), [others, Reading(1, busy=0.8, watts=100.0, own=at == 3)]) for at in range(5)
    ]
    facts = sampler.facts([(0, 4)], 10)
    assert (facts["names"], facts["there"]) == (["b"], 2)
    assert (facts["busy"], facts["watts"], facts["joules"]) == (pytest.approx(0.8), 100, 400)
    assert sampler.line(0, [1]) == [0.8]


def test_a_gpu_that_is_gone_in_a_later_training_costs_no_report() -> None:
    sampler = Sampler(NoProbe("none"))
    both = [Reading(0, watts=100.0), Reading(1, watts=50.0)]
    sampler._samples = [(0.0, both), (1.0, both), (2.0, both[:1])]
    assert sampler.facts([(0, 2)], 1)["joules"] == 250


def test_rocm_is_read() -> None:
    ended: list[int] = []
    rocml = SimpleNamespace(
        smi_initialize=lambda: None,
        smi_get_device_count=lambda: 1,
        smi_get_device_name=lambda number: "MI",
        smi_get_device_utilization=lambda number: 70,
        smi_get_device_average_power=lambda number: 250,
        smi_shutdown=lambda: ended.append(1),
    )
    probe = RsmiProbe(rocml)
    assert probe.read() == [Reading(0, 0.7, None, 250.0, None)]
    # What it cannot tell, the average power of an MI300 for one.
    rocml.smi_get_device_utilization = rocml.smi_get_device_average_power = lambda number: -1
    assert probe.read() == [Reading(0)]
    probe.close()
    probe.close()
    assert ended == [1]


def test_rocms_library_without_its_gpus_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_nvidia() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def no_driver() -> None:
        raise RuntimeError("ROCm driver initialization failed")

    def no_library(name: str) -> None:
        raise UnboundLocalError("path")

    monkeypatch.setattr(gpu, "NvmlProbe", no_nvidia)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    count = {"smi_get_device_count": lambda: -1, "smi_shutdown": lambda: None}
    empty = SimpleNamespace(smi_initialize=lambda: None, **count)
    broken = SimpleNamespace(smi_initialize=no_driver, **count)
    for load, why in (
        (no_library, "path"),
        (lambda name: broken, "driver initialization failed"),
        (lambda name: empty, "pyrsmi finds none"),
    ):
        monkeypatch.setattr(importlib, "import_module", load)
        probe = gpu.find()
        assert probe.names == []
        assert probe.why.startswith("no GPU (")
        assert why in probe.why


def test_gpus_are_among_the_metrics_that_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `bench train --metrics-port`, and by a training of one's own."""
    probe = Steady()
    monkeypatch.setattr(gpu_gauges, "READ_SECONDS", 0.01)
    monkeypatch.setattr(gpu, "find", lambda: probe)

    def served(address: str | None) -> str:
        assert address is not None
        assert probe.enough.wait(30)
        with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    gauges = Gauges.serve(0)
    texts = [served(gauges.address)]
    gauges.close()
    probe.enough.clear()
    monitor = Monitor(MonitorOptions(metrics_port=0))
    for _ in range(2):  # of one monitor, as each `fit` of Keras is
        monitor.begin_epoch()
        texts.append(served(monitor.address))
        monitor.close()
        probe.enough.clear()
    for text in texts:
        assert 'lakefeed_gpu_utilization_ratio{gpu="0"} 0.25' in text
        assert 'lakefeed_gpu_power_watts{gpu="0"} 100.0' in text
        assert "lakefeed_build_info{version=" in text
    names = [thread.name for thread in threading.enumerate()]
    assert "lakefeed-gpu-metrics" not in names


@pytest.mark.slow
def test_gpus_are_sampled_in_each_training_of_a_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[Steady] = []

    def find() -> Steady:
        probes.append(Steady())
        return probes[-1]

    monkeypatch.setattr(gpu, "find", find)
    monitor = Monitor(MonitorOptions(tmp_path / "run.html"))
    for training in range(2):
        monitor.begin_epoch()
        began = time.monotonic()
        assert len(probes) == training + 1
        assert probes[-1].enough.wait(30)
        for _ in range(2):
            monitor.step(began, began, time.monotonic(), (1, 1))
        monitor.close()
    spans = [(epoch.start, epoch.end) for epoch in monitor._keeper.epochs]
    assert monitor._sampler is not None
    for span in spans:
        assert monitor._sampler.facts([span], 1)["busy"] == 0.25


def test_samples_become_metrics() -> None:
    registry = CollectorRegistry()
    metrics = GpuMetrics(registry)
    metrics.sampled(0, 0.8, None, 300.0, 60.0)
    metrics.sampled(0, 0.9, 0.5, 310.0, 61.0)
    text = generate_latest(registry).decode()
    assert 'lakefeed_gpu_utilization_ratio{gpu="0"} 0.9' in text
    assert 'lakefeed_gpu_sm_utilization_ratio{gpu="0"} 0.5' in text
    assert 'lakefeed_gpu_energy_joules_total{gpu="0"} 121.0' in text
    assert "lakefeed_build_info{version=" in text
