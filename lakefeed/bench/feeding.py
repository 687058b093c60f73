"""`bench feed`: what the feed delivers, for every combination of options, beside two ceilings.

The ceilings bound what any feed could do here. `memory` takes ready batches and does nothing else.
`bare reads` reads the packs' payload bytes in pieces of 2 MiB, in random order, from four threads
into buffers used again: no index, no checksums, no samples. Every row is a process of its own, so
that processor time and peak memory are its own as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lakefeed.bench import environment, figures
from lakefeed.bench.emulation import Delays
from lakefeed.bench.lakes import open_lake
from lakefeed.bench.preparing import contents
from lakefeed.bench.ranks import TIMEOUT_SECONDS, Job, run_ranks
from lakefeed.bench.reports import SCHEMA
from lakefeed.bench.sources import Reading, Spec
from lakefeed.bench.steps import Loop
from lakefeed.bench.verdict import BUSY_SHARE, TOO_SMALL
from lakefeed.errors import Invalid

# More steps than any run reaches within its time.
_STEPS_MAX = 1 << 40
_SECONDS_MIN = 2.0
# A feed that gets so much of what bare reads get has little left to win.
_NEAR_BARE = 0.8


@dataclass(frozen=True, slots=True)
class FeedBench:
    """One `bench feed`."""

    lake: str
    select: str = ""
    at: int | str | None = None
    batch_sizes: tuple[int, ...] = (32, 256)
    shuffles: tuple[str, ...] = ("none", "runs=64", "global")
    prefetches: tuple[int | None, ...] = (None,)
    seconds: float = 3.0
    seed: int = 0
    delays: Delays | None = None
    cold: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS


def measure(options: FeedBench, say: Callable[[str], object]) -> dict[str, Any]:
    """Return the report; Invalid when the lake has less than a batch."""
    if options.cold:
        environment.check_cold()
    with open_lake(options.lake, options.timeout_seconds) as lake:
        held = contents(lake.snapshot(options.at), options.select)
    if held.samples < max(options.batch_sizes):
        raise Invalid(
            f"samples in {options.lake}",
            expected=f"a batch of {max(options.batch_sizes)} or more",
            found=f"{held.samples:,}",
            hint='import more files, or make some with "lakefeed bench generate"',
        )
    rows = []
    # All of them at once: what cannot be asked for is refused before anything is measured.
    for name, spec in list(plan(options, round(held.sample_bytes))):
        say(name)
        if options.cold:
            environment.drop_caches()
        loop = Loop(_STEPS_MAX, 1, 0.0, seconds_max=options.seconds, harness="lean")
        results = run_ranks(Job(spec, loop, options.timeout_seconds))
        run = figures.of_run(results, spec.batch_size, 0.0)
        del run["accelerators"], run["utilisation"], run["utilisation_by_epoch"]
        rows.append({"name": name, **run})
    return _report(options, rows, held.samples)


def plan(options: FeedBench, sample_bytes: int) -> Iterator[tuple[str, Spec]]:
    """Yield the name and the source of every row, ceilings first."""
    base = Spec(
        "null",
        where=options.lake,
        select=options.select,
        at=options.at,
        batch_size=max(options.batch_sizes),
        sample_bytes=max(1, sample_bytes),
        reading=Reading(seed=options.seed),
    )
    where = "" if options.delays is None else f" ({options.delays.label})"
    yield "memory (ceiling)", base
    yield f"bare reads (ceiling){where}", replace(base, kind="bare", delays=options.delays)
    for batch_size in options.batch_sizes:
        for shuffle in options.shuffles:
            for prefetch in options.prefetches:
                reading = Reading(
                    None if shuffle == "none" else shuffle, options.seed, prefetch=prefetch
                )
                ahead = "" if prefetch is None else f", prefetch {prefetch}"
                name = f"batch {batch_size}, shuffle {shuffle}{ahead}{where}"
                yield (
                    name,
                    replace(
                        base,
                        kind="lake",
                        batch_size=batch_size,
                        reading=reading,
                        delays=options.delays,
                    ),
                )


def _report(options: FeedBench, rows: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    feeds, bare = rows[2:], rows[1]
    best = max(feeds, key=lambda row: float(row["samples_per_second"]))
    share = best["bytes_per_second"] / bare["bytes_per_second"] if bare["bytes_per_second"] else 0
    line = (
        f"at most {best['samples_per_second']:,.0f} samples/s, "
        f"{best['bytes_per_second'] / 1e6:,.0f} MB/s ({best['name']}): {share:.0%} of bare reads"
    )
    if options.seconds < _SECONDS_MIN:
        line = f"{TOO_SMALL} ({options.seconds:g} s a run). {line}"
    return {
        "schema": SCHEMA,
        "kind": "feed",
        "title": f"Feed of {os.path.abspath(options.lake)}",
        "simulated_volume": None if options.delays is None else options.delays.describe(),
        "cold": options.cold,
        "seed": options.seed,
        "data": {"samples": samples},
        "feeds": rows,
        "notes": [],
        "lines": [line],
        "verdict": line,
        "next": advice(best, share, os.cpu_count() or 1),
        "environment": environment.describe(options.lake),
    }


def advice(best: Mapping[str, Any], share: float, processors: int) -> str:
    """Return what limits the best of the feeds, which gets this share of bare reads."""
    if best["cpus_busy"] >= BUSY_SHARE * processors:
        return "the processors are the limit: larger batches and shuffle runs=K cost less of them"
    if share >= _NEAR_BARE:
        return 'the volume is the limit: "lakefeed bench volume" shows what it can do'
    times = f"{1 / share:.1f} times as much" if share else "more"
    busy = f"{best['cpus_busy']:.1f} of {processors} busy"
    return (
        f"neither the volume (bare reads get {times}) nor the processors ({busy}) are the limit: "
        "try --shuffles runs=256 and other --prefetches, and repeat on a quiet machine"
    )
