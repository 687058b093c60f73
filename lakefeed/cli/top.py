"""The live view of a lake, or of a daemon: top."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import JsonOption, exit_codes, open_lake
from lakefeed.cli.output import print_json, shown
from lakefeed.cli.units import duration_option, human_count, human_seconds, human_size, human_time
from lakefeed.errors import EXIT_NOT_FOUND, LakefeedError, VolumeFailed

if TYPE_CHECKING:
    from rich.table import Table

    from lakefeed.lake.lake import Lake
    from lakefeed.lake.leases import Lease

commands = typer.Typer()

# A daemon answers from memory: one that takes longer is not there.
_HTTP_SECONDS = 5.0
# Commits that a look at a lake goes back, to say what happens to it.
_COMMITS = 200
_WAITING = "-"


@commands.command("top", epilog=exit_codes(EXIT_NOT_FOUND))
def top(
    what: Annotated[
        str, typer.Argument(metavar="LAKE|URL", help="A lake, or the address of a compactd.")
    ],
    interval: Annotated[
        float,
        typer.Option(
            "--interval", metavar="DURATION", parser=duration_option, help="Look again so often."
        ),
    ] = "2s",  # type: ignore[assignment]
    as_json: JsonOption = False,
) -> None:
    """Watch a lake as its volume tells it, or a compactd as it tells itself, until Ctrl-C.

    Without a terminal that can be drawn on, or with --json, one look is printed. What does not
    answer any more is shown as it was last seen, and why.

    JSON keys: of a lake path, snapshot, snapshot_age_seconds, commits_per_minute, files_per_second,
    packs, unmerged_packs, pack_bytes, index_entries, index_segments, index_bytes, free_bytes, tags,
    pins, damaged, leases (name, holder, token, seconds_left, ended_seconds_ago), recent (number,
    time_ns, operation, author, files); of a compactd: name, lakes.

    \b
    lakefeed top /mnt/lake
    lakefeed top http://127.0.0.1:9464
    """
    if "://" in what:
        _show(lambda: _ask(what), _daemon_table, interval, as_json)
        return
    with open_lake(what) as lake:
        _show(lambda: look(lake), _lake_table, interval, as_json)


def _show(look: Any, table: Any, interval: float, as_json: bool) -> None:
    facts = look()
    if as_json:
        print_json(facts)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)
    if not sys.stdout.isatty() or console.is_dumb_terminal:  # which shows nothing of a screen
        console.print(table(facts))
        return
    pause = threading.Event()
    seen_at, trouble = time.monotonic(), ""
    with Live(table(facts), console=console, screen=True) as live:
        while True:
            pause.wait(interval)
            try:
                facts = look()
                seen_at, trouble = time.monotonic(), ""
            except LakefeedError as error:
                # A server or daemon that restarts is what somebody watches for.
                trouble = f"{human_seconds(time.monotonic() - seen_at)} ago; {error}"
            live.update(table(facts, trouble), refresh=True)


# -- a lake ----------------------------------------------------------------------------------------


def look(lake: Lake) -> dict[str, Any]:
    """Return what the volume tells of a lake, without reading index or payloads."""
    from lakefeed.lake.scrub import known_damage

    state = lake.log.head()
    now_ns = lake.refs.about_now_ns()
    packs, segments = state.packs.values(), state.segments.values()
    unmerged = [info.sealed for info in packs if not info.indexed]
    recent = _recent(lake, state.number)
    return {
        "path": lake.name,
        "snapshot": state.number,
        "snapshot_time_ns": state.time_ns,
        "snapshot_age_seconds": max((now_ns - state.time_ns) / 1e9, 0.0) if state.number else None,
        **_rates(recent, now_ns),
        "packs": len(packs),
        "unmerged_packs": len(unmerged),
        "pack_bytes": sum(info.sealed.bytes for info in packs),
        "index_entries": sum(s.rows for s in segments) + sum(pack.rows for pack in unmerged),
        "index_segments": len(segments),
        "index_bytes": sum(segment.bytes for segment in segments),
        "free_bytes": lake.volume.space().free_bytes,
        "horizon": state.horizon,
        "tags": len(lake.refs.names()),
        "pins": sum(pin.expires_ns > now_ns for pin in lake.refs.pins()),
        "damaged": len(known_damage(lake)),
        "leases": [
            _lease(lease, now_ns)
            for lease in map(lake.leases.read, lake.leases.names())
            if lease is not None
        ],
        "recent": recent[:10],
    }


def _lease(lease: Lease, now_ns: int) -> dict[str, Any]:
    left_seconds = (lease.expires_ns - now_ns) / 1e9
    return {
        "name": lease.name,
        "holder": lease.holder,
        "token": lease.token,
        "seconds_left": max(left_seconds, 0.0),
        # None too where it was given back, as nobody notes when.
        "ended_seconds_ago": -left_seconds if lease.expires_ns and left_seconds <= 0 else None,
    }


def _until(lease: dict[str, Any]) -> str:
    if lease["seconds_left"]:
        return f"{human_seconds(lease['seconds_left'])} left"
    ago = lease["ended_seconds_ago"]
    return "given back" if ago is None else f"ended {human_seconds(ago)} ago"


def _recent(lake: Lake, newest: int) -> list[dict[str, Any]]:
    return [
        {
            "number": commit.number,
            "time_ns": commit.time_ns,
            "operation": commit.operation,
            "author": commit.author,
            "files": sum(pack.rows - pack.tombstones for pack in commit.changes.add_packs),
        }
        for commit in islice(lake.history(newest), _COMMITS)
    ]


def _rates(recent: list[dict[str, Any]], now_ns: int) -> dict[str, float]:
    """Return what happened in the last minute, as far as `recent` goes back."""
    last = [one for one in recent if now_ns - one["time_ns"] < 60e9]
    added = [one for one in last if one["operation"] not in ("compact", "merge")]
    return {
        "commits_per_minute": float(len(last)),
        "files_per_second": round(sum(one["files"] for one in added) / 60, 2),
    }


def _lake_table(facts: dict[str, Any], trouble: str = "") -> Table:
    table = _grid(f"lakefeed top  {facts['path']}", trouble)
    age = facts["snapshot_age_seconds"]
    rows = [
        ("snapshot", f"{facts['snapshot']}, {_WAITING if age is None else human_seconds(age)} old"),
        ("last minute", f"{facts['commits_per_minute']:.0f} commits, "
                        f"{facts['files_per_second']:,.1f} files/s"),
        ("packs", f"{human_count(facts['packs'])}, {human_size(facts['pack_bytes'])}; "
                  f"{facts['unmerged_packs']} not merged"),
        ("index", f"{human_count(facts['index_entries'])} rows, {facts['index_segments']} segments,"
                  f" {human_size(facts['index_bytes'])}"),
        ("free", human_size(facts["free_bytes"])),
        ("kept", f"{facts['tags']} tags, {facts['pins']} pins, horizon {facts['horizon']}"),
        ("damaged", f"{facts['damaged']} payloads known"),
    ]  # fmt: skip
    rows += [
        (f"lease {lease['name']}", f"{lease['holder']}, token {lease['token']}, {_until(lease)}")
        for lease in facts["leases"]
    ]
    rows += [
        (f"#{one['number']}", f"{human_time(one['time_ns'])}  {one['operation']}  "
         f"{human_count(one['files'])} files  {one['author']}")
        for one in facts["recent"]
    ]  # fmt: skip
    _add(table, rows)
    return table


def _grid(title: str, trouble: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=shown(title), title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    if trouble:
        _add(table, [("last seen", trouble)])
    return table


def _add(table: Table, rows: Iterable[tuple[str, str]]) -> None:
    for name, value in rows:
        table.add_row(shown(name), shown(value))


# -- a daemon --------------------------------------------------------------------------------------


def _ask(url: str) -> dict[str, Any]:
    """Return what a daemon says of itself."""
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url!r} is no http address")
    address = f"{url.rstrip('/')}/status"
    try:
        with urllib.request.urlopen(address, timeout=_HTTP_SECONDS) as answer:
            facts: Any = json.load(answer)
        if not isinstance(facts, dict) or not {"name", "lakes"} <= facts.keys():
            raise ValueError(f"another program's: {str(facts)[:80]}")
    except (http.client.HTTPException, OSError, ValueError) as error:
        # What urllib wraps says it better by itself; what a server answered is no such thing.
        said = error.reason if type(error) is urllib.error.URLError else error
        raise VolumeFailed(address, expected="the status of a compactd", found=str(said).strip(),
                           hint="check that it runs, and its --listen") from error  # fmt: skip
    return facts


def _daemon_table(facts: dict[str, Any], trouble: str = "") -> Table:
    table = _grid(f"lakefeed top  {facts['name']}", trouble)
    # A small terminal shows the first ones only.
    for lake in sorted(facts["lakes"], key=lambda one: not (one["problem"] or one["last_failure"])):
        _add(table, [*_lake_rows(lake), ("", "")])
    return table


def _lake_rows(lake: dict[str, Any]) -> list[tuple[str, str]]:
    work = lake["job"] or "waits"
    leads = f"leads, token {lake['token']}: {work}"
    state = leads if lake["leader"] else f"stands by: {lake['holder'] or _WAITING}"
    now = time.time()
    last = ", ".join(
        f"{job} {human_seconds(max(now - when, 0))} ago"
        for job, when in sorted(lake["last_success"].items())
    )
    rows = [
        (lake["path"], lake["problem"] or state),
        ("inbox", f"{human_count(lake['backlog_files'])} waiting, "
                  f"{human_size(lake['backlog_bytes'])}, the oldest for "
                  f"{human_seconds(lake['ingest_lag_seconds'])}"),
        ("taken in", f"{human_count(lake['files_packed'])} files, "
                     f"{human_size(lake['bytes_ingested'])}; wrote "
                     f"{human_size(lake['bytes_written'])} ({lake['write_amplification']:.2f}x)"),
        ("lake", f"snapshot {lake['snapshot']}, {human_count(lake['packs'])} packs, "
                 f"{lake['unmerged_packs']} not merged, {human_count(lake['index_entries'])} rows"),
        ("free", f"{human_size(lake['free_bytes'])}; orphans {human_size(lake['orphan_bytes'])}; "
                 f"{lake['corrupt_payloads']} payloads damaged; {lake['conflicts']} conflicts"),
        ("ended well", last or _WAITING),
    ]  # fmt: skip
    rows += [(f"failed: {job}", why) for job, why in sorted(lake["last_failure"].items())]
    return rows
