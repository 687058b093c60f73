"""The command that rewrites packs: compact."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    DryRunOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    exit_codes,
    open_lake,
)
from lakefeed.cli.output import print_json, print_line, shown, stages
from lakefeed.cli.units import human_count, human_seconds, human_size, rate_option, size_option
from lakefeed.errors import EXIT_CONFLICT, EXIT_CORRUPT, EXIT_NOT_FOUND, Conflict

if TYPE_CHECKING:
    from lakefeed.lake.compaction import CompactionOptions, CompactionPlan
    from lakefeed.lake.compactor import Compacted
    from lakefeed.lake.copying import Damage
    from lakefeed.lake.findings import Progress
    from lakefeed.lake.lake import Lake
    from lakefeed.lake.repacking import CopyOptions
    from lakefeed.service.window import Window

commands = typer.Typer()


class Layout(str, Enum):
    """The order of payloads in a new pack."""

    PATH = "path"
    SHUFFLED = "shuffled"


TargetOption = Annotated[
    int,
    typer.Option("--target-size", metavar="SIZE", parser=size_option, help="Size of new packs."),
]
RatioOption = Annotated[
    float,
    typer.Option("--live-ratio", metavar="RATIO", help="Rewrite packs with less that is live."),
]
LayoutOption = Annotated[
    Layout,
    typer.Option(
        "--layout",
        help="Order of the payloads in a new pack: path suits feeds, mounts and exports; "
        "shuffled suits programs that read packs from front to back.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="What decides --layout shuffled.")]
RateOption = Annotated[
    float | None,
    typer.Option(
        "--rate", metavar="RATE", parser=rate_option, help="Copy at most so much, such as 200MB/s."
    ),
]
MakeWayOption = Annotated[
    bool,
    typer.Option(
        "--make-way/--no-make-way",
        help="Rest while the volume answers more slowly than before the copying began.",
    ),
]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar="TIMES",
        help="Begin only at these times of the day, such as 22:00-06:00, and end with them.",
    ),
]


@commands.command("compact", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_CORRUPT))
def compact(
    lake: LakeArgument,
    target_size: TargetOption = "1GiB",  # type: ignore[assignment]
    live_ratio: RatioOption = 0.5,
    layout: LayoutOption = Layout.PATH,
    seed: SeedOption = 0,
    rate: RateOption = None,
    makes_way: MakeWayOption = True,
    window: WindowOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rewrite small packs and mostly dead ones into full ones.

    Files, times and snapshots stay as they are; readers and writers go on meanwhile. The old packs
    take up room until "lakefeed gc" may delete them. One run rewrites at most 64 GiB; "left" says
    how many packs wait for the next one. A run that is still copying when its window ends is given
    up and leaves nothing behind; with --rate it takes on no more than half of that time will do. A
    damaged file, or a pack that cannot be read, stays where it is, is named, and makes the exit
    code 5.

    JSON keys: dry_run, snapshot, inputs (id, reason, bytes, payload_bytes, live_bytes, rows), left,
    packs_added, packs_removed, added_bytes, removed_bytes, payloads, payload_bytes, segments,
    damages (path, pack, expected, found), rested_seconds; outside: true outside the window.

    \b
    lakefeed compact /mnt/lake --dry-run
    lakefeed compact /mnt/lake --rate 200MB/s
    """
    from lakefeed.lake.compaction import CompactionOptions
    from lakefeed.lake.repacking import CopyOptions

    options = CompactionOptions(target_bytes=target_size, live_ratio=live_ratio)
    how = CopyOptions(layout.value, seed, rate, makes_way)
    with open_lake(lake) as opened, stages(quiet=quiet or as_json) as progress:
        done = _compact(opened, (options, how), window, None if dry_run else progress)
    if done is None:
        _print_outside(window, dry_run, as_json=as_json)
        return
    if as_json:
        print_json(_facts(done, dry_run))
    else:
        _print_compacted(done, dry_run)
    if done.damages:
        raise typer.Exit(EXIT_CORRUPT)


def _compact(
    lake: Lake,
    wanted: tuple[CompactionOptions, CopyOptions],
    window: str | None,
    progress: Progress | None,
) -> Compacted | None:
    """Compact, without a progress only plan it; say what was done, None outside of the window."""
    from lakefeed.cli.zones import check_zone
    from lakefeed.lake.compactor import Compacted, plan_of
    from lakefeed.lake.compactor import compact as compact_lake
    from lakefeed.service.jobs import share_of
    from lakefeed.service.window import Window

    options, how = wanted
    times = None if window is None else Window.parse(window)
    if times is not None:
        check_zone()
        now = datetime.now()
        if not times.holds(now):
            return None
        options = share_of(times, options, how, now)
    if progress is None:
        planned = plan_of(lake, options, how)
        return Compacted(planned.plan, damages=planned.damages)
    return compact_lake(lake, options, how, _until_closed(times, progress) if times else progress)


def _print_outside(window: str | None, dry_run: bool, *, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": dry_run, "snapshot": None, "outside": True})
    else:
        print_line(f"nothing {'would be ' if dry_run else ''}done: it is not {window}")


def _until_closed(times: Window, progress: Progress) -> Progress:
    """Return a progress that ends the run when its window has closed."""

    def show(stage: str, done: int, total: int) -> None:
        progress(stage, done, total)
        if not times.holds(datetime.now()):
            hint = "nothing was changed; the next run begins with the next window"
            raise Conflict("compaction", expected="an end within its window", found="it has closed",
                           hint=hint)  # fmt: skip

    return show


def _facts(done: Compacted, dry_run: bool) -> dict[str, Any]:
    facts = asdict(done)
    plan = facts.pop("plan")
    return {"dry_run": dry_run, **facts, "inputs": plan["inputs"], "left": plan["left"]}


def _print_compacted(done: Compacted, dry_run: bool) -> None:
    plan = done.plan
    for damage in done.damages:
        print_line(_told(damage))
    if dry_run:
        _print_plan(plan)
    elif plan.empty:
        print_line("nothing to compact")
    elif done.snapshot is None:
        print_line("nothing changed: no pack could be given up")
    else:
        print_line(
            f"{human_count(len(done.packs_removed))} packs of {human_size(done.removed_bytes)} "
            f"became {human_count(len(done.packs_added))} of {human_size(done.added_bytes)} "
            f"in snapshot {done.snapshot}"
        )
    if done.rested_seconds >= 1:
        print_line(f"made way for readers for {human_seconds(done.rested_seconds)}")
    if plan.left:
        print_line(f"{human_count(plan.left)} packs are left for another run")


def _told(damage: Damage) -> str:
    from lakefeed.lake.layout import pack_path

    facts = f"expected {damage.expected}, found {damage.found}"
    if damage.path == pack_path(damage.pack):
        return f"left out: {damage.path}: {facts}; restore it from a copy of the lake"
    return (f"damaged: {shown(damage.path)} in pack {damage.pack}: {facts}; restore the file and "
            "put it again, or delete it")  # fmt: skip


def _print_plan(plan: CompactionPlan) -> None:
    for pack in plan.inputs:
        print_line(
            f"would rewrite {pack.id}: {pack.reason} ({human_size(pack.live_bytes)} live of "
            f"{human_size(pack.payload_bytes)}, {human_count(pack.rows)} rows)"
        )
    print_line(
        f"would rewrite {human_count(len(plan.inputs))} packs of {human_size(plan.bytes)}, "
        f"{human_size(plan.live_bytes)} live"
    )
