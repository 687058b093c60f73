"""The plan of a compaction: worth it, bounded, the same for the same facts, and then done."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.format.commit import PackInfo, State
from lakefeed.format.pack import PackSealed
from lakefeed.lake import compaction
from lakefeed.lake.compaction import CompactionOptions, CompactionPlan, plan_compaction
from lakefeed.lake.compactor import within
from lakefeed.lake.repacking import CopyOptions
from lakefeed.lake.throttle import Throttle

TARGET = 1000
OPTIONS = CompactionOptions(target_bytes=TARGET)
# (payload bytes, live bytes, rows) of packs in which not everything need be live.
PACKS = st.lists(
    st.tuples(st.integers(0, 2 * TARGET), st.floats(0, 1), st.integers(0, 50)), max_size=12
)


def state_of(packs: list[tuple[int, float, int]]) -> tuple[State, dict[str, int]]:
    """Return a state with packs of these (payload bytes, live share, rows), and their usage.

    They weigh what their payloads do: an index of a few bytes would rule packs as small as these.
    """
    infos, usage = {}, {}
    for number, (payload_bytes, live, rows) in enumerate(packs):
        id_ = f"{number:032x}"
        sealed = PackSealed(id_, payload_bytes, payload_bytes + 4, 4, rows, 0, "a", "z", ())
        infos[id_] = PackInfo(sealed, number + 1)
        usage[id_] = int(payload_bytes * live)
    return State(number=len(packs), packs=infos), usage


def plan(packs: list[tuple[int, float, int]], options: CompactionOptions = OPTIONS) -> list[int]:
    """Return the numbers of the packs that would be rewritten, in the order of the plan."""
    return [int(pack.id, 16) for pack in plan_compaction(*state_of(packs), options).inputs]


def after(
    state: State, usage: dict[str, int], done: CompactionPlan
) -> tuple[State, dict[str, int]]:
    """Return what a run would leave: full packs, and one of what remains."""
    gone = {pack.id for pack in done.inputs}
    packs = [
        (info.sealed.payload_end - 4, usage[id_] / max(info.sealed.payload_end - 4, 1),
         info.sealed.rows)
        for id_, info in state.packs.items() if id_ not in gone
    ]  # fmt: skip
    rest, rows = done.live_bytes, sum(pack.rows for pack in done.inputs)
    while rest >= done.target_bytes:
        packs.append((done.target_bytes, 1.0, rows // 2))
        rest, rows = rest - done.target_bytes, rows // 2
    if rest or rows:
        packs.append((rest, 1.0, rows))
    return state_of(packs)


def test_full_and_live_packs_are_left_alone() -> None:
    assert plan([(1000, 1.0, 5), (1000, 0.5, 5), (500, 0.6, 5)]) == []
    assert plan([]) == []


def test_small_packs_are_merged_and_a_single_one_is_not() -> None:
    assert plan([(10, 1.0, 1), (20, 1.0, 1), (15, 1.0, 1)]) == [0, 2, 1]
    assert plan([(10, 1.0, 1), (1000, 1.0, 1)]) == []


def test_mostly_dead_packs_are_rewritten_the_emptiest_first() -> None:
    assert plan([(1000, 0.4, 5), (1000, 0.0, 5), (1000, 0.1, 5), (1000, 0.9, 5)]) == [1, 2, 0]


def test_a_pack_much_bigger_than_all_smaller_ones_waits_unless_the_result_is_full() -> None:
    assert plan([(300, 1.0, 1), (10, 1.0, 1), (10, 1.0, 1)]) == [1, 2]
    assert plan([(480, 1.0, 1), (10, 1.0, 1), (10, 1.0, 1)]) == [1, 2, 0]


def test_a_service_may_ask_for_more_packs_to_merge() -> None:
    many = replace(OPTIONS, packs_min=4)
    assert plan([(10, 1.0, 1)] * 3, many) == []
    assert plan([(10, 1.0, 1)] * 4, many) == [0, 1, 2, 3]


def test_a_run_is_bounded_and_says_what_is_left() -> None:
    packs = [(100, 1.0, 10)] * 10
    bounded = plan_compaction(*state_of(packs), replace(OPTIONS, bytes_max=350))
    assert (len(bounded.inputs), bounded.left) == (3, 7)
    bounded = plan_compaction(*state_of(packs), replace(OPTIONS, rows_max=45))
    assert (len(bounded.inputs), bounded.left) == (4, 6)


@pytest.mark.parametrize("bound", [{"bytes_max": 350}, {"rows_max": 35}])
def test_packs_that_are_enough_but_too_big_for_one_run_are_merged_in_several(
    bound: dict[str, int],
) -> None:
    options = replace(OPTIONS, packs_min=8, **bound)
    done = plan_compaction(*state_of([(100, 1.0, 10)] * 8), options)
    assert (len(done.inputs), done.left) == (3, 5)
    assert plan([(100, 1.0, 10)] * 7, options) == []


def test_a_run_takes_no_more_packs_than_it_can_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "INPUTS_MAX", 3)
    done = plan_compaction(*state_of([(10, 1, 1)] * 5 + [(900, 0.1, 1)] * 5), OPTIONS)
    assert [pack.reason for pack in done.inputs] == ["live ratio"] * 3 + ["small"] * 3
    assert done.left == 4


def test_a_pack_above_the_bound_has_its_turn_alone() -> None:
    one = plan_compaction(*state_of([(5000, 0.4, 5)] * 2), replace(OPTIONS, bytes_max=100))
    assert (len(one.inputs), one.left) == (1, 1)


def test_a_pack_of_very_many_tiny_files_is_full() -> None:
    assert plan([(10, 1.0, 1 << 20), (10, 1.0, 1 << 20)]) == []


@pytest.mark.parametrize(
    "wrong", [{"live_ratio": 0.9}, {"live_ratio": -0.1}, {"target_bytes": 0}, {"packs_min": 1}]
)
def test_options_that_would_never_end_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Invalid):
        CompactionOptions(**wrong)  # type: ignore[arg-type]


@given(packs=PACKS, bytes_max=st.integers(1, 5000), rows_max=st.integers(1, 300))
def test_every_plan_is_worth_it_bounded_and_deterministic(
    packs: list[tuple[int, float, int]], bytes_max: int, rows_max: int
) -> None:
    options = replace(OPTIONS, bytes_max=bytes_max, rows_max=rows_max)
    state, usage = state_of(packs)
    found = plan_compaction(state, usage, options)
    backwards = replace(state, packs=dict(reversed(state.packs.items())))
    assert found == plan_compaction(backwards, usage, options)
    assert len({pack.id for pack in found.inputs}) == len(found.inputs)
    for pack in found.inputs:
        dead = pack.payload_bytes and pack.live_bytes < 0.5 * pack.payload_bytes
        assert pack.reason == ("live ratio" if dead else "small")
        assert dead or pack.bytes < TARGET / 2
    if len(found.inputs) > 1:
        assert found.live_bytes <= bytes_max
        assert sum(pack.rows for pack in found.inputs) <= rows_max
    small = [pack for pack in found.inputs if pack.reason == "small"]
    if small:
        assert len(found.inputs) >= 2


@given(packs=PACKS)
def test_runs_come_to_an_end(packs: list[tuple[int, float, int]]) -> None:
    state, usage = state_of(packs)
    for _ in range(4):
        found = plan_compaction(state, usage, OPTIONS)
        if found.empty:
            return
        state, usage = after(state, usage, found)
    raise AssertionError(f"still {found.inputs}")


@given(
    size=st.integers(1, 100),
    arrivals=st.integers(50, 300),
    packs_min=st.sampled_from([2, 8, 16]),
)
def test_a_byte_is_rewritten_a_logarithmic_number_of_times(
    size: int, arrivals: int, packs_min: int
) -> None:
    options = replace(OPTIONS, packs_min=packs_min)
    state, usage = state_of([])
    written = 0
    for _ in range(arrivals):
        packs = [(i.sealed.payload_end - 4, 1.0, 1) for i in state.packs.values()]
        state, usage = state_of([*packs, (size, 1.0, 1)])
        found = plan_compaction(state, usage, options)
        if not found.empty:
            written += found.live_bytes
            state, usage = after(state, usage, found)
    # Every rewriting makes the pack that a byte lies in so much bigger, up to half the target.
    assume(written)
    assert written <= arrivals * size * (1 + log(TARGET / size, 1 + packs_min / 4))


def test_a_throttle_lets_a_rate_pass_and_waits_on_no_clock_of_its_own() -> None:
    now = 100.0
    waits: list[float] = []

    def wait(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    throttle = Throttle(1000.0, lambda: now, wait)
    for _ in range(10):
        throttle.take(500)
    assert now == pytest.approx(100.0 + 5.0 - 0.1)
    assert len(waits) == 10
    free = Throttle(None, lambda: now, wait)
    free.take(10**12)
    assert len(waits) == 10


def test_a_run_copies_no_more_than_its_rate_moves_in_its_time() -> None:
    options = CompactionOptions(bytes_max=1000)
    assert within(options, CopyOptions(), 10) == options
    for rate, expected in ((7.0, 70), (1000.0, 1000), (0.01, 1)):
        assert within(options, CopyOptions(rate_bytes=rate), 10).bytes_max == expected
