"""Commands that move whole trees: import from and export to a directory or archives.

Both report files that were left out on stderr, one line each, and end with exit code 1 when there
were any; the rest has been done by then. Running either again does only what is still to do.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from lakefeed.cli.common import (
    AtOption,
    DryRunOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    complain,
    exit_codes,
    open_lake,
    open_snapshot,
)
from lakefeed.cli.output import Meter, metering, print_json, print_line, shown
from lakefeed.cli.units import human_count, human_seconds, human_size, size_option
from lakefeed.errors import (
    EXIT_BUG,
    EXIT_CONFLICT,
    EXIT_CORRUPT,
    EXIT_NOT_FOUND,
    Invalid,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lakefeed.lake.lake import Lake
    from lakefeed.transfer.exporting import ExportReport, Target
    from lakefeed.transfer.importing import ImportOptions, ImportReport, Progress
    from lakefeed.transfer.problems import Problem
    from lakefeed.transfer.recruiting import Recruits

# More would want more memory, and rarely find a volume that takes it.
_WORKERS_MAX = 4
# Fewer names are imported before workers would be ready.
_WORKERS_FROM = 8192
# Whoever asks for such a file does not want a directory of that name, or a tar that is none.
_COMPRESSED = frozenset(
    (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".lz4", ".zip", ".7z")
)

commands = typer.Typer()


class CodecName(str, Enum):
    """How payloads are stored."""

    none = "none"
    zstd = "zstd"


class Format(str, Enum):
    """What an export writes."""

    directory = "directory"
    tar = "tar"
    tfrecord = "tfrecord"


SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Directory to import, or tar archives, one after the other.",
        show_default=False,
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Leave out: '*.tmp' at any depth, 'a/*.log' from the root, 'cache/' directories only. "
        "May be repeated.",
    ),
]
PackSizeOption = Annotated[
    int,
    typer.Option(
        "--pack-size", metavar="SIZE", parser=size_option, help="Size of a pack, one commit each."
    ),
]

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Processes that read and write, where there are thousands of files; "
        "default: one for each usable processor, at most 4.",
        show_default=False,
    ),
]


@commands.command("import", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT))
def import_command(
    sources: SourcesArgument,
    lake: LakeArgument,
    prefix: Annotated[
        str,
        typer.Option("--prefix", metavar="PATH", help="Directory in the lake to import into."),
    ] = "",
    exclude: ExcludeOption = None,
    codec: Annotated[
        CodecName, typer.Option("--codec", help="Compress payloads where that saves an eighth.")
    ] = CodecName.none,
    pack_size: PackSizeOption = "1GiB",  # type: ignore[assignment]
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Import what links point to, not the links.")
    ] = False,
    skip_special: Annotated[
        bool, typer.Option("--skip-special", help="Say nothing about sockets, pipes and devices.")
    ] = False,
    workers: WorkersOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a directory tree or tar archives; what is in already is skipped.

    A file is in already if the lake has it with the same size, time and mode. Modes, times,
    symlinks and empty directories are kept; LAKE itself, where it lies in SOURCE, is left out.
    Stop it at any time and run it again to continue. Files that cannot be read are named at the
    end, and the exit code is then 1. It adds and replaces: what left SOURCE stays in the lake, and
    what is replaced keeps the attributes that it has there.

    Archives (.tar, also by gzip, bzip2, xz or zstd) are read once, by one process, and committed
    every 128 MiB. Of files of one name the last stands, as with tar: shards that share names want a
    --prefix each. Hard links become files; devices, absolute names and '..' are left out. Of a
    damaged archive comes in what lies before the damage, which is named.

    \b
    lakefeed import photos/ /mnt/lake --prefix train --exclude '*.tmp'
    lakefeed import shards/*.tar /mnt/lake --prefix train

    JSON keys: files, directories, bytes, skipped, excluded, errors, problems (path, reason), packs,
    snapshot, seconds, dry_run.
    """
    count = workers or min(len(os.sched_getaffinity(0)), _WORKERS_MAX)
    with ExitStack() as started:
        recruits = _recruits(sources, count, started)
        # What takes its time to load is loaded here and in the workers at once.
        from lakefeed.format.rows import Codec
        from lakefeed.transfer.importing import ImportOptions

        options = ImportOptions(
            prefix=prefix,
            exclude=tuple(exclude or ()),
            follow_symlinks=follow_symlinks,
            skip_special=skip_special,
            codec=Codec[codec.value.upper()],
            pack_bytes=pack_size,
            dry_run=dry_run,
            workers=count,
            workers_from=_WORKERS_FROM,
        )
        with open_lake(lake) as opened, metering("importing", quiet=quiet or as_json) as meter:
            report = _import(opened, sources, options, _advance(meter), recruits)
    _finish(report, as_json=as_json, text=_import_text(report))


def _recruits(sources: list[str], count: int, started: ExitStack) -> Recruits | None:
    """Return the workers for a directory, started already where it looks big; None for archives."""
    from lakefeed.transfer.recruiting import Recruits, looks_big

    directories = [source for source in sources if os.path.isdir(source)]
    if not directories:
        return None
    if len(sources) > 1:
        raise Invalid("SOURCE", expected="one directory, or tar archives",
                      found=f"directory {directories[0]!r} and others",
                      hint="import each directory by itself")  # fmt: skip
    recruits = started.enter_context(Recruits())
    if count > 1 and looks_big(sources[0], _WORKERS_FROM):
        recruits.start(count)
    return recruits


def _import(
    lake: Lake,
    sources: list[str],
    options: ImportOptions,
    advance: Callable[[Progress], None],
    recruits: Recruits | None,
) -> ImportReport:
    from lakefeed.transfer.importing import import_tree
    from lakefeed.transfer.unpacking import import_archives

    if recruits is None:
        return import_archives(lake, sources, options, advance)
    return import_tree(lake, sources[0], options, advance, recruits)


@commands.command("export", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def export_command(
    lake: LakeArgument,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Directory, .tar or .tfrecord file; '-' is a tar on standard output.",
            show_default=False,
        ),
    ],
    prefix: Annotated[
        str, typer.Option("--prefix", help="Directory in the lake to export; cut off the names.")
    ] = "",
    glob: Annotated[
        str | None, typer.Option("--glob", help="Only paths below the prefix that match.")
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="What to write; default: as TARGET's ending says."),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            "--shard-size",
            metavar="SIZE",
            parser=size_option,
            help="Write TARGET-000000.tar and so on, each ended at this size.",
        ),
    ] = None,
    at: AtOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export files to a directory, to tar (WebDataset) or to TFRecord, verified and streamed.

    A directory export skips files that are there with the same size, time and mode, and removes
    nothing: what left the lake stays there. A tar keeps names of any length, links and exact times,
    and never parts the files of one sample. A TFRecord holds one tf.train.Example for each file,
    with the features "path" and "data". An archive takes the place of one that is there; shards
    take the place of all shards of that name. Attributes are not exported: "lakefeed sql LAKE
    'select path, attrs from files' --csv" writes them down.

    \b
    lakefeed export /mnt/lake out/ --prefix train --at v1
    lakefeed export /mnt/lake train.tar --prefix train --shard-size 1GiB

    JSON keys: files, directories, bytes, skipped, errors, problems (path, reason), outputs,
    snapshot, seconds.
    """
    from lakefeed.transfer.exporting import ExportOptions, check_target, export

    chosen = _format_of(target, form)
    sink = _target(target, chosen, shard_size)
    to_stdout = target == "-"
    if to_stdout and as_json:
        raise Invalid("--json", expected="a target other than '-'", found="standard output taken")
    with (
        open_snapshot(lake, at) as snapshot,
        metering("exporting", quiet=quiet or as_json) as meter,
    ):
        if not to_stdout:
            check_target(target, lake, snapshot, prefix)
        report = export(snapshot, sink, ExportOptions(prefix, glob), _advance(meter))
    _finish(report, as_json=as_json, text=None if to_stdout else _export_text(report))


def _format_of(target: str, form: Format | None) -> Format:
    ending = os.path.splitext(target)[1].lower()
    if form is None and ending in _COMPRESSED and os.path.isdir(target):
        return Format.directory  # of such a name, and there already
    if ending in _COMPRESSED and form is not Format.directory:
        raise Invalid(
            f"target {target!r}",
            expected="a directory, .tar or .tfrecord file",
            found=f"a name that ends in {ending}, which is not written",
            hint='compress what "-" writes, as in "lakefeed export LAKE - | gzip > out.tar.gz"; '
            '"--format directory" makes a directory of that name',
        )
    if form is not None:
        return form
    if target == "-" or ending == ".tar":
        return Format.tar
    return Format.tfrecord if ending in (".tfrecord", ".tfrecords") else Format.directory


def _target(where: str, form: Format, shard_bytes: int | None) -> Target:
    from lakefeed.transfer.archives import TarTarget, TfrecordTarget
    from lakefeed.transfer.directory import DirectoryTarget
    from lakefeed.transfer.shards import Shards

    if form is Format.directory:
        if shard_bytes is not None:
            raise Invalid("--shard-size", expected="an archive", found="a directory as target")
        return DirectoryTarget(where)
    shards = Shards(where, shard_bytes)
    return TarTarget(shards) if form is Format.tar else TfrecordTarget(shards)


def _advance(meter: Meter) -> Callable[[Progress], None]:
    """Return a callback that brings the meter to where the transfer is."""

    def advance(progress: Progress) -> None:
        done = progress.files + progress.skipped
        meter.add(done - meter.files, progress.bytes - meter.bytes)

    return advance


def _finish(report: ImportReport | ExportReport, *, as_json: bool, text: str | None) -> None:
    if as_json:
        print_json(asdict(report))
    elif text is not None:
        print_line(text)
    _complain_about(report.problems, report.errors)
    if report.errors:
        raise typer.Exit(EXIT_BUG)


def _complain_about(problems: tuple[Problem, ...], count: int) -> None:
    for problem in problems:
        complain(f"left out: {shown(problem.path)}: {problem.reason}")
    if count > len(problems):
        complain(f"left out: {human_count(count - len(problems))} more")


def _import_text(report: ImportReport) -> str:
    verb = "would import" if report.dry_run else "imported"
    return f"{verb} {_amount(report)}; {human_count(report.excluded)} excluded"


def _export_text(report: ExportReport) -> str:
    return f"exported {_amount(report)}"


def _amount(report: ImportReport | ExportReport) -> str:
    seconds = max(report.seconds, 1e-9)
    rates = f"{report.files / seconds:,.0f} files/s, {report.bytes / 1e6 / seconds:,.1f} MB/s"
    return (
        f"{human_count(report.files)} files and {human_count(report.directories)} directories, "
        f"{human_size(report.bytes)} in {human_seconds(report.seconds)} ({rates}); "
        f"{human_count(report.skipped)} skipped, {human_count(report.errors)} left out"
    )
