"""The command that mends a lake from its packs: repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    DryRunOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    exit_codes,
    open_lake,
    volume_at,
)
from lakefeed.cli.output import print_json, print_line, shown, stages
from lakefeed.cli.units import human_count
from lakefeed.errors import EXIT_CONFLICT, EXIT_CORRUPT, EXIT_NOT_FOUND, Corrupt

if TYPE_CHECKING:
    from lakefeed.lake.findings import Finding, Progress
    from lakefeed.volume.base import Volume

commands = typer.Typer()

# What is said of the log, of segments, and of nothing that repair can mend.
_INDEX = {"index", "order", "rows", "file", "missing"}


@dataclass(frozen=True)
class _Damage:
    """What repair can mend: the log, a newest commit, checkpoints, the index; and what it found.

    Of the findings `lasting` are beyond it: what is not there, or not what was written. `lost` are
    packs that only a new log can do without.
    """

    log: bool
    head: int | None
    index: bool
    findings: tuple[Finding, ...]
    checkpoints: tuple[str, ...] = ()
    lasting: int = 0
    lost: frozenset[str] = frozenset()


@commands.command("repair", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_CORRUPT))
def repair(
    lake: LakeArgument,
    index: Annotated[
        bool, typer.Option("--index", help="Rebuild the index, also if nothing seems wrong.")
    ] = False,
    log: Annotated[
        bool,
        typer.Option(
            "--log",
            help="Rebuild a log: lost, damaged, or naming lost packs; nobody may use the lake.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Mend a lake: a damaged newest commit, the index, and with --log a lost log.

    Looks first and does what is needed. The newest commit, if it is damaged, moves to quarantine/
    and the lake goes on from the one before; so do damaged checkpoints, which only save time.
    Segments are rebuilt from the packs alone, beside readers and writers. A log is rebuilt only on
    request: which of two overlapping writers came first may then be a guess (docs/SERVICE.md).
    With --log, packs that fsck finds to be of commits behind the newest one are taken in, too.
    Damaged payloads cannot be mended: see scrub. Findings that are beyond repair, such as a missing
    pack, are exit code 5, as with fsck. With --log the lake goes on without packs that are missing:
    copy them back first if you can, for their files are gone then, what they had deleted or
    replaced is back where its pack is there, and older snapshots are given up.

    JSON keys: dry_run, log (needed, done, exact, guessed, unreadable, gone, over, quarantine), head
    (number, quarantine), checkpoints (damaged, quarantine), index (needed, done, snapshot, rows,
    segments), findings.

    \b
    lakefeed repair /mnt/lake --dry-run
    lakefeed repair /mnt/lake --log
    """
    from lakefeed.format.bridge import spare_pandas

    spare_pandas()
    volume = volume_at(lake)
    with stages(quiet=quiet or as_json) as progress:
        damage = _look(volume, progress, without_lost=log)
        if damage.log and not log and not dry_run:
            raise Corrupt(f"log of {volume.name}", expected="commits without a gap",
                          found="some are missing or damaged",
                          hint="see lakefeed fsck; repair --log writes it anew")  # fmt: skip
        facts: dict[str, Any] = {"dry_run": dry_run}
        facts["log"] = _mend_log(volume, damage.log, dry_run or not log, progress)
        facts["head"] = _mend_head(volume, damage.head, dry_run)
        facts["checkpoints"] = _mend_checkpoints(volume, damage.checkpoints, dry_run)
        rebuilt = facts["log"]["done"]
        needed = damage.index or index or rebuilt
        facts["index"] = _mend_index(lake, needed, dry_run, progress)
    if as_json:
        print_json({**facts, "findings": [str(finding) for finding in damage.findings]})
    else:
        _print(facts, damage)
    if damage.lasting:
        raise typer.Exit(EXIT_CORRUPT)


def _look(volume: Volume, progress: Progress, *, without_lost: bool) -> _Damage:
    """Return what is wrong and can be mended; lost packs, if the log may be written without."""
    from lakefeed.lake.check import check
    from lakefeed.lake.check_log import check_log
    from lakefeed.lake.findings import Collector
    from lakefeed.lake.lake import Lake
    from lakefeed.lake.layout import pack_path
    from lakefeed.lake.repair import damaged_head, log_is_lost

    if log_is_lost(volume):
        return _Damage(True, None, True, ())
    found = Collector()
    try:
        head = damaged_head(volume)
        state = check_log(volume, found, progress).state
    except Corrupt:
        return _Damage(True, None, False, ())
    # A damaged newest commit, and checkpoints, are what needs no new log.
    about = found.report(0, False).findings
    broken = found.total - sum(f.kind == "checkpoint" for f in about) - (head is not None)
    if broken or (state is None and head is None):
        return _Damage(True, head, False, about)
    with Lake.open(volume) as opened:
        report = check(opened, progress=progress)
        findings = report.findings
        packs = opened.snapshot().state.packs
    checkpoints = tuple(f.subject for f in findings if f.kind == "checkpoint")
    others = [f for f in findings if f.kind not in {"log", "checkpoint"}]
    index = sum(f.kind in _INDEX and "packs/" not in f.subject for f in others)
    missing = {f.subject for f in others if f.kind == "missing"}
    lost = frozenset(missing & set(map(pack_path, packs)))
    lasting = len(others) - index
    if without_lost and (lost or report.counters.ahead):
        return _Damage(True, head, True, findings, lasting=lasting - len(lost))
    return _Damage(False, head, index > 0, findings, checkpoints, lasting, lost)


def _mend_log(volume: Volume, needed: bool, only_look: bool, progress: Progress) -> dict[str, Any]:
    from lakefeed.lake.repair import rebuild_log

    if not needed or only_look:
        return {"needed": needed, "done": False}
    rebuilt, place = rebuild_log(volume, progress)
    return {
        "needed": True,
        "done": True,
        "snapshot": rebuilt.state.number,
        "packs": len(rebuilt.state.packs),
        "exact": rebuilt.exact,
        "guessed": rebuilt.guessed,
        "unreadable": list(rebuilt.unreadable),
        "gone": list(rebuilt.gone),
        "over": list(rebuilt.over),
        "quarantine": place,
    }


def _mend_head(volume: Volume, number: int | None, dry_run: bool) -> dict[str, Any]:
    from lakefeed.lake.repair import damaged_head, quarantine_head

    # A log that was written anew has no damaged newest commit any more.
    if number is None or dry_run or damaged_head(volume) != number:
        return {"number": number, "quarantine": None}
    return {"number": number, "quarantine": quarantine_head(volume, number)}


def _mend_checkpoints(volume: Volume, paths: tuple[str, ...], dry_run: bool) -> dict[str, Any]:
    from lakefeed.lake.repair import quarantine_checkpoints

    place = quarantine_checkpoints(volume, paths) if paths and not dry_run else None
    return {"damaged": paths, "quarantine": place}


def _mend_index(lake: str, needed: bool, dry_run: bool, progress: Progress) -> dict[str, Any]:
    from lakefeed.lake.repair import rebuild_index

    if not needed or dry_run:
        return {"needed": needed, "done": False}
    with open_lake(lake) as opened:
        done = rebuild_index(opened, progress)
    return {"needed": True, "done": True, "snapshot": done.snapshot, "rows": done.rows,
            "segments": done.segments}  # fmt: skip


def _print(facts: dict[str, Any], damage: _Damage) -> None:
    would = facts["dry_run"]
    for finding in damage.findings:
        print_line(shown(str(finding)))
    log, head, index = facts["log"], facts["head"], facts["index"]
    if log["done"]:
        print_line(
            f"wrote the log anew: {human_count(log['packs'])} packs in {log['snapshot']} commits, "
            f"{log['exact']} with their true number, {log['guessed']} by time; the old one is in "
            f"{log['quarantine']}"
        )
        for path in log["unreadable"]:
            print_line(f"left out: {path} is no complete pack")
        for path in log["gone"]:
            print_line(f"left out: {path} is gone, compacted and collected since, or lost")
        for path in log["over"]:
            why = "was never committed, as far as can be told, or nothing is left of it"
            print_line(f"left out: {path} {why}")
    elif log["needed"]:
        print_line("the log needs to be written anew: repair --log, while nobody uses the lake")
    if head["quarantine"]:
        print_line(f"moved damaged commit {head['number']} to {head['quarantine']}")
    elif head["number"] is not None and would:
        print_line(f"would move damaged commit {head['number']} to quarantine/")
    amount = human_count(len(damage.checkpoints))
    if facts["checkpoints"]["quarantine"]:
        print_line(f"moved {amount} checkpoints to {facts['checkpoints']['quarantine']}")
    elif damage.checkpoints:
        print_line(f"would move {amount} checkpoints to quarantine/")
    if index["done"]:
        print_line(
            f"rebuilt the index: {human_count(index['rows'])} rows in {index['segments']} "
            f"segments, snapshot {index['snapshot']}"
        )
    elif index["needed"]:
        print_line("would rebuild the index from the packs")
    if damage.lasting:
        print_line(f"{human_count(damage.lasting)} findings are beyond repair: restore what is "
                   "missing or damaged, or delete what names it")  # fmt: skip
        if damage.lost:
            print_line(
                "without a copy of a lost pack: repair --log goes on without it, while nobody uses "
                "the lake; what it had deleted or replaced comes back"
            )
    elif not (log["needed"] or head["number"] is not None or damage.checkpoints
              or index["needed"]):  # fmt: skip
        print_line("nothing to repair")
