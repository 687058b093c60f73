"""Commands that look after a lake: fsck, gc, diff, du, show."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    AtOption,
    DryRunOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    ViewArgument,
    complete_path,
    exit_codes,
    open_lake,
    open_view,
    snapshot_of,
)
from lakefeed.cli.output import (
    print_facts,
    print_json,
    print_line,
    print_table,
    shown,
    stages,
)
from lakefeed.cli.rows import row_facts
from lakefeed.cli.units import duration_option, human_count, human_size, human_time, iso_time
from lakefeed.errors import EXIT_CORRUPT, EXIT_NOT_FOUND

if TYPE_CHECKING:
    from lakefeed.lake.findings import Report
    from lakefeed.lake.garbage import Collected
    from lakefeed.lake.snapshot import Snapshot
    from lakefeed.lake.usage import PackUsage

commands = typer.Typer()

PrefixArgument = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="Directory or file in the lake.",
        show_default=False,
        autocompletion=complete_path,
    ),
]


# -- fsck ------------------------------------------------------------------------------------------


@commands.command("fsck", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def fsck(
    lake: LakeArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file and verify its checksum as well.")
    ] = False,
    at: AtOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a lake: its log, its index, and with --deep every byte of every file.

    Changes nothing. Every finding is one line; the exit code is 5 if there are any.

    JSON keys: snapshot, deep, clean, findings (kind, subject, expected, found, hint),
    findings_total, counters (commits, checkpoints, packs, segments, rows, live_rows, payloads,
    payload_bytes, orphans, ahead).

    \b
    lakefeed fsck /mnt/lake --deep
    """
    from lakefeed.lake.check import check

    with open_lake(lake) as opened, stages(quiet=quiet or as_json) as progress:
        number = None if at is None else snapshot_of(opened, at).number
        report = check(opened, number, deep=deep, progress=progress)
    if as_json:
        print_json({**asdict(report), "clean": report.clean})
    else:
        _print_report(report)
    if not report.clean:
        raise typer.Exit(EXIT_CORRUPT)


def _print_report(report: Report) -> None:
    for finding in report.findings:
        print_line(shown(str(finding)))
    more = report.findings_total - len(report.findings)
    if more:
        print_line(f"and {human_count(more)} more findings")
    counted = report.counters
    parts = [
        f"{human_count(counted.commits)} commits",
        f"{human_count(counted.packs)} packs",
        f"{human_count(counted.segments)} segments",
        f"{human_count(counted.live_rows)} files and directories",
    ]
    if report.deep:
        size = human_size(counted.payload_bytes)
        parts.append(f"{human_count(counted.payloads)} payloads of {size}")
    verdict = "clean" if report.clean else f"{human_count(report.findings_total)} findings"
    print_line(f"snapshot {report.snapshot}: {verdict} ({', '.join(parts)})")
    if counted.orphans:
        count = human_count(counted.orphans)
        print_line(f'{count} files that no commit names: "lakefeed gc --orphans"')
    if counted.ahead:
        told = ('may be of later commits: in a copy made beside writers, or where a log lost its '
                'end; "lakefeed repair --log" takes them in')  # fmt: skip
        print_line(f"{human_count(counted.ahead)} packs of them {told}")


# -- gc --------------------------------------------------------------------------------------------


@commands.command("gc", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def gc(
    lake: LakeArgument,
    keep: Annotated[
        float,
        typer.Option(
            "--keep",
            metavar="DURATION",
            parser=duration_option,
            help="Keep snapshots younger than this; tags and pins keep theirs anyway.",
        ),
    ] = "7d",  # type: ignore[assignment]
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="DURATION",
            parser=duration_option,
            help="Leave files alone that no commit names and that are younger than this.",
        ),
    ] = "1d",  # type: ignore[assignment]
    keep_snapshots: Annotated[
        int,
        typer.Option(
            "--keep-snapshots", metavar="N", min=1, help="Keep the newest N, however old they are."
        ),
    ] = 1,
    orphans: Annotated[
        bool,
        typer.Option("--orphans", help="Also list all packs for files that no commit names."),
    ] = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete packs and segments that no kept snapshot needs.

    Kept are the newest --keep-snapshots, those younger than --keep, and those with a tag or a pin.
    The log says what may go: its commits since older snapshots were last given up are read, some
    thousand a second on a local disk; --orphans looks for leftovers of killed writers by
    listing all packs, which takes longer. A grace shorter than the slowest import takes for one
    commit would delete its packs.

    JSON keys: dry_run, horizon, packs, segments, temporaries, pins, bytes, deleted, deleted_bytes,
    spared, files.

    \b
    lakefeed gc /mnt/lake --keep 7d --dry-run
    lakefeed gc /mnt/lake --orphans
    """
    from lakefeed.lake.garbage import Retention, collect

    with open_lake(lake) as opened, stages(quiet=quiet or as_json) as progress:
        done = collect(
            opened,
            Retention(keep, grace, keep_snapshots),
            dry_run=dry_run,
            orphans=orphans,
            progress=progress,
        )
    if as_json:
        print_json(_collected_facts(done))
    else:
        _print_collected(done)


def _collected_facts(done: Collected) -> dict[str, Any]:
    return {
        "dry_run": done.dry_run,
        "horizon": done.plan.horizon,
        "packs": done.plan.count("pack"),
        "segments": done.plan.count("segment"),
        "temporaries": done.plan.count("temporary"),
        "pins": done.plan.count("pin"),
        "bytes": done.plan.bytes,
        "deleted": done.deleted,
        "deleted_bytes": done.deleted_bytes,
        "spared": done.spared,
        "files": [file.path for file in done.plan.files],
    }


def _print_collected(done: Collected) -> None:
    plan = done.plan
    if done.dry_run:
        for file in plan.files:
            print_line(f"would delete {file.path} ({human_size(file.bytes)})")
        if plan.horizon is not None:
            print_line(f"would give up untagged snapshots before {plan.horizon}")
    elif plan.horizon is not None:
        print_line(f"gave up untagged snapshots before {plan.horizon}")
    count, size = (len(plan.files), plan.bytes) if done.dry_run else (
        done.deleted, done.deleted_bytes)  # fmt: skip
    verb = "would delete" if done.dry_run else "deleted"
    print_line(f"{verb} {human_count(count)} files, {human_size(size)}")


# -- diff ------------------------------------------------------------------------------------------

_SIGNS = {"added": "+", "removed": "-", "modified": "M", "touched": "t"}


@commands.command("diff", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def diff(
    lake: LakeArgument,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Snapshot: number, tag, or time.")],
    new: Annotated[
        str | None,
        typer.Argument(metavar="NEW", help="The other one; the newest by default."),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", "-p", metavar="PATH", help="Only what lies below.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two snapshots, path by path.

    + added, - removed, M other bytes, t same bytes with another time, mode or attributes.

    JSON keys: path, change, old, new; old and new have the keys of "lakefeed ls --json", or are
    null.

    \b
    lakefeed diff /mnt/lake v1
    lakefeed diff /mnt/lake 12 15 --prefix train
    """
    from lakefeed.lake.difference import diff as changes_between

    with open_lake(lake) as opened:
        before, after = snapshot_of(opened, old), snapshot_of(opened, new)
        for change in changes_between(before, after, prefix):
            if as_json:
                rows = {
                    "old": None if change.old_row is None else row_facts(change.old_row),
                    "new": None if change.new_row is None else row_facts(change.new_row),
                }
                print_json({"path": change.path, "change": change.kind, **rows})
            else:
                print_line(f"{_SIGNS[change.kind]} {shown(change.path)}")


# -- du --------------------------------------------------------------------------------------------


@commands.command("du", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def du(
    lake: ViewArgument,
    path: PrefixArgument = "",
    depth: Annotated[
        int,
        typer.Option("--depth", "-d", metavar="LEVELS", min=0, help="Directories to go down."),
    ] = 1,
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many files and bytes lie below a directory, and below those in it.

    STORED is what the payloads take in packs. Copies and renames share payloads, which are counted
    wherever they appear.

    JSON keys: path, files, size_bytes, stored_bytes; the last line is the directory asked for.

    \b
    lakefeed du /mnt/lake train --depth 2
    """
    from lakefeed.lake.usage import usage_by_directory

    with open_view(lake, at) as snapshot:
        found = usage_by_directory(snapshot, path, depth)
    lines = [*found[1:], found[0]]
    if as_json:
        for line in lines:
            print_json(asdict(line))
        return
    print_table(
        ["FILES>", "SIZE>", "STORED>", "PATH"],
        [
            (human_count(line.files), human_size(line.size_bytes), human_size(line.stored_bytes),
             line.path or ".")
            for line in lines
        ],
    )  # fmt: skip


# -- show ------------------------------------------------------------------------------------------


@commands.command("show", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def show(
    lake: LakeArgument,
    packs: Annotated[
        bool, typer.Option("--packs", help="List every pack with its live ratio.")
    ] = False,
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a snapshot consists of: packs, segments, live bytes, horizon, tags.

    Live bytes are those that the snapshot's files read; the rest waits for compaction.

    JSON keys: lake, snapshot, time, time_ns, horizon, tags, files, packs, segments,
    unmerged_packs, pack_bytes, segment_bytes, payload_bytes, live_bytes, live_ratio; with --packs
    also pack_list (id, seq, bytes, payload_bytes, live_bytes, live_ratio, rows, live_rows,
    indexed).

    \b
    lakefeed show /mnt/lake --packs
    """
    from lakefeed.lake.usage import pack_usage

    with open_lake(lake) as opened:
        snapshot = snapshot_of(opened, at)
        found = pack_usage(snapshot)
        horizon = opened.snapshot().state.horizon
        tags = {tag.name: tag.snapshot for tag in opened.refs.tags()}
    facts = {**_state_facts(snapshot, found), "horizon": horizon, "tags": tags}
    if as_json:
        listed = {"pack_list": [_pack_facts(pack) for pack in found]} if packs else {}
        print_json({**facts, **listed})
        return
    _print_state(facts)
    if packs:
        print_line()
        _print_packs(found)


def _state_facts(snapshot: Snapshot, packs: list[PackUsage]) -> dict[str, Any]:
    payload_bytes = sum(pack.payload_bytes for pack in packs)
    live_bytes = sum(pack.live_bytes for pack in packs)
    segments = snapshot.state.segments.values()
    return {
        "lake": snapshot.name,
        "snapshot": snapshot.number,
        "time": iso_time(snapshot.time_ns),
        "time_ns": snapshot.time_ns,
        "files": sum(pack.live_rows for pack in packs),
        "packs": len(packs),
        "segments": len(segments),
        "unmerged_packs": sum(not pack.indexed for pack in packs),
        "pack_bytes": sum(pack.bytes for pack in packs),
        "segment_bytes": sum(segment.bytes for segment in segments),
        "payload_bytes": payload_bytes,
        "live_bytes": live_bytes,
        "live_ratio": min(1.0, live_bytes / payload_bytes) if payload_bytes else 1.0,
    }


def _pack_facts(pack: PackUsage) -> dict[str, Any]:
    return {**asdict(pack), "live_ratio": pack.live_ratio}


def _print_state(facts: dict[str, Any]) -> None:
    tags = ", ".join(f"{name} ({number})" for name, number in facts["tags"].items())
    unmerged = facts["unmerged_packs"]
    print_facts(
        [
            ("lake", facts["lake"]),
            ("snapshot", f"{facts['snapshot']}, {human_time(facts['time_ns'])}"),
            ("horizon", f"{facts['horizon']} (older snapshots need a tag or a pin)"),
            ("tags", tags or "none"),
            ("files", human_count(facts["files"])),
            ("packs", f"{human_count(facts['packs'])}, {human_size(facts['pack_bytes'])}"),
            ("segments", f"{human_count(facts['segments'])}, "
                         f"{human_size(facts['segment_bytes'])}; {unmerged} packs not merged yet"),
            ("live", f"{human_size(facts['live_bytes'])} of {human_size(facts['payload_bytes'])}"
                     f" ({facts['live_ratio']:.0%})"),
        ]
    )  # fmt: skip


def _print_packs(packs: list[PackUsage]) -> None:
    print_table(
        ["PACK", "SEQ>", "SIZE>", "LIVE>", "RATIO>", "ROWS>", "LIVE ROWS>", "MERGED"],
        [
            (pack.id, pack.seq, human_size(pack.bytes), human_size(pack.live_bytes),
             f"{pack.live_ratio:.0%}", human_count(pack.rows), human_count(pack.live_rows),
             "yes" if pack.indexed else "no")
            for pack in packs
        ],
    )  # fmt: skip
