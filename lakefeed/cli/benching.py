"""What the bench commands share: options in words, rows for the terminal, what is shown live."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lakefeed.cli.common import open_lake, snapshot_of
from lakefeed.cli.output import print_json, print_line, print_table
from lakefeed.cli.units import duration_option, human_size, parse_duration, parse_rate

if TYPE_CHECKING:
    from lakefeed.bench.emulation import Delays

bench = typer.Typer(
    help="Measure volumes, feeds and training, and report what limits them.", no_args_is_help=True
)

Look = Callable[[list[list[float]]], object]

RUN_COLUMNS = (
    "source", "accel.>", "busy>", "stall>", "samples/s>", "MB/s>", "ampl.>", "wait p50>",
    "wait p99>", "CPU s/1000>", "peak>",
)  # fmt: skip
FEED_COLUMNS = (
    "feed", "samples/s>", "MB/s>", "CPU us/sample>", "peak>", "ampl.>", "wait p50>", "wait p99>",
)  # fmt: skip
RPC_COLUMNS = ("operation", "calls>", "calls/s>", "round trip>", "with queue>", "sent again>")
# Time for a call or two of a volume a few milliseconds away.
MEASURED_SECONDS_MIN = 0.01
# What `bench volume` measures: where it is in the facts, the table's title, the rate and its unit.
CELLS = (
    ("reads", "MB/s", "bytes_per_second", 1e6),
    ("calls", "calls/s", "calls_per_second", 1.0),
)


def run_row(run: Mapping[str, Any]) -> Sequence[str]:
    """Return the cells of one run."""
    busy = run["utilisation"]
    return (
        "memory (ceiling)" if run["source"] == "null" else run["source"],
        str(run["accelerators"]),
        "" if busy is None else f"{busy:.1%}",
        f"{run['stall_share']:.1%}",
        f"{run['samples_per_second']:,.0f}",
        f"{run['bytes_per_second'] / 1e6:,.1f}",
        # Nobody counts what a user's own loader reads; a ceiling reads nothing, and that is known.
        f"{run['read_amplification']:.2f}" if run["read_bytes"] or run["source"] == "null" else "",
        milliseconds(run["wait_seconds"]["p50"]),
        milliseconds(run["wait_seconds"]["p99"]),
        f"{run['cpu_per_thousand_samples']:.2f}",
        human_size(run["peak_rss_bytes"]),
    )


def feed_row(row: Mapping[str, Any]) -> Sequence[str]:
    """Return the cells of one combination of `bench feed`."""
    return (
        row["name"],
        f"{row['samples_per_second']:,.0f}",
        f"{row['bytes_per_second'] / 1e6:,.1f}",
        f"{row['cpu_per_thousand_samples'] * 1e3:.1f}",
        human_size(row["peak_rss_bytes"]),
        f"{row['read_amplification']:.2f}",
        milliseconds(row["wait_seconds"]["p50"]),
        milliseconds(row["wait_seconds"]["p99"]),
    )


def cell_table(
    cells: Sequence[Mapping[str, Any]], title: str, rate: str, unit: float
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return titles and rows: a row for each kind of call, a column for each number in flight.

    The times are those of a call with as many in flight as the knee has.
    """
    counts = sorted({cell["concurrency"] for cell in cells})
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for cell in cells:
        rows.setdefault(cell["name"], {})[cell["concurrency"]] = cell
    titles = (f"{title}, in flight:", *(f"{count}>" for count in counts), "knee>", "p50>", "p99>")
    return titles, [_cell_row(name, row, rate, unit) for name, row in rows.items()]


def _cell_row(
    name: str, row: Mapping[int, Mapping[str, Any]], rate: str, unit: float
) -> Sequence[str]:
    knee = row[min(row)]["knee"]
    there = row[min(row) if knee is None else knee]
    rates = [f"{row[count][rate] / unit:,.0f}" for count in sorted(row)]
    times = [milliseconds(there[key]) for key in ("p50_seconds", "p99_seconds")]
    return name, *rates, "" if knee is None else str(knee), *times


def rpc_row(row: Mapping[str, Any]) -> Sequence[str]:
    """Return the cells of one NFS operation."""
    return (
        row["operation"],
        f"{row['calls']:,}",
        f"{row['calls_per_second']:,.0f}",
        milliseconds(row["round_trip_seconds"]),
        milliseconds(row["execute_seconds"]),
        f"{row['retransmissions']:,}",
    )


def milliseconds(seconds: float) -> str:
    """Return '0.012 ms' or '3.4 ms'."""
    value = seconds * 1e3
    return f"{value:.3f} ms" if value < 0.1 else f"{value:,.1f} ms"


def check_report(report: Path | None) -> None:
    """Raise what writing a report would raise, before anything is measured."""
    if report is not None:
        from lakefeed.bench import page

        page.check(report)


def finish(facts: dict[str, Any], report: Path | None, as_json: bool) -> None:
    """Print the facts, then write the report where one was asked for: it may fail."""
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts)
    if report is None:
        return
    from lakefeed.bench import page

    written = page.write(facts, report)[0]
    if not as_json:
        print_line(f"report: {written}")


def _print_facts(facts: dict[str, Any]) -> None:
    runs = [*facts.get("runs", ()), *([facts["ceiling"]] if facts.get("ceiling") else [])]
    if runs:
        print_table(RUN_COLUMNS, [run_row(run) for run in runs], turns=True)
        print_line()
    if facts.get("feeds"):
        print_table(FEED_COLUMNS, [feed_row(row) for row in facts["feeds"]])
        print_line()
    for key, title, rate, unit in CELLS:
        if facts.get(key):
            print_table(*cell_table(facts[key], title, rate, unit))
            print_line()
    if facts.get("rpcs"):
        print_table(RPC_COLUMNS, [rpc_row(row) for row in facts["rpcs"]])
        print_line()
    for line in facts["lines"]:
        print_line(line)
    for note in facts.get("notes", ()):
        print_line(f"note: {note}")
    print_line(f"next: {facts['next']}")


# -- options ---------------------------------------------------------------------------------------


def data_option(words: Sequence[str]) -> dict[str, str]:
    """Return directories by kind of source, or raise a usage error."""
    found = {}
    for word in words:
        kind, equals, directory = word.partition("=")
        if not equals or kind not in ("plain", "tfrecord", "webdataset", "mount"):
            raise typer.BadParameter(
                f"{word!r}: write plain=DIR, tfrecord=DIR, webdataset=DIR, mount=DIR"
            )
        if not os.path.isdir(directory):
            raise typer.BadParameter(f"{directory} is no directory")
        found[kind] = directory
    return found


def measured_option(text: str) -> float:
    """Return the seconds that something is measured for, or raise a usage error."""
    seconds = duration_option(text)
    if seconds < MEASURED_SECONDS_MIN:
        raise typer.BadParameter(f"{text!r}: too short to measure anything, 10ms or more")
    return seconds


def delays_option(text: str | None) -> Delays | None:
    """Return a simulated volume, or raise a usage error."""
    from lakefeed.bench.emulation import KNOWN, Delays

    if text is None:
        return None
    if text in KNOWN:
        return KNOWN[text]
    values: dict[str, float] = {}
    for word in text.split(","):
        key, _, value = word.partition("=")
        number: float | None
        if key == "latency":
            number = parse_duration(value)
        elif key in ("calls", "bandwidth"):
            number = parse_rate(value)
        else:
            number = None
        if number is None:
            raise typer.BadParameter(
                f"{word!r}: write far, nas, or latency=2ms,calls=5000,bandwidth=1GB"
            )
        values[key] = number
    return Delays(
        "own", values.get("latency", 0.0), values.get("calls", 0.0), values.get("bandwidth", 0.0)
    )


def snapshot_number(lake: str, at: str | None) -> int:
    """Return the number of what `--at` names: one snapshot for all ranks, sources and rows."""
    with open_lake(lake) as opened:
        return snapshot_of(opened, at).number


def quiet_tensorflow() -> None:
    """TensorFlow's C++ side reports its CPU features and missing GPUs as if they were news."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# -- live ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """What a measurement tells while it runs."""

    say: Callable[[str], object]
    watch: Callable[[str, int], Look]


@contextmanager
def live(watching: bool, quiet: bool, metrics_port: int | None) -> Iterator[Shown]:
    """Lend what shows a measurement: lines, a plot, metrics, as far as they were asked for."""
    from lakefeed.bench.watching import Gauges, Screen

    gauges = None
    if metrics_port is not None:
        gauges = Gauges.serve(metrics_port)
        sys.stderr.write(f"metrics: {gauges.address}\n")
    screen = Screen.on(sys.stderr) if watching and sys.stderr.isatty() else None

    def say(line: str) -> None:
        if not quiet and screen is None:
            sys.stderr.write(f"{line}\n")

    def watch(source: str, accelerators: int) -> Look:
        looks: list[Look] = []
        if gauges is not None:
            looks.append(gauges.look(source, accelerators))
        if screen is not None:
            looks.append(screen.look(source, accelerators))
        return lambda lives: [look(lives) for look in looks]

    try:
        yield Shown(say, watch)
    finally:
        if screen is not None:
            screen.close()
        if gauges is not None:
            gauges.close()
