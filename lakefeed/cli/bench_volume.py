"""`lakefeed bench volume` and `bench feed`: what the mount can do, what the feed gets of it."""

from __future__ import annotations

from typing import Annotated

import typer

from lakefeed.cli import bench_options as options
from lakefeed.cli import benching
from lakefeed.cli.bench import bench
from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    exit_codes,
    settings,
)
from lakefeed.cli.doctor import DirectoryArgument
from lakefeed.cli.output import stages
from lakefeed.cli.units import size_option
from lakefeed.errors import EXIT_NOT_FOUND

# `bench` and all of its commands, those of `cli.bench` first.
commands = typer.Typer()
commands.add_typer(bench, name="bench")


def _numbers(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise typer.BadParameter(f"{text!r}: write numbers like 1,4,16")
    return tuple(sorted({int(word) for word in words}))


def _prefetches(text: str) -> tuple[int | None, ...]:
    words = [word.strip() for word in text.split(",")]
    return tuple(None if word == "auto" else _numbers(word)[0] for word in words)


@bench.command("volume", epilog=exit_codes(EXIT_NOT_FOUND))
def volume(
    directory: DirectoryArgument,
    file_size: Annotated[
        int,
        typer.Option(
            "--file-size", metavar="SIZE", parser=size_option, help="The file that is read."
        ),
    ] = "256MiB",  # type: ignore[assignment]
    files: Annotated[int, typer.Option("--files", min=1, help="Small files to open.")] = 1000,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="DURATION",
            parser=benching.measured_option,
            help="Time of each cell.",
        ),
    ] = "500ms",  # type: ignore[assignment]
    concurrency: Annotated[
        str, typer.Option("--concurrency", metavar="N,N", help="Requests in flight to try.")
    ] = "1,4,16,64",
    report: options.ReportOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what a mounted directory can do, with no lake.

    Sequential and random reads by size, opens, stats, creates, fsyncs, links and renames, each from
    more and more threads, and where more of them gain nothing. On NFS also what the kernel's client
    asked of the server meanwhile. Files go into a directory of their own, removed afterwards.

    JSON keys: schema, kind, title, reads and calls (name, concurrency, calls_per_second,
    bytes_per_second, p50_seconds, p99_seconds, knee), rpcs, verdicts, lines, verdict, next,
    environment.

    \b
    lakefeed bench volume /mnt/nas --report volume.html
    """
    from lakefeed.bench.volume import VolumeOptions, measure

    benching.check_report(report)
    plan = VolumeOptions(
        directory,
        file_size,
        files,
        seconds,
        concurrency=_numbers(concurrency),
        timeout_seconds=settings.get().timeout_seconds,
    )
    with stages(quiet=quiet or as_json) as progress:
        facts = measure(plan, progress)
    benching.finish(facts, report, as_json)


@bench.command("feed", epilog=exit_codes(EXIT_NOT_FOUND))
def feed(
    lake: LakeArgument,
    select: options.SelectOption = "",
    at: AtOption = None,
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", metavar="N,N", help="Batch sizes to try.")
    ] = "32,256",
    shuffles: Annotated[
        str, typer.Option("--shuffles", metavar="HOW,HOW", help="Of global, runs=K, none.")
    ] = "none,runs=64,global",
    prefetches: Annotated[
        str,
        typer.Option("--prefetches", metavar="N,N", help="Batches to read ahead; auto: what fits."),
    ] = "auto",
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="DURATION",
            parser=benching.measured_option,
            help="Time of each run.",
        ),
    ] = "3s",  # type: ignore[assignment]
    seed: options.SeedOption = 0,
    emulate: options.EmulateOption = None,
    cold: options.ColdOption = False,
    report: options.ReportOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how quickly a lake's feed delivers, for every combination of options.

    Two ceilings stand in the same table: batches from memory, and bare large reads of the same
    packs into memory used again, with no index, no checksum and no order. Each run is a process of
    its own.

    JSON keys: schema, kind, title, feeds (name, samples_per_second, bytes_per_second,
    cpu_per_thousand_samples, peak_rss_bytes, read_amplification, wait_seconds), lines, verdict,
    next, environment.

    \b
    lakefeed bench feed /mnt/lake --batch-sizes 64,512 --shuffles global,runs=64 --report feed.html
    """
    from lakefeed.bench.feeding import FeedBench, measure

    benching.check_report(report)
    plan = FeedBench(
        lake=lake,
        select=select,
        at=benching.snapshot_number(lake, at),
        batch_sizes=_numbers(batch_sizes),
        shuffles=tuple(word.strip() for word in shuffles.split(",")),
        prefetches=_prefetches(prefetches),
        seconds=seconds,
        seed=seed,
        delays=benching.delays_option(emulate),
        cold=cold,
        timeout_seconds=settings.get().timeout_seconds,
    )
    with benching.live(False, quiet or as_json, None) as shown:
        facts = measure(plan, shown.say)
    benching.finish(facts, report, as_json)
