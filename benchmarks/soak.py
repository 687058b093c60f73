"""Does a feed's memory stay where it is, for as long as it runs?

Expected: resident memory rises while the buffers of the first windows are touched and stays flat
from then on, because buffers are lent and come back. The consumer keeps some batches for a while,
as trainings do, and drops them in another order. Resident memory is noted once a second; the slope
of a line through everything behind the first fifth is what counts, in MB an hour.

    python -m benchmarks.soak [--minutes 30] [--files 60000] [--dir DIR] [--small]
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks import harness
from lakefeed import Lake
from lakefeed.feed.feed import Feed, FeedOptions

KEPT_BATCHES = 6


def resident_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def soak(where: Path, seconds: float) -> dict[str, object]:
    """Run a feed for some time and return the curve and its slope."""
    chance = random.Random(4)
    curve: list[tuple[float, float]] = []
    kept: list[object] = []
    batches = 0
    start = time.perf_counter()
    options = FeedOptions(128, "runs=16", epochs=None, memory_bytes="256MiB")
    with Feed(where, "", options) as feed:
        for batch in feed:
            batches += 1
            # A view, an Arrow array or the batch itself: each keeps the whole buffer.
            kept.append(chance.choice((batch, batch.arrow(), batch.views()[:3])))
            if len(kept) > KEPT_BATCHES:
                kept.pop(chance.randrange(len(kept)))
            now = time.perf_counter() - start
            if not curve or now - curve[-1][0] >= 1.0:
                curve.append((round(now, 1), round(resident_mb(), 1)))
            if now > seconds:
                break
        threads = threading.active_count()
        verdict = feed.stats().verdict
    behind = np.array([point for point in curve if point[0] >= seconds / 5] or curve[-1:])
    slope = float(np.polyfit(behind[:, 0], behind[:, 1], 1)[0]) if len(behind) > 2 else 0.0
    return {
        "seconds": round(seconds),
        "batches": batches,
        "mb_an_hour": round(slope * 3600, 2),
        "first_mb": curve[0][1],
        "last_mb": curve[-1][1],
        "greatest_mb": max(point[1] for point in curve),
        "threads": threads,
        "verdict": verdict,
        "curve": curve,
    }


def plot(curve: list[tuple[float, float]], path: Path) -> None:
    """Draw the curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3))
    axes.plot([point[0] / 60 for point in curve], [point[1] for point in curve])
    axes.set(xlabel="minutes", ylabel="resident MB", ylim=(0, None), title="A feed that runs on")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run, print and write the result and its plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--small", action="store_true", help="half a minute")
    options = parser.parse_args()
    minutes, files = (0.5, 10_000) if options.small else (options.minutes, options.files)
    rng = np.random.default_rng(5)
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        where = Path(scratch) / "lake"
        with Lake.create(where) as lake:
            with lake.writer() as writer:
                for number, size in enumerate(rng.integers(500, 40_000, files).tolist()):
                    writer.put(f"c{number % 50}/{number:07d}", rng.bytes(size))
            lake.merge_index(everything=True)
        facts = soak(where, minutes * 60)
    print({name: value for name, value in facts.items() if name != "curve"})
    saved = harness.save("soak_small" if options.small else "soak", facts)
    plot(facts["curve"], saved.with_suffix(".png"))  # type: ignore[arg-type]
    print(saved)


if __name__ == "__main__":
    main()
