"""The report as one HTML file: nothing to fetch, nothing to run, light and dark.

The page follows the reader's theme; two radio buttons and CSS override it, without a script. The
sections appear as far as the report has their facts. Beside the page lie the facts, as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from lakefeed.bench import plots, tables, verdict
from lakefeed.errors import Invalid, from_local_error

_LIGHT = """--bg:#f3f6f7;--card:#fff;--ink:#22313a;--soft:#5d6f78;--line:#dfe6e9;--good:#1c7a4d;
--bad:#b3362b;--note:#8a6a16;--s1:#0f6e84;--s2:#c9762b;--s3:#8b6fb3;--s4:#4d8f4a;--s5:#b84a62;"""
_DARK = """--bg:#11191d;--card:#18242a;--ink:#e4ecef;--soft:#9db0b9;--line:#2c3c44;--good:#2c9a64;
--bad:#d65a4d;--note:#d9b24a;--s1:#4fb3c9;--s2:#e59a53;--s3:#b39bd8;--s4:#82c47d;--s5:#e07f95;"""
_STYLE = f"""
:root {{ {_LIGHT} color-scheme: light; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} color-scheme: dark; }} }}
:root:has(#light:checked) {{ {_LIGHT} color-scheme: light; }}
:root:has(#dark:checked) {{ {_DARK} color-scheme: dark; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
main {{ max-width: 1160px; margin: 0 auto; padding: 36px 24px 64px; }}
h1 {{ font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }}
h2 {{ font-size: 19px; margin: 0 0 4px; }}
p {{ margin: 6px 0; }}
.soft {{ color: var(--soft); }}
.theme {{ float: right; font-size: 13.5px; color: var(--soft); }}
.verdict {{ margin: 20px 0 8px; padding: 14px 18px; border-radius: 10px; color: #fff;
  background: #1c7a4d; font-weight: 600; }}
.verdict.failed {{ background: #b3362b; }}
.verdict.plain {{ background: #0f6e84; }}
.next, .note {{ padding: 10px 16px; border-radius: 10px; border: 1px solid var(--line);
  background: var(--card); margin: 8px 0; }}
.note {{ border-left: 4px solid var(--note); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 16px; }}
.tile, section {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
.tile {{ padding: 12px 16px; font-size: 14.5px; color: var(--soft); }}
.tile b {{ display: block; font-size: 23px; line-height: 1.3; color: var(--ink); }}
section {{ padding: 20px 22px; margin-top: 16px; }}
section svg {{ display: block; width: 100%; min-width: 600px; height: auto; margin-top: 10px; }}
svg text {{ font-family: inherit !important; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; margin-top: 10px; font-size: 14px; }}
th, td {{ text-align: right; padding: 6px; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }}
th:first-child, td:first-child, .left td, .left th {{ text-align: left; }}
.left td {{ overflow-wrap: anywhere; }}
td {{ white-space: nowrap; }}
.left td {{ white-space: normal; }}
.left td:first-child {{ white-space: nowrap; overflow-wrap: normal; }}
th {{ font-weight: 600; color: var(--soft); font-size: 13px; }}
.words {{ display: inline-block; white-space: normal; width: 15em; }}
.pass {{ color: var(--good); font-weight: 600; }}
.fail {{ color: var(--bad); font-weight: 600; }}
.warn {{ color: var(--note); font-weight: 600; }}
@media print {{ .theme {{ display: none; }} section {{ break-inside: avoid; }} }}
"""

# What is said where a file may be written, but no other put in its place: its directory belongs to
# somebody else, or it is mounted by itself, as containers have it.
_KEPT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY})


def write(report: Mapping[str, Any], where: Path) -> tuple[Path, Path]:
    """Write WHERE.html and WHERE.json (a suffix of either is cut off); return both paths.

    Each is there whole: as it was before, or as it is now, whoever else writes it. A file keeps its
    mode; one in whose place no other may be put is written over.
    """
    html, data = _paths(where)
    try:
        html.parent.mkdir(parents=True, exist_ok=True)
        _put(data, json.dumps(report, indent=1) + "\n")
        _put(html, render(report))
    except OSError as error:
        raise from_local_error(error, f"report {where}") from error
    return html, data


def _put(path: Path, text: str) -> None:
    place = Path(os.path.realpath(path))
    if place.is_file() or not place.exists():
        try:
            _replace(place, text)
            return
        except OSError as error:
            if error.errno not in _KEPT or not place.exists():
                raise
    # Nothing may take the place of a device or a pipe.
    _write(place, text)


def _replace(place: Path, text: str) -> None:
    beside = place.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        _write(beside, text)
        if place.exists():
            shutil.copymode(place, beside)
        os.replace(beside, place)
    except BaseException:
        with suppress(OSError):  # what failed before is the news
            beside.unlink()
        raise


def _write(place: Path, text: str) -> None:
    # A directory's name need not be UTF-8.
    place.write_text(text, encoding="utf-8", errors="backslashreplace")


def check(where: Path) -> None:
    """Raise what `write` would raise for a place where nothing can be written.

    Ask before measuring. Makes the directory; files that are there stay as they are. Several
    processes may ask for one place.
    """
    try:
        for path in _paths(where):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.open("ab").close()
            else:
                tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))).close()
    except OSError as error:
        raise from_local_error(error, f"report {where}") from error


def _paths(where: Path) -> tuple[Path, Path]:
    base = where.with_suffix("") if where.suffix in (".html", ".json") else where
    if not base.name:
        raise Invalid(f"report {where}", expected="a file's name", found="a directory")
    return base.with_name(base.name + ".html"), base.with_name(base.name + ".json")


def render(report: Mapping[str, Any]) -> str:
    """Return the whole page of one report, or of a comparison."""
    body = "".join(
        (
            _head(report),
            _tiles(report),
            *(_section(*part) for part in sections(report)),
            _section("Environment", "", tables.environment(report["environment"])),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>lakefeed bench: {escape(report['title'])}</title><style>{_STYLE}</style></head>"
        f"<body><main>\n{body}</main></body></html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    passed = report.get("passed")
    lines = report.get("lines") or [report["verdict"]]
    # Neither green nor red is a run that means little.
    is_plain = passed is None or lines[0].startswith(verdict.TOO_SMALL)
    kind = "plain" if is_plain else "" if passed else "failed"
    others = "".join(f"<p>{escape(line)}</p>" for line in lines[1:])
    notes = "".join(f'<div class="note">{escape(note)}</div>' for note in report.get("notes", ()))
    return (
        '<div class="theme"><label><input type="radio" name="theme" id="light"> light</label> '
        '<label><input type="radio" name="theme" id="dark"> dark</label></div>'
        f"<h1>{escape(report['title'])}</h1>"
        f'<p class="soft">{escape(_circumstances(report))}</p>'
        f'<div class="verdict {kind}">{escape(lines[0])}</div>{others}'
        f'<div class="next"><b>Next:</b> {escape(report["next"])}</div>{notes}\n'
    )


def _circumstances(report: Mapping[str, Any]) -> str:
    """Return when and where, and what is known of the page cache and the order: a user's own
    training tells neither, cells of a volume are some cold and some warm."""
    words = [report["environment"]["date"], report["environment"]["host"]]
    if report.get("cold") is not None:
        cold = "cold: page cache dropped before each run"
        words.append(cold if report["cold"] else "warm page cache")
    if "seed" in report:
        words.append(f"seed {report['seed']}")
    return ", ".join(words)


def _tiles(report: Mapping[str, Any]) -> str:
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b>{escape(name)}</div>'
        for value, name in tables.tiles(report)
    )
    return f'<div class="tiles">{cells}</div>\n' if cells else ""


def _section(title: str, text: str, content: str) -> str:
    words = f'<p class="soft">{escape(text)}</p>' if text else ""
    return f'<section><h2>{escape(title)}</h2>{words}<div class="wide">{content}</div></section>\n'


def sections(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (title, words, content) of each section that the report has facts for."""
    parts: list[tuple[str, str, str]] = []
    runs: Sequence[Mapping[str, Any]] = report.get("runs", ())
    simulated = report.get("simulated_volume")
    word = f" On a {simulated}." if simulated else ""
    timed = [run for run in runs if run.get("timeline", {}).get("seconds")]
    if runs:
        parts.append(("Side by side", tables.explain(report) + word, tables.runs(report)))
    if report.get("sweeps"):
        threshold = report["workload"]["utilisation_min"]
        text = f"AU of more and more emulated accelerators.{word}"
        parts.append(
            ("How many can it feed?", text, plots.sweeps(report["sweeps"], threshold, "sweep"))
        )
    if timed:
        is_watched = any(run["timeline"].get("gpu_busy") for run in timed)
        dashed = ", GPU busy (dashed)" if is_watched else ""
        busy = tables.busy_word(report).replace("compute", "Compute")
        text = f"{busy}{dashed} and delivered bytes over each run.{word}"
        parts.append(("Over time", text, plots.timelines(timed, "time")))
        text = "A step that waits keeps its accelerator idle."
        parts.append(("Waiting for batches", text, plots.waits(timed, "waits")))
    stalled = [run for run in runs if run.get("stalls") and not verdict.is_ceiling_slow(run)]
    if stalled:
        text = (
            "Three runs: ready batches from memory (the compute ceiling), encoded samples from "
            "memory (adds preparation), samples from the volume (adds fetching)."
        )
        parts.append(("Where the time goes", text, plots.stalls(stalled, "stalls")))
    parts += _feed_sections(report) + _volume_sections(report)
    return parts


def _feed_sections(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = report.get("feeds")
    if not rows:
        return []
    parts = [("Every combination", "Each in a process of its own.", tables.feeds(report))]
    # Memory is thousands of times faster: beside it nothing else would be seen.
    reading = [row for row in rows if row["read_amplification"]]
    if reading:
        labels = [row["name"] for row in reading]
        rates = [row["bytes_per_second"] / 1e6 for row in reading]
        parts.append(("Delivered", "", plots.bars(labels, rates, "MB/s", "feeds")))
    return parts


def _volume_sections(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    parts = []
    if report.get("verdicts"):
        parts.append(("The mount, judged", "", tables.verdicts(report["verdicts"])))
    if report.get("reads"):
        picture = plots.rates(
            tables.by_label(report["reads"], "bytes_per_second", 1e6), "MB/s", "r"
        )
        parts.append(("Reading", tables.knees(report["reads"]), picture))
    if report.get("calls"):
        picture = plots.rates(
            tables.by_label(report["calls"], "calls_per_second", 1), "calls/s", "c"
        )
        parts.append(("Calls", tables.knees(report["calls"]), picture))
    if report.get("rpcs"):
        text = "What the kernel's NFS client did meanwhile, from /proc/self/mountstats."
        parts.append(("Remote calls", text, tables.rpcs(report["rpcs"])))
    return parts
