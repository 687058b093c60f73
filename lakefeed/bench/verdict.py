"""Words for figures: one line that says how it went, one that says what to try next.

Pure functions from facts to sentences. A simulated figure is called simulated in the same line. A
run that is too short to mean anything says so before it says anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakefeed.bench.workloads import Workload

TOO_SMALL = "TOO SMALL TO MEAN MUCH"
# Below so many steps one late batch moves AU by a point.
STEPS_MIN = 100
SECONDS_MIN = 5.0
# Closer than this to the harness's own ceiling there is nothing left to win.
CEILING_POINTS = 0.02
# Ranks that keep the processors this busy are limited by them, not by the volume.
BUSY_SHARE = 0.85
# Batches from memory that come so much slower than others were kept from it by something else.
CEILING_TIMES = 1.2


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of a run."""

    passed: bool
    verdict: str
    advice: str


def percent(share: float | None) -> str:
    """Return '97.8 %'."""
    return "none" if share is None else f"{100 * share:.1f} %"


def gpu_words(gpu: Mapping[str, Any] | None) -> str:
    """Return 'GPU busy 81.0 %, SM 55.0 %, 412 W, 0.31 J a sample', as far as the driver tells.

    That there is no GPU is a value. A part of one (MIG) is a GPU that tells nothing of busy. Of
    several GPUs all but the energy are means.
    """
    if gpu is None or not gpu["names"]:
        return "no GPU"
    words = ["GPU busy not told" if gpu["busy"] is None else f"GPU busy {percent(gpu['busy'])}"]
    if len(gpu["names"]) > 1:
        words.append(f"mean of {len(gpu['names'])} GPUs")
    if gpu["sm"] is not None:
        words.append(f"SM {percent(gpu['sm'])}")
    if gpu["watts"] is not None:
        words.append(f"{gpu['watts']:,.0f} W")
    if gpu["joules_per_sample"] is not None:
        words.append(f"{gpu['joules_per_sample']:.3g} J a sample")
    return ", ".join(words)


def too_small(run: Mapping[str, Any]) -> str | None:
    """Return why a run means little, or None."""
    steps, seconds = run["steps"], run["wall_seconds"]
    if steps >= STEPS_MIN and seconds >= SECONDS_MIN:
        return None
    return f"{TOO_SMALL} ({steps} steps in {seconds:.1f} s)"


def judge(
    run: Mapping[str, Any],
    workload: Workload,
    ceiling: float | None,
    processors: int,
    simulated: str | None = None,
) -> Judgement:
    """Return the judgement of one emulated run against its workload's threshold."""
    utilisation = run["utilisation"]
    passed = utilisation >= workload.utilisation_min
    small = too_small(run)
    beside = "" if ceiling is None else f", ceiling of the harness {percent(ceiling)}"
    where = "" if simulated is None else f", {simulated}"
    count = run["accelerators"]
    verdict = (
        f"{'PASS' if passed else 'FAIL'}: {run['source']} keeps {count} emulated "
        f"{workload.accelerator} {'busy' if passed else 'waiting'} on {workload.name}: AU "
        f"{percent(utilisation)} ({percent(workload.utilisation_min)} wanted{beside}), "
        f"{run['samples_per_second']:,.0f} samples/s, "
        f"{run['bytes_per_second'] / 1e6:,.0f} MB/s{where}"
    )
    if small:
        verdict = f"{small}. {verdict}"
    return Judgement(passed, verdict, _next(run, workload, ceiling, processors))


def _next(
    run: Mapping[str, Any], workload: Workload, ceiling: float | None, processors: int
) -> str:
    utilisation, count = run["utilisation"], run["accelerators"]
    if too_small(run):
        return "measure longer: more samples, --steps or --epochs"
    if ceiling is not None and ceiling < workload.utilisation_min:
        return (
            f"no storage passes here: even batches from memory reach {percent(ceiling)}; use "
            "fewer accelerators for each host, or --harness lean to leave DLIO's bookkeeping out"
        )
    if utilisation >= workload.utilisation_min:
        return f"try more accelerators: --sweep finds how many this source feeds (now {count})"
    if run["cpus_busy"] >= BUSY_SHARE * processors:
        return (
            f"the processors are the limit ({run['cpus_busy']:.1f} of {processors} busy): more "
            "cores for each accelerator, or a source that costs less of them "
            f"(now {run['cpu_per_thousand_samples']:.2f} CPU s per 1,000 samples)"
        )
    wanted = workload.demand.bytes_per_second * count * workload.utilisation_min
    lacking = f"{run['bytes_per_second'] / 1e6:,.0f} of {wanted / 1e6:,.0f} MB/s"
    if run["source"] == "lake":
        return (
            f"storage is the limit ({lacking} came): look at the volume with "
            '"lakefeed bench volume" and "lakefeed doctor", or feed fewer accelerators'
        )
    return f"storage is the limit ({lacking} came): import the files and compare --source lake"


def compare(runs: Sequence[Mapping[str, Any]], workload: Workload, simulated: str | None) -> str:
    """Return one line that compares the sources of one report."""
    parts = [f"{run['source']} {percent(run['utilisation'])}" for run in runs]
    where = "" if simulated is None else f", {simulated}"
    return f"{small_first(runs)}AU on {workload.label} (emulated{where}): {', '.join(parts)}"


def sweep_line(
    sweeps: Mapping[str, Mapping[str, Any]], workload: Workload, simulated: str | None
) -> str:
    """Return one line on how many accelerators each source feeds."""
    parts = [f"{source} feeds {most_words(sweep)}" for source, sweep in sweeps.items()]
    points = [point for sweep in sweeps.values() for point in sweep["points"]]
    where = "" if simulated is None else f" ({simulated})"
    return (
        f"{small_first(points)}{', '.join(parts)} emulated {workload.accelerator} on "
        f"{workload.name} at AU {percent(workload.utilisation_min)} or better{where}"
    )


def most_words(sweep: Mapping[str, Any]) -> str:
    """Return '3', or '3 or more' where a sweep ended for want of more to try."""
    return f"{sweep['most']}{' or more' if sweep['most'] == sweep['highest_tried'] else ''}"


def small_first(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the warning that the smallest of some runs deserves, to be put first, or nothing."""
    # One with more steps may be the shorter one.
    ordered = sorted(runs, key=lambda run: (run["steps"], run["wall_seconds"]))
    return next((f"{small}. " for small in map(too_small, ordered) if small), "")


def sweep_next(
    source: str,
    sweep: Mapping[str, Any],
    workload: Workload,
    processors: int,
    shuffle: str | None = "global",
) -> str:
    """Return what to try next once a sweep has found the most accelerators."""
    if small_first(sweep["points"]):
        return "measure longer: more samples, or --steps 200 --repeat"
    most = sweep["most"]
    above = [point for point in sweep["points"] if point["accelerators"] > most]
    if not above and sweep.get("data_ends"):
        return f"nothing was too many: more samples let a sweep try more than {most}"
    if not above:
        return f"nothing was too many: go on with --sweep-max above {most}"
    first = above[0]
    count = first["accelerators"]
    if first["cpus_busy"] >= BUSY_SHARE * processors:
        return (
            f"beyond {most} the processors are the limit ({first['cpus_busy']:.1f} of {processors} "
            "busy): more cores for each accelerator"
        )
    wanted = workload.demand.bytes_per_second * count * workload.utilisation_min
    advice = 'look at the volume with "lakefeed bench volume" and "lakefeed doctor"'
    if source != "lake":
        advice = "import the files and compare --source lake"
    elif shuffle == "global":
        batch = workload.batch_size
        advice = f"let neighbours share reads (--shuffle runs=16 --window {batch}), or {advice}"
    return (
        f"beyond {most} storage is the limit ({first['bytes_per_second'] / 1e6:,.0f} of "
        f"{wanted / 1e6:,.0f} MB/s came for {count}): {advice}"
    )


def real_line(run: Mapping[str, Any], model: str, simulated: str | None) -> str:
    """Return the verdict on a real training from one source."""
    where = "" if simulated is None else f", {simulated}"
    small = too_small(run)
    return (
        f"{small + '. ' if small else ''}{model} from {run['source']}: {_split(run)}; "
        f"{gpu_words(run['gpu'])}; {run['samples_per_second']:,.0f} samples/s{where}"
    )


def _split(run: Mapping[str, Any]) -> str:
    if is_ceiling_slow(run):
        return (
            f"nothing tells its stalls apart, for batches from memory, the ceiling, came slower "
            f"({run['ceiling_per_second']:,.0f} samples/s) than those that were prepared "
            f"({_prepared_per_second(run):,.0f})"
        )
    stalls = run["stalls"]
    return (
        f"compute {percent(stalls['compute_share'])}, preparation stall "
        f"{percent(stalls['prepare_share'])}, fetch stall {percent(stalls['fetch_share'])}"
    )


def is_ceiling_slow(run: Mapping[str, Any]) -> bool:
    """Tell whether a real training's ceiling was none: the split of its time means nothing."""
    return _prepared_per_second(run) > CEILING_TIMES * float(run["ceiling_per_second"])


def _prepared_per_second(run: Mapping[str, Any]) -> float:
    return float(max(run["cached_per_second"], run["own_per_second"]))


def real_next(run: Mapping[str, Any], processors: int) -> str:
    """Return what to try next after a real training."""
    stalls = run["stalls"]
    if too_small(run):
        return "measure longer: more samples or --steps"
    if is_ceiling_slow(run):
        # Threads of OpenMP spin while one of them waits for a processor: twenty times slower.
        return (
            "something else kept the processors busy: repeat on a quiet machine, or with "
            "OMP_WAIT_POLICY=passive in the environment"
        )
    if stalls["compute_share"] >= 1 - CEILING_POINTS:
        return "the model is the limit: neither storage nor preparation would make it quicker"
    if stalls["prepare_share"] >= stalls["fetch_share"]:
        return (
            "preparation is the limit: decode with more processors "
            f"(now {run['cpus_busy']:.1f} of {processors} busy), store smaller pictures, or "
            "decode on the GPU"
        )
    return (
        "fetching is the limit: read further ahead (--prefetch), shuffle by runs, or look at the "
        'volume with "lakefeed bench volume"'
    )


def monitored(run: Mapping[str, Any]) -> str:
    """Return the verdict on a user's own training."""
    small = too_small(run)
    return (
        f"{small + '. ' if small else ''}{run['source']} waits for batches "
        f"{percent(run['stall_share'])} of the time; {gpu_words(run['gpu'])}; "
        f"{run['samples_per_second']:,.0f} samples/s"
    )


def monitored_next(run: Mapping[str, Any]) -> str:
    """Return what to try next in a user's own training."""
    if too_small(run):
        return "measure longer: more steps in an epoch, or more epochs"
    if run["stall_share"] < CEILING_POINTS:
        return "the loader keeps up: neither storage nor preparation would make it quicker"
    return (
        "replay one batch from memory: if the waiting ends, it is the loader; then "
        '"lakefeed bench train --device ..." tells preparation and fetching apart'
    )
