"""The number of reads in flight settles at the knee, and gaps are read where that is cheaper."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lakefeed.feed.control import WIDTH_MAX, Costs, Width


def settled(rate: Callable[[int], float], start: int = 1, rounds: int = 400) -> list[int]:
    """The widths of the second half of a run in which `rate` gives reads a second at a width."""
    width = Width()
    if start > 1:
        width.jump(start)
    seen = []
    for _ in range(rounds):
        seen.append(width.target)
        width.note(100, 100 * 65536, 100 / rate(width.target))
    return seen[rounds // 2 :]


def typical(widths: list[int]) -> int:
    return sorted(widths)[len(widths) // 2]


def test_a_page_cache_stays_narrow() -> None:
    assert typical(settled(lambda width: 1000.0)) == 1
    # Two processors: the second worker pays, the third does not.
    assert typical(settled(lambda width: 1000.0 * min(width, 2))) == 2
    # Threads that fight for the interpreter.
    assert typical(settled(lambda width: 1000.0 / (1 + 0.1 * width))) == 1


@pytest.mark.parametrize("start", [1, 8])
def test_a_volume_that_makes_its_callers_wait_gets_many(start: int) -> None:
    assert typical(settled(lambda width: width * 1000.0, start)) == WIDTH_MAX


@pytest.mark.parametrize("knee", [4, 16, 40])
def test_the_knee_is_found_and_not_passed_by_far(knee: int) -> None:
    width = typical(settled(lambda width: 1000.0 * min(width, knee)))
    assert knee * 0.75 <= width <= knee * 2


def test_a_volume_that_becomes_slower_is_noticed() -> None:
    width = Width()
    for _ in range(100):
        width.note(100, 0, 0.1 / min(width.target, 2))
    assert width.target <= 3
    for _ in range(1500):
        width.note(100, 0, 1.0 / min(width.target, 32))
    assert width.target >= 16


def test_a_width_that_proves_too_low_grows_without_delay() -> None:
    width = Width()
    for _ in range(100):
        width.note(100, 0, 0.1 / min(width.target, 2))
    rounds = 0
    while width.target < 16:
        width.note(100, 0, 0.1 / min(width.target, 32))
        rounds += 1
    assert rounds < 150  # two tries downwards or up, and from then on one after the other


def test_reads_that_become_big_do_not_count_as_gain() -> None:
    """Windows grow, and with them reads: from 100 kB, 4,800 a second at most, to 2 GB/s in all."""
    width = Width()
    width.jump(8)
    for _ in range(2):
        reads = min(width.target * 300, 4800)
        width.note(reads, reads * 100_000, 1.0)
    assert width.target == 32
    for _ in range(30):
        width.note(500, 500 * 4_000_000, 1.0)
    assert width.target == 16


def test_small_reads_and_big_ones_in_turns_do_not_move_the_width() -> None:
    """A millisecond a call and a gigabyte a second, up to 16 at a time."""
    width = Width()
    seen = []
    for turn in range(1200):
        size = 4096 if turn // 60 % 2 else 65536
        seconds = 100 * (1e-3 + size * 1e-9) / min(width.target, 16)
        width.note(100, 100 * size, seconds, 1e6)
        seen.append(width.target)
    assert min(seen[100:]) >= 8
    assert max(seen) <= 32


def test_noise_does_not_widen_without_bound() -> None:
    noise = [1.0, 1.06, 0.95, 1.03, 0.97]
    turn = iter(range(100_000))
    widths = settled(lambda width: 1000.0 * min(width, 2) * noise[next(turn) % 5])
    assert typical(widths) <= 4


@pytest.mark.parametrize(
    ("call", "byte", "low", "high"),
    [(2e-6, 1.3e-10, 8e3, 30e3), (2e-4, 1e-9, 100e3, 400e3), (1e-4, 1e-8, 5e3, 20e3)],
    ids=["page cache", "filer", "slow line"],
)
def test_the_gap_worth_reading_is_learned(
    call: float, byte: float, low: float, high: float
) -> None:
    costs = Costs()
    for turn in range(200):
        reads, read_bytes = 100, 100 * (4096 if turn % 2 else 262144)
        costs.note(reads, read_bytes, reads * call + read_bytes * byte)
    assert low < costs.gap_bytes < high
    costs.note(0, 0, 0.0)
    assert low < costs.gap_bytes < high
