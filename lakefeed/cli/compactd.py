"""The daemon that looks after lakes: compactd."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    JsonOption,
    debugging,
    exit_codes,
    report,
    settings,
)
from lakefeed.cli.output import print_json, print_line
from lakefeed.cli.units import human_count, human_size
from lakefeed.errors import EXIT_CONFLICT, EXIT_CORRUPT, EXIT_NOT_FOUND, EXIT_OK

if TYPE_CHECKING:
    from lakefeed.service.daemon import Ran

commands = typer.Typer()


def _flag(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, show_default=False)


# One line for each setting; the checks, and the same names in environment and file, are in
# `service_settings`.
_Lakes = Annotated[
    list[str] | None,
    typer.Argument(metavar="LAKE...", help="Lakes to look after.", show_default=False),
]
_Inbox = Annotated[
    list[str] | None,
    _flag("--inbox", "DIR[=PREFIX]", "Take in the files dropped into DIR, below PREFIX."),
]
_Keep = Annotated[
    bool | None,
    typer.Option("--keep-inbox", help="Leave files in the inbox; remember what was taken."),
]
_Once = Annotated[bool, typer.Option("--once", help="Do what is due, then end: for a cron job.")]
_Config = Annotated[
    str | None, _flag("--config", "FILE", "Settings as TOML, spelled like the flags.")
]
_Quiet = Annotated[
    str | None, _flag("--inbox-quiet", "DURATION", "A file untouched for so long is complete: 5s.")
]
_PackFiles = Annotated[
    int | None, _flag("--pack-files", "N", "Write a pack at so many files: 10000.")
]
_PackBytes = Annotated[
    str | None, _flag("--pack-bytes", "SIZE", "Write a pack at so many bytes: 64MiB.")
]
_PackAge = Annotated[
    str | None, _flag("--pack-age", "DURATION", "Write a pack when a file waited for so long: 30s.")
]
_Interval = Annotated[
    str | None, _flag("--interval", "DURATION", "Look for packs to compact so often: 30s.")
]
_Target = Annotated[
    str | None, _flag("--target-size", "SIZE", "Size of packs that compaction writes: 1GiB.")
]
_Live = Annotated[
    float | None, _flag("--live-ratio", "RATIO", "Rewrite packs with less that is live: 0.5.")
]
_PacksMin = Annotated[
    int | None, _flag("--packs-min", "N", "Merge small packs when there are so many: 16.")
]
_Rate = Annotated[
    str | None,
    _flag("--rate", "SIZE", "Copy and verify at most so much a second, such as 200MB/s."),
]
_Window = Annotated[
    str | None, _flag("--window", "HH:MM-HH:MM", "Compact at this time of day only.")
]
_Gc = Annotated[
    str | None, _flag("--gc-interval", "DURATION", "Collect garbage so often: 1h; 0s: never.")
]
_Age = Annotated[str | None, _flag("--keep", "DURATION", "Keep snapshots younger than this: 7d.")]
_Count = Annotated[int | None, _flag("--keep-snapshots", "N", "Keep the newest N, however old: 1.")]
_Grace = Annotated[
    str | None, _flag("--grace", "DURATION", "Leave unnamed files alone for so long: 1d.")
]
_Scrub = Annotated[
    str | None, _flag("--scrub-interval", "DURATION", "Verify payloads so often: 1d; 0s: never.")
]
_ScrubTime = Annotated[
    str | None, _flag("--scrub-duration", "DURATION", "Verify for so long each time: 1h.")
]
_Listen = Annotated[
    str | None, _flag("--listen", "HOST:PORT", "Probes and metrics: 127.0.0.1:9464.")
]
_Lease = Annotated[
    str | None, _flag("--lease", "DURATION", "Another replica takes over after so long: 30s.")
]
_Name = Annotated[
    str | None, _flag("--name", "REPLICA", "What this replica is called: host and process.")
]
_Log = Annotated[str | None, _flag("--log-format", "text|json", "What log lines are: text.")]


@commands.command("compactd", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_CORRUPT))
def compactd(
    lakes: _Lakes = None,
    inbox: _Inbox = None,
    inbox_quiet: _Quiet = None,
    pack_files: _PackFiles = None,
    pack_bytes: _PackBytes = None,
    pack_age: _PackAge = None,
    keep_inbox: _Keep = None,
    interval: _Interval = None,
    target_size: _Target = None,
    live_ratio: _Live = None,
    packs_min: _PacksMin = None,
    rate: _Rate = None,
    window: _Window = None,
    gc_interval: _Gc = None,
    keep: _Age = None,
    keep_snapshots: _Count = None,
    grace: _Grace = None,
    scrub_interval: _Scrub = None,
    scrub_duration: _ScrubTime = None,
    listen: _Listen = None,
    lease: _Lease = None,
    name: _Name = None,
    log_format: _Log = None,
    config: _Config = None,
    once: _Once = False,
    as_json: JsonOption = False,
) -> None:
    """Look after lakes: take in files, compact packs, collect garbage, verify payloads.

    Runs until SIGTERM. Any number of replicas may run for a lake: one works, another takes over
    when it dies. Every flag can be set as LAKEFEED_NAME in the environment (LAKEFEED_PACK_AGE) and
    in the file of --config (pack-age); flags come first. /healthz, /readyz, /metrics and /status
    on --listen never touch a volume. Sizes, durations and defaults: docs/SERVICE.md.

    JSON keys: with --once skipped, stopped, failures, lakes (path, leader, token, problem,
    files_packed, bytes_read, bytes_written, snapshot, packs, index_entries, …).

    \b
    lakefeed compactd /mnt/lake --inbox /mnt/drop=cameras
    lakefeed compactd /mnt/lake --inbox /mnt/drop --once
    lakefeed compactd --config /etc/lakefeed.toml --log-format json
    """
    flags = dict(locals())
    for other in ("config", "once", "as_json"):
        del flags[other]
    import asyncio

    from lakefeed.cli.service_settings import load
    from lakefeed.format.bridge import spare_pandas
    from lakefeed.service.daemon import Daemon

    spare_pandas()
    found = load(flags, config)
    options = found.options(settings.get().timeout_seconds)
    _start_logging(found.log_format)
    daemon = Daemon(options)
    ran = asyncio.run(daemon.run_once() if once else daemon.run())
    code = _tell(ran, once=once, as_json=as_json)
    if ran.abandoned:
        # Threads that a volume holds in the kernel cannot be waited for.
        sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


def _start_logging(log_format: str) -> None:
    from lakefeed.service.logs import JsonFormatter, TextFormatter, log_to_stderr

    text = TextFormatter("%(asctime)s %(levelname)s %(message)s")
    level = logging.DEBUG if debugging() else logging.INFO
    log_to_stderr(JsonFormatter() if log_format == "json" else text, level, anew=True)


def _tell(ran: Ran, *, once: bool, as_json: bool) -> int:
    """Print what one pass did; return the exit code."""
    if once and as_json:
        failures = {path: error.text for path, error in ran.failures.items()}
        print_json({"skipped": ran.skipped, "stopped": ran.stopped, "failures": failures,
                    "lakes": ran.lakes})  # fmt: skip
    elif once:
        for lake in ran.lakes:
            if lake["path"] in ran.skipped:
                print_line(f"{lake['path']}: another replica is at work: {lake['holder']}")
            elif lake["path"] in ran.stopped:
                print_line(f"{lake['path']}: asked to end before everything was done")
            elif lake["path"] not in ran.failures:
                print_line(
                    f"{lake['path']}: snapshot {lake['snapshot']}, took in "
                    f"{human_count(lake['files_packed'])} files, wrote "
                    f"{human_size(lake['bytes_written'])}"
                )
    codes = [report(error) for error in ran.failures.values()]
    if ran.stopped and ran.signal and not codes:
        return EXIT_TERMINATED if ran.signal == signal.SIGTERM else EXIT_INTERRUPTED
    return codes[0] if codes else EXIT_OK
