"""Every formula of bench/metrics.py against figures worked out by hand."""

from __future__ import annotations

import pytest

from lakefeed.bench import metrics
from lakefeed.bench.metrics import Quantiles, Span


def test_utilisation_leaves_the_first_step_out_above_and_below() -> None:
    # Four steps of 2 s; the first took 5 s in all, the epoch 13 s: 6 / (13 - 5).
    assert metrics.accelerator_utilisation([2, 2, 2, 2], 13, 5) == 0.75


@pytest.mark.parametrize("steps", [[], [2.0]])
def test_utilisation_of_less_than_two_steps_is_nothing(steps: list[float]) -> None:
    assert metrics.accelerator_utilisation(steps, 10, 2) == 0


def test_utilisation_of_no_time_is_nothing() -> None:
    assert metrics.accelerator_utilisation([2, 0], 4, 4) == 0


def test_mean_of_nothing_is_nothing() -> None:
    assert metrics.mean([0.8, 0.9]) == pytest.approx(0.85)
    assert metrics.mean([]) == 0


def test_a_rate_is_an_amount_over_the_wall_time() -> None:
    assert metrics.rate(240, 8) == 30
    assert metrics.rate(240, 0) == 0


def test_demand_of_retinanet_on_b200() -> None:
    # 24 / 0.04755 s = 504.73 samples/s of 322,957 bytes: 163.0 MB/s.
    wanted = metrics.demand(24, 0.04755, 322_957)
    assert wanted.samples_per_second == pytest.approx(504.7, abs=0.05)
    assert wanted.bytes_per_second == pytest.approx(163.0e6, abs=0.05e6)


def test_the_least_samples_are_the_larger_of_two_rules() -> None:
    # 500 x 24 x 2 = 24,000; five times 1 GiB of 322,957 bytes = 16,623.5 samples.
    assert metrics.samples_min(24, 2, 1 << 30, 322_957) == 24_000
    # Five times 24 GiB: 398,966.1, and a sample cannot be cut.
    assert metrics.samples_min(24, 2, 24 << 30, 322_957) == 398_967


def test_stall_share() -> None:
    assert metrics.stall_share([0.5, 1.5], 8) == 0.25
    assert metrics.stall_share([1], 0) == 0


def test_quantiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert metrics.quantiles(values) == Quantiles(50, 95, 99, 100, 50.5)
    assert metrics.quantiles([3, 1]) == Quantiles(1, 3, 3, 3, 2)
    assert metrics.quantiles([]) == Quantiles()
    # The 3 stands for nine: the list is 1, 3, 3, 3, 3, 3, 3, 3, 3, 3.
    assert metrics.quantiles([3, 1], [9, 1]) == Quantiles(3, 3, 3, 3, 2.8)
    assert metrics.quantiles([3, 1], [1, 9]).p50 == 1


def test_three_rates_split_a_samples_time() -> None:
    # 1 ms to compute, 2 ms with preparation, 4 ms with fetching.
    split = metrics.stalls(1000, 500, 250)
    assert (split.compute_share, split.prepare_share, split.fetch_share) == (0.25, 0.25, 0.5)
    # A phase that came out faster than the one before adds nothing.
    split = metrics.stalls(1000, 2000, 500)
    assert (split.compute_share, split.prepare_share, split.fetch_share) == (0.5, 0, 0.5)


def test_headroom() -> None:
    assert metrics.headroom(300, 200) == 1.5
    assert metrics.headroom(300, 0) == 0


def test_read_amplification() -> None:
    assert metrics.read_amplification(150, 100) == 1.5
    assert metrics.read_amplification(150, 0) == 0


def test_cpu_per_thousand_samples() -> None:
    assert metrics.cpu_per_thousand(3, 1500) == 2
    assert metrics.cpu_per_thousand(3, 0) == 0


def test_the_knee_is_where_more_gains_next_to_nothing() -> None:
    assert metrics.knee({1: 100, 4: 380, 16: 900, 64: 950}) == 16
    assert metrics.knee({1: 100, 4: 104, 16: 90}) == 1
    assert metrics.knee({1: 100, 4: 400, 16: 1600}) == 16
    assert metrics.knee({64: 950, 4: 380, 16: 900, 1: 100}) == 16
    # A dip does not end the climb.
    assert metrics.knee({1: 100, 4: 95, 16: 300}) == 16
    assert metrics.knee({}) is None


def test_a_counter_that_begins_again_counts_on() -> None:
    assert metrics.counted([1000, 1100, 40, 140]) == [0, 100, 140, 240]
    assert metrics.counted([7]) == [0]


def test_energy_is_the_area_under_the_power() -> None:
    # 100 W for 1 s, then rising to 200 W over 2 s: 100 + 300.
    assert metrics.energy([0, 1, 3], [100, 100, 200]) == [0, 100, 400]
    # Half of the first second, and all but the last quarter of the other two.
    assert metrics.within([(0.5, 1), (1, 2.5)], [0, 1, 3], [0, 100, 400]) == 50 + 225
    assert metrics.within([(-2, 0), (3, 9)], [0, 1, 3], [0, 100, 400]) == 0
    assert metrics.joules_per_sample(400, 100) == 4
    assert metrics.joules_per_sample(400, 0) == 0


def test_spans_fall_into_bins_by_overlap() -> None:
    # 4 between 0.5 and 2.5: a quarter, half and a quarter of it in bins of 1 s.
    assert metrics.binned([Span(0.5, 2.5, 4)], [0, 1, 2, 3]) == [1, 2, 1]
    # A moment without length belongs to its bin.
    assert metrics.binned([Span(1.5, 1.5, 7)], [0, 1, 2, 3]) == [0, 7, 0]


def test_histograms_keep_what_is_outside() -> None:
    assert metrics.histogram([0.5, 1.0, 1.5, 9, -1], [0, 1, 2, 3]) == [2, 2, 1]
    assert metrics.histogram([0.5, 1.5], [0, 1, 2, 3], [7, 2]) == [7, 2, 0]
