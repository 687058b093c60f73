"""Reports read back from disk and compared; `page` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lakefeed.bench.verdict import small_first
from lakefeed.errors import Invalid, NotFound

SCHEMA = "lakefeed.bench/1"
COMPARED = (
    ("utilisation", "busy"),
    ("samples_per_second", "samples/s"),
    ("bytes_per_second", "MB/s"),
    ("stall_share", "stall"),
    ("read_amplification", "amplification"),
    ("cpu_per_thousand_samples", "CPU s / 1000 samples"),
)
# What the tables show of each run, and of one that had accelerators.
_FIGURES = (
    "samples_per_second",
    "bytes_per_second",
    "read_amplification",
    "cpu_per_thousand_samples",
    "peak_rss_bytes",
)
_FIGURES_OF_RUNS = ("accelerators", "stall_share", "read_bytes")


def read(path: Path) -> dict[str, Any]:
    """Return a report; NotFound, or Invalid for a file that is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"report {path}", hint="name the .json that --report wrote") from error
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no JSON, or no bounds
        raise Invalid(f"report {path}", expected="JSON", found=str(error)) from error
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise Invalid(
            f"report {path}",
            expected=f"schema {SCHEMA}",
            found=schema,
            hint='write one with "lakefeed bench ... --report FILE"',
        )
    if not isinstance(report.get("environment"), dict):
        raise Invalid(f"report {path}", expected="a whole report", found="no environment")
    strange = next(_strange(report), None)
    if strange is not None:
        found = f"something else as {strange}"
        raise Invalid(f"report {path}", expected="what lakefeed bench writes", found=found)
    return dict(report)


def _strange(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a report nobody could compare or show: such a file was written by others."""
    mount = report["environment"].get("mount")
    if mount is not None and not (
        isinstance(mount, dict) and {"type", "source", "point"} <= {*mount}
    ):
        yield "environment.mount"
    for key in ("workload", "real"):
        if not isinstance(report.get(key), dict | None):
            yield key
    for key in ("runs", "feeds"):
        rows = report.get(key)
        if not isinstance(rows, list | None):
            yield key
            continue
        for at, row in enumerate(rows or ()):
            name = f"{key}[{at}]"
            yield from _strange_run(name, row) if isinstance(row, dict) else (name,)


def _strange_run(name: str, run: Mapping[str, Any]) -> Iterator[str]:
    whole = "accelerators" in run
    if not isinstance(run.get("source") or run.get("name"), str):
        yield f"{name}.source"
    for key in (*_FIGURES, *(_FIGURES_OF_RUNS if whole else ())):
        if not _is_number(run.get(key)):
            yield f"{name}.{key}"
    waits = run.get("wait_seconds")
    if not isinstance(waits, dict) or not all(_is_number(waits.get(p)) for p in ("p50", "p99")):
        yield f"{name}.wait_seconds"
    if whole and "utilisation" not in run:  # None where nobody can tell
        yield f"{name}.utilisation"
    for key in ("utilisation", "stall_share"):
        if run.get(key) is not None and not _is_number(run[key]):
            yield f"{name}.{key}"


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


def compare(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return a report whose runs are those of all reports, with changes against the first.

    What is emulated or simulated is called so in every row and line. Invalid when fewer than two of
    them have runs.
    """
    reports = _named_apart(reports)
    is_emulated = all(report.get("emulated") for _, report in reports)
    runs = []
    for name, report in reports:
        for run in report.get("runs") or report.get("feeds") or ():
            label = run.get("source") or run.get("name")
            # The heading says it where all are emulated; the label of a feed has its volume.
            made = ["emulated"] if report.get("emulated") and not is_emulated else []
            if report.get("simulated_volume") and "simulated" not in label:
                made.append("simulated")
            words = f" ({', '.join(made)})" if made else ""
            source = f"{name}: {label}{words}"
            runs.append({**run, "source": source, "group": label, "report": name})
    having = len({run["report"] for run in runs})
    if having < 2:
        found = f"{having} of {len(reports)}"
        hint = '"lakefeed bench train" and "lakefeed bench feed" write such, with --report'
        raise Invalid("reports", expected="two or more with runs", found=found, hint=hint)
    changes = _changes(runs, reports[0][0])
    first = reports[0][1]
    warnings = _differences(reports)
    made_up = {name: ", ".join(_made_up(report)) for name, report in reports}
    lines = [_line(change, made_up) for change in changes] or ["nothing in common: see the table"]
    lengths = [
        run for run in runs if _is_number(run.get("steps")) and _is_number(run.get("wall_seconds"))
    ]
    small = small_first([run for run in lengths if "accelerators" in run])
    lines[0] = small + lines[0]
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "title": "Comparison of " + ", ".join(name for name, _ in reports),
        "workload": first.get("workload"),
        "emulated": is_emulated,
        "simulated_volume": _common("simulated_volume", reports),
        "runs": [run for run in runs if "accelerators" in run],
        "feeds": [{**run, "name": run["source"]} for run in runs if "accelerators" not in run],
        "changes": changes,
        "notes": warnings,
        "lines": lines,
        "verdict": lines[0],
        "next": f"{'measure longer, and ' if small else ''}repeat both runs: differences below 5 % "
        "are within the noise of one machine",
        "environment": first["environment"],
        "cold": _common("cold", reports),
    }


def _common(key: str, reports: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
    """Return what all reports say; None where they differ."""
    first = reports[0][1].get(key)
    return first if all(report.get(key) == first for _, report in reports) else None


def _made_up(report: Mapping[str, Any]) -> list[str]:
    """Return in words what of a report's figures is no measurement of a real thing."""
    made = ["emulated"] if report.get("emulated") else []
    if report.get("simulated_volume"):
        made.append(str(report["simulated_volume"]).partition(": ")[0])
    return made


def _named_apart(
    reports: Sequence[tuple[str, Mapping[str, Any]]],
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the reports, a number behind a name that came before."""
    seen: dict[str, int] = {}
    named = []
    for name, report in reports:
        seen[name] = seen.get(name, 0) + 1
        named.append((name if seen[name] == 1 else f"{name} ({seen[name]})", report))
    return named


def _changes(runs: Sequence[Mapping[str, Any]], first: str) -> list[dict[str, Any]]:
    base = {run["group"]: run for run in runs if run["report"] == first}
    # A report of one run is meant to be compared with whatever the others are of.
    only = next(iter(base.values())) if len(base) == 1 else None
    found = []
    for run in runs:
        before = base.get(run["group"], only)
        if before is None or run["report"] == first:
            continue
        same = before["group"] == run["group"]
        source = run["group"] if same else f"{before['group']} to {run['group']}"
        change = {"report": run["report"], "source": source}
        for key, _ in COMPARED:
            one, other = before.get(key), run.get(key)
            if one and other is not None:
                change[key] = other / one
        found.append(change)
    return found


def _line(change: Mapping[str, Any], made_up: Mapping[str, str]) -> str:
    one, other = next(iter(made_up.values())), made_up[change["report"]]
    where = f" ({other})" if other else ""
    if one != other:
        where = f" ({other or 'real'}; the first: {one or 'real'})"
    parts = [
        f"{label} ×{change[key]:.2f}" for key, label in COMPARED if change.get(key) is not None
    ]
    return f"{change['report']} against the first, {change['source']}{where}: {', '.join(parts)}"


def _differences(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return what makes the reports hard to compare."""
    found = []
    for key in ("host", "processor", "processors", "memory_bytes", "kernel", "lakefeed"):
        found += _different(key, {name: report["environment"].get(key) for name, report in reports})
    found += _different("volume", {name: _volume(report) for name, report in reports})
    found += _different("kind", {name: _kind(report) for name, report in reports})
    found += _different("page cache", {name: _page_cache(report) for name, report in reports})
    found += _different(
        "simulated volume",
        {name: report.get("simulated_volume") or "none" for name, report in reports},
    )
    found += _different("harness", {name: report.get("harness") for name, report in reports})
    found += _different("accelerators", {name: _accelerators(report) for name, report in reports})
    found += _different("workload", {name: _workload(report) for name, report in reports})
    return found


def _different(what: str, values: Mapping[str, object]) -> list[str]:
    """Return a line if the reports differ; those that do not say (None) do not count."""
    said = {name: str(value) for name, value in values.items() if value is not None}
    if len(set(said.values())) < 2:
        return []
    return [f"different {what}: {', '.join(f'{name}: {value}' for name, value in said.items())}"]


def _volume(report: Mapping[str, Any]) -> str | None:
    mount = report["environment"].get("mount")
    return None if mount is None else f"{mount['type']} {mount['source']} at {mount['point']}"


def _kind(report: Mapping[str, Any]) -> str:
    emulated = ", emulated" if report.get("emulated") else ""
    return f"{report.get('kind')}{emulated}"


def _page_cache(report: Mapping[str, Any]) -> str | None:
    if report.get("cold") is None:
        return None
    return "cold" if report["cold"] else "warm"


def _accelerators(report: Mapping[str, Any]) -> str | None:
    counts = {run["accelerators"] for run in report.get("runs") or () if "accelerators" in run}
    return ", ".join(map(str, sorted(counts))) or None


def _workload(report: Mapping[str, Any]) -> str | None:
    """Return what was trained: a workload on an accelerator, or a model on a device."""
    workload, real = report.get("workload"), report.get("real")
    if workload:
        return f"{workload.get('name')}/{workload.get('accelerator')}"
    if real:
        words = (real.get(key) for key in ("framework", "model", "trained_on", "batch_size"))
        return " ".join(map(str, words))
    return None
