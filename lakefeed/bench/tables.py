"""The report's tables and tiles: figures to words, words to rows of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lakefeed.bench import metrics
from lakefeed.bench.plots import colour_of
from lakefeed.bench.verdict import gpu_words, most_words, percent

Row = Sequence[str]


def table(headings: Row, rows: Sequence[Row], kind: str = "") -> str:
    """Return an HTML table; cells are HTML already."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{head}</tr>{body}</table>'


def tiles(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the few figures to see first: (value, name)."""
    runs = report.get("runs", ())
    found = []
    for run in runs:
        if run.get("utilisation") is not None:
            found.append((percent(run["utilisation"]), f"{busy_word(report)}, {run['source']}"))
    for kind, sweep in report.get("sweeps", {}).items():
        found.append((most_words(sweep), f"{report['workload']['accelerator']} fed by {kind}"))
    if report.get("ceiling"):
        found.append(
            (percent(report["ceiling"]["utilisation"]), f"{busy_word(report)}, batches from memory")
        )
    if len(runs) == 1:
        run = runs[0]
        found.append((f"{run['samples_per_second']:,.0f}", "samples a second"))
        found.append((milliseconds(run["wait_seconds"]["p99"]), "wait for a batch, p99"))
    return found + _feed_tiles(report.get("feeds") or ())


def _feed_tiles(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the best of the feeds, and the ceilings that something had to be read for."""
    reading = [row for row in rows if row["read_amplification"]]
    feeds = [row for row in reading if "(ceiling)" not in row["name"]]
    if not feeds:
        return []
    best = max(feeds, key=lambda row: float(row["samples_per_second"]))
    found = [(f"{best['samples_per_second']:,.0f}", f"samples/s at best: {best['name']}")]
    for row in reading:
        if "(ceiling)" in row["name"]:
            found.append((f"{row['samples_per_second']:,.0f}", f"samples/s, {row['name']}"))
    found.append((f"{best['cpu_per_thousand_samples'] * 1e3:.0f} µs", "processor time a sample"))
    found.append((milliseconds(best["wait_seconds"]["p99"]), "wait for a batch, p99"))
    return found


def busy_word(report: Mapping[str, Any]) -> str:
    """Return what 'busy' means in a report: AU of emulated steps, or compute of real ones."""
    return "AU (emulated)" if report.get("emulated") else "compute share"


def explain(report: Mapping[str, Any]) -> str:
    """Return what the table of runs shows."""
    if report.get("emulated"):
        return (
            "AU is compute time / wall time of emulated accelerators, without each epoch's first "
            "step; the ceiling is the same with batches from memory."
        )
    return "Compute share is the time of real model steps / wall time, without the first step."


def runs(report: Mapping[str, Any]) -> str:
    """Return the table of runs, the ceiling last."""
    headings = [
        "source", "accel.", busy_word(report), "GPU", "stall", "samples/s", "MB/s",
        "read MB/s", "ampl.", "wait p50", "wait p99", "CPU s / 1000", "peak MB", "headroom", "",
    ]  # fmt: skip
    rows = [_run(report, number, run) for number, run in enumerate(report["runs"])]
    if report.get("ceiling"):
        rows.append(_run(report, None, report["ceiling"]))
    # Columns without a value in any row only take room: an emulated run has no GPU.
    empty = {"", "no GPU"} if report.get("emulated") else {""}
    kept = [at for at in range(len(headings)) if not {row[at] for row in rows} <= empty]
    return table([headings[at] for at in kept], [[row[at] for at in kept] for row in rows])


def _run(report: Mapping[str, Any], number: int | None, run: Mapping[str, Any]) -> Row:
    ceiling = report.get("ceiling")
    name = escape(run["source"]) if number is not None else "batches from memory"
    key = (
        ""
        if number is None
        else f'<span style="color:{colour_of(run["source"], number)}">■</span> '
    )
    passed = run.get("passed")
    word = "" if passed is None else _passed(passed)
    seconds = run["wall_seconds"] or 1.0
    # Nobody counts what a user's own loader reads; a ceiling reads nothing, and that is known.
    reading = ("", "")
    if number is None or run["read_bytes"]:
        per_second = run["read_bytes"] / seconds
        reading = (f"{per_second / 1e6:,.0f}", f"{run['read_amplification']:.2f}")
    head = ""
    if ceiling and number is not None and run["samples_per_second"]:
        rates = ceiling["samples_per_second"], run["samples_per_second"]
        head = f"{metrics.headroom(*rates):.2f}×"
    return (
        key + name,
        escape(str(run["accelerators"])),
        percent(run["utilisation"]),
        _gpu(run.get("gpu")),
        percent(run["stall_share"]),
        f"{run['samples_per_second']:,.0f}",
        f"{run['bytes_per_second'] / 1e6:,.0f}",
        *reading,
        milliseconds(run["wait_seconds"]["p50"]),
        milliseconds(run["wait_seconds"]["p99"]),
        f"{run['cpu_per_thousand_samples']:.2f}",
        f"{run['peak_rss_bytes'] / 1e6:,.0f}",
        head,
        word,
    )


def _gpu(gpu: Mapping[str, Any] | None) -> str:
    words = gpu_words(gpu)
    # A sentence: on one line it would push the other columns out of sight.
    return words if gpu is None or not gpu["names"] else f'<span class="words">{words}</span>'


def _passed(passed: bool) -> str:
    return '<span class="pass">pass</span>' if passed else '<span class="fail">fail</span>'


def feeds(report: Mapping[str, Any]) -> str:
    """Return the table of `bench feed`."""
    headings = ["", "samples/s", "MB/s", "CPU µs/sample", "peak MB", "ampl.", "wait p50", "p99"]
    rows = [
        (
            escape(row["name"]),
            f"{row['samples_per_second']:,.0f}",
            f"{row['bytes_per_second'] / 1e6:,.0f}",
            f"{row['cpu_per_thousand_samples'] * 1e3:.1f}",
            f"{row['peak_rss_bytes'] / 1e6:,.0f}",
            f"{row['read_amplification']:.2f}" if row["read_amplification"] else "",
            milliseconds(row["wait_seconds"]["p50"]),
            milliseconds(row["wait_seconds"]["p99"]),
        )
        for row in report["feeds"]
    ]
    return table(headings, rows)


def verdicts(found: Sequence[Mapping[str, str]]) -> str:
    """Return the table of what was judged."""
    kinds = {"ok": "pass", "warning": "warn", "bad": "fail"}
    rows = [
        (
            escape(one["name"]),
            escape(one["found"]),
            f'<span class="{kinds[one["level"]]}">{one["level"]}</span>',
            escape(one["advice"]),
        )
        for one in found
    ]
    return table(["", "found", "", "what to do"], rows, "left")


def rpcs(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of NFS operations."""
    headings = ["operation", "calls", "calls/s", "round trip", "with queue", "retransmitted", "MB"]
    rows = [
        (
            escape(one["operation"]),
            f"{one['calls']:,}",
            f"{one['calls_per_second']:,.0f}",
            milliseconds(one["round_trip_seconds"]),
            milliseconds(one["execute_seconds"]),
            f"{one['retransmissions']:,}",
            f"{(one['sent_bytes'] + one['received_bytes']) / 1e6:,.1f}",
        )
        for one in found
    ]
    return table(headings, rows)


def environment(facts: Mapping[str, Any]) -> str:
    """Return the table of the place where it was measured."""
    mount = facts.get("mount")
    rows = [
        ("processor", escape(f"{facts['processors']} × {facts['processor']}")),
        ("memory", f"{facts['memory_bytes'] / 2**30:.0f} GiB"),
        ("kernel, Python", escape(f"{facts['kernel']}, {facts['python']}")),
        ("lakefeed", escape(facts["lakefeed"])),
        ("libraries", escape(", ".join(f"{k} {v}" for k, v in facts["versions"].items()))),
    ]
    if facts.get("where"):
        rows.append(("directory", escape(facts["where"])))
    if mount:
        text = f"{mount['type']} {mount['source']} at {mount['point']}: {mount['options']}"
        rows.append(("mount", escape(text)))
    return table(["", ""], rows, "left")


def by_label(
    cells: Sequence[Mapping[str, Any]], key: str, unit: float
) -> dict[str, dict[int, float]]:
    """Return rates by label and concurrency."""
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        found.setdefault(cell["name"], {})[cell["concurrency"]] = max(cell[key] / unit, 1e-3)
    return found


def knees(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return where more requests in flight stop to help, in words."""
    found = {cell["name"]: cell["knee"] for cell in cells if cell.get("knee")}
    return "Knee: " + ", ".join(f"{name} at {knee}" for name, knee in found.items()) + "."


def milliseconds(seconds: float) -> str:
    """Return '0.012 ms', '3.4 ms', '120 ms'."""
    value = seconds * 1e3
    if value < 0.1:
        return f"{value:.3f} ms"
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"
