"""What came out, as tables: one cell after the other, all cells side by side, and the targets.

python -m benchmarks.peers --report     # writes benchmarks/PEERS.md from results/peers.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import harness

Figures = dict[str, Any]  # of a contestant its figures, or a line that says why there are none
LIMIT = "limit: bare preadv"
PLAIN = ("tf.data files, AUTOTUNE", "tf.data files, 64 wide", "torch files, 2 workers",
         "files, 64 threads")  # fmt: skip
# Who may pick any sample at any time; the others mix inside a buffer, a block or a shard.
GLOBAL = (*PLAIN, "FFCV", "Grain + ArrayRecord, 64 threads", "Hugging Face datasets",
          "Lance, take", "LMDB", "SquashFS, 64 threads", "EROFS, 64 threads")  # fmt: skip
CPU = "no more CPU a sample than the thriftiest peer"


@dataclass(frozen=True, slots=True)
class Target:
    """What lakefeed should reach in a cell: a ratio of two figures, at least `least`; and what
    stands in the way where it does not."""

    text: str
    least: float
    ratio: Callable[[Figures], float]
    why: str


def speed(figures: Figures, *names: str) -> float:
    """Return the greatest samples/s among some contestants; 0 if none has a figure."""
    return max(
        (facts["samples_per_second"] for name, facts in measured(figures, *names)), default=0
    )


def measured(figures: Figures, *names: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the contestants that have figures, of some or of all."""
    for name, facts in figures.items():
        if isinstance(facts, dict) and (not names or name in names):
            yield name, facts


def ours(figures: Figures) -> list[str]:
    """Return the names of lakefeed's contestants."""
    return [name for name in figures if name.startswith("lakefeed")]


def peers(figures: Figures) -> list[str]:
    """Return the names of everybody who is neither lakefeed nor the limit."""
    return [name for name in figures if name != LIMIT and not name.startswith("lakefeed")]


def _to_limit(*names: str) -> Callable[[Figures], float]:
    return lambda figures: speed(figures, *names) / speed(figures, LIMIT)


def _to_peers(name: str, among: tuple[str, ...] = ()) -> Callable[[Figures], float]:
    def ratio(figures: Figures) -> float:
        return speed(figures, name) / speed(figures, *(among or peers(figures)))

    return ratio


def _thrift(figures: Figures) -> float:
    """Return the thriftiest peer's processor time a sample over that of the thriftiest feed."""

    def least(names: list[str]) -> float:
        return min(facts["cpu_seconds_per_million"] for _, facts in measured(figures, *names))

    return least(peers(figures)) / least(ours(figures))


FEED, RUNS8, RUNS64 = "lakefeed Feed, global", "lakefeed Feed, runs=8", "lakefeed Feed, runs=64"
PASSES = (
    "every byte is read into a batch that no cache of the processor holds, and checked: two passes "
    "over memory, where the limit makes one, into a few buffers that it uses again"
)
MAPPED = ("FFCV, LMDB and Hugging Face map their files: once the pages are there, a sample is one "
          "copy in memory, or none, without a call and without a checksum")  # fmt: skip
WIDTH = ("whether reads wait, and how big windows pay, is found while reading, in a part of the "
         "epoch that counts where it is as short as here")  # fmt: skip
SHARED = ("planning and checking run on the two cores that serve the mount as well; "
          "the limit only reads")  # fmt: skip
CALLS = ("a plain file takes three calls, so 1,700 files/s at most; 1 GB/s is 9,000 samples/s, "
         "which is 5.5 times as many: above 20 kB or so ten times cannot be had")  # fmt: skip
THRIFT = Target(CPU, 1, _thrift, f"{MAPPED}; {PASSES}")
NEIGHBOURS = ("who is ahead reads neighbours in large pieces or through the kernel's read-ahead; a "
              "global order has a read for each sample")  # fmt: skip
ABOVE_ALL = Target("global: at or above every peer", 1, _to_peers(FEED), f"{NEIGHBOURS}; {WIDTH}")
ABOVE_GLOBAL = Target("global: at or above every peer that shuffles globally", 1,
                      _to_peers(FEED, GLOBAL), f"{WIDTH}; {SHARED}")  # fmt: skip
BY_RUNS = Target("runs=64: at or above every peer", 1, _to_peers(RUNS64), f"{WIDTH}; {SHARED}")
TARGETS: dict[str, tuple[Target, ...]] = {
    "warm/img": (
        Target("global: 0.8 of the limit", 0.8, _to_limit(FEED), PASSES),
        Target("global: 2x the best peer", 2, _to_peers(FEED), MAPPED),
    ),
    "warm/tiny": (
        Target("runs=64: 0.5 of the limit", 0.5, _to_limit(RUNS64), PASSES),
        Target("runs=64: 2x the best peer", 2, _to_peers(RUNS64), MAPPED),
        Target("global: 2x the best peer that shuffles globally", 2, _to_peers(FEED, GLOBAL),
               MAPPED),
    ),
    "warm/big": (),
    "cold/tiny": (
        Target("runs=64: at the limit", 1, _to_limit(RUNS64), f"{WIDTH}; {PASSES}"),
        Target("first batch in 0.5 s", 1, lambda figures: 0.5 / figures[RUNS64]["first_seconds"],
               "the index and the code are read from the cold disk first"),
    ),
    "cold/img": (ABOVE_ALL, ABOVE_GLOBAL, BY_RUNS),
    "cold/big": (ABOVE_ALL,),
    "far/tiny": (BY_RUNS, ABOVE_GLOBAL),
    "far/img": (ABOVE_ALL, ABOVE_GLOBAL, BY_RUNS),
    "far/big": (ABOVE_ALL,),
    "nas/tiny": (
        Target("runs=64: 10x plain files at any width", 10, _to_peers(RUNS64, PLAIN), SHARED),
        Target("runs=64: 0.8 of the limit", 0.8, _to_limit(RUNS64), SHARED),
    ),
    "nas/img": (
        Target("10x plain files at any width", 10, _to_peers(FEED, PLAIN), CALLS),
        Target("0.8 of the limit", 0.8, _to_limit(FEED, RUNS64), SHARED),
    ),
    "nas/big": (Target("0.8 of the limit", 0.8, _to_limit(FEED), SHARED),),
}  # fmt: skip


def simulated(cell: str) -> str:
    """Return a cell's name, saying whether its volume is an emulation."""
    return f"{cell} (simulated)" if cell.split("/")[0] in ("far", "nas") else cell


def report(cell: str, figures: Figures) -> str:
    """Return one cell as a table, the fastest first; who has no figure says why below it."""
    limit = speed(figures, LIMIT)
    rows = [
        (name, facts["samples_per_second"], facts["mb_per_second"],
         f"{facts['samples_per_second'] / limit:.2f}" if limit else "",
         facts["cpu_seconds_per_million"], facts["peak_mb"], facts["first_seconds"])
        for name, facts in sorted(
            measured(figures), key=lambda pair: -pair[1]["samples_per_second"])
    ]  # fmt: skip
    headings = (simulated(cell), "samples/s", "MB/s", "of the limit", "CPU s / million", "peak MB",
                "first batch s")  # fmt: skip
    without = [f"- {name}: {why}" for name, why in figures.items() if isinstance(why, str)]
    return "\n".join(["", harness.table(headings, rows), "", *without])


def verdicts(cells: dict[str, Figures]) -> list[tuple[str, str, str, str]]:
    """Return of every cell its targets, what came out, and why it is not enough where it is not."""
    rows = []
    for cell, figures in cells.items():
        for target in (*TARGETS[cell], THRIFT):
            got = target.ratio(figures)
            met = "reached" if got >= target.least else f"**short**: {target.why}"
            rows.append((simulated(cell), target.text, f"{got:.2f} ({target.least:g})", met))
    return rows


def matrix(cells: dict[str, Figures], fact: str) -> str:
    """Return one fact of all contestants in all cells."""
    names = list(dict.fromkeys(name for figures in cells.values() for name in figures))

    def shown(figures: Figures, name: str) -> str:
        facts = figures.get(name)
        if not isinstance(facts, dict):
            return "–"
        if fact == "of_limit":
            return f"{facts['samples_per_second'] / speed(figures, LIMIT):.2f}"
        return f"{facts[fact]:,.0f}" if facts[fact] >= 10 else f"{facts[fact]:.2g}"

    rows = [(name, *(shown(figures, name) for figures in cells.values())) for name in names]
    return harness.table(("", *(simulated(cell) for cell in cells)), rows)


def page(document: dict[str, Any]) -> str:
    """Return the page of a result: targets, all cells side by side, who could not run and why."""
    cells: dict[str, Figures] = document["cells"]
    machine = document["environment"]
    reasons = sorted(
        {f"- {name}: {why}" for figures in cells.values()
         for name, why in figures.items() if isinstance(why, str)}
    )  # fmt: skip
    dates = sorted({date[:10] for date, _ in document["ran"].values()})
    counts = ", ".join(f"{count:,} {kind}" for kind, count in document["counts"].items())
    return "\n".join([
        "# The peers, in figures", "",
        "Written by `python -m benchmarks.peers --report` from `results/peers.json`; what it means",
        "is in [README.md](README.md). "
        f"{machine['processors']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{', '.join(dates)}; {counts};",
        f"{document['rounds']} round(s) warm. `far` and `nas` are simulated, the same for all.", "",
        "## Targets", "",
        harness.table(("cell", "target", "got (wanted)", "or what stands in the way"),
                      verdicts(cells)), "",
        "## Samples a second", "", "![samples a second of all in six cells](peers.png)", "",
        matrix(cells, "samples_per_second"), "",
        "## Of the limit", "", matrix(cells, "of_limit"), "",
        "## Processor seconds for a million samples", "",
        matrix(cells, "cpu_seconds_per_million"), "",
        "## Peak resident memory, MB (mapped files count, as far as they were touched)", "",
        matrix(cells, "peak_mb"), "",
        "## Seconds to the first batch", "", matrix(cells, "first_seconds"), "",
        "## Without a figure", "", *(reasons or ["Everybody ran."]), "",
    ])  # fmt: skip
