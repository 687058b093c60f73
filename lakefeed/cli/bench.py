"""`lakefeed bench`: how busy storage keeps accelerators, and what limits it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli import bench_options as options
from lakefeed.cli import benching
from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    exit_codes,
    open_lake,
    settings,
)
from lakefeed.cli.output import metering, print_json, print_line
from lakefeed.cli.units import human_size
from lakefeed.errors import EXIT_BUG, EXIT_NOT_FOUND, Invalid

if TYPE_CHECKING:
    from lakefeed.bench.training import TrainOptions

# `cli.bench_volume` adds its own and brings all of them.
bench = benching.bench

_EMULATED_ONLY = (
    "--accelerators", "--sweep", "--epochs", "--repeat", "--warmup", "--harness", "--strict",
    "--check",
)  # fmt: skip
_REAL_ONLY = ("--model", "--framework", "--batch-size")


@bench.command("train", epilog=exit_codes(EXIT_NOT_FOUND))
def train(
    context: typer.Context,
    lake: LakeArgument,
    workload: options.WorkloadOption = "retinanet",
    accelerator: options.AcceleratorOption = None,
    accelerators: options.AcceleratorsOption = 1,
    source: options.SourceOption = None,
    data: options.DataOption = None,
    select: options.SelectOption = "",
    at: AtOption = None,
    sweep: options.SweepOption = False,
    sweep_max: options.SweepMaxOption = 16,
    steps: options.StepsOption = None,
    epochs: options.EpochsOption = None,
    repeat: options.RepeatOption = False,
    warmup: options.WarmupOption = 0,
    emulate: options.EmulateOption = None,
    harness: options.HarnessOption = options.Harness.dlio,
    device: options.DeviceOption = options.Device.emulated,
    model: options.ModelOption = options.Model.cnn,
    framework: options.FrameworkOption = None,
    batch_size: options.BatchSizeOption = 32,
    read_threads: options.ReadThreadsOption = None,
    prefetch: options.PrefetchOption = None,
    shuffle: options.ShuffleOption = "global",
    window: options.WindowOption = None,
    seed: options.SeedOption = 0,
    cold: options.ColdOption = False,
    strict: options.StrictOption = False,
    check: options.CheckOption = False,
    report: options.ReportOption = None,
    watch: options.WatchOption = False,
    metrics_port: options.MetricsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train with emulated accelerators, or for real, and say how busy they are kept.

    Emulated accelerators are those of MLPerf Storage: each rank is a process that takes a batch,
    waits for the workload's computation time and meets the others. AU, the accelerator
    utilisation, is shown beside its ceiling, the AU of batches from memory. A run here is no MLPerf
    result. Short runs want a --warmup of twice --prefetch: it uses up what was read ahead before
    the first step. With another --device a real model trains: GPU busy and power are sampled where
    there is a GPU, and three runs tell compute, preparation and fetching apart.

    A lake with too few samples, an unknown workload or accelerator, or --cold without permission
    ends with exit code 2 or 3; a run below the threshold with 1 under --check.

    JSON keys: those of the report: schema, kind, title, workload, runs (source, utilisation,
    samples_per_second, bytes_per_second, stall_share, wait_seconds, timeline, passed, verdict),
    ceiling, sweeps, notes, lines, verdict, next, passed, environment.

    \b
    lakefeed bench train /mnt/lake --workload retinanet --accelerator b200 --report run.html
    lakefeed bench train /mnt/lake -n 4 --source plain --source lake --sweep --emulate nas
    lakefeed bench train /mnt/lake --device cpu --framework torch --model cnn
    """
    asked = SimpleNamespace(**locals())
    _check_flags(asked)
    benching.check_report(report)
    with benching.live(watch, quiet or as_json, metrics_port) as shown:
        facts = _measure(asked, shown)
    benching.finish(facts, report, as_json)
    if check and facts["passed"] is False:
        raise typer.Exit(EXIT_BUG)


def _check_flags(asked: Any) -> None:
    """Refuse what only emulated accelerators have where a real model trains, and the other way;
    and what says something of another flag that is not there."""
    emulated = asked.device is options.Device.emulated
    flags = _REAL_ONLY if emulated else _EMULATED_ONLY
    given = [flag for flag in flags if _is_given(asked.context, flag)]
    if given:
        expected = "a real model" if emulated else "emulated accelerators"
        found = f"--device {asked.device.value}"
        hint = "name a --device, or leave it out" if emulated else "leave it out"
        raise Invalid(", ".join(given), expected=expected, found=found, hint=hint)
    if not asked.sweep and _is_given(asked.context, "--sweep-max"):
        raise Invalid("--sweep-max", expected="--sweep with it", found="none")


def _is_given(context: typer.Context, flag: str) -> bool:
    source = context.get_parameter_source(flag[2:].replace("-", "_"))
    return source is not None and source.name == "COMMANDLINE"


def _measure(asked: Any, shown: benching.Shown) -> dict[str, Any]:
    """Train as the flags of `train` ask."""
    from lakefeed.bench.training import train as train_emulated

    plan = _plan(asked)
    if asked.device is options.Device.emulated:
        return train_emulated(plan, shown.say, shown.watch)
    # PyTorch and TensorFlow take seconds to load: only a real training needs one of them.
    benching.quiet_tensorflow()
    from lakefeed.bench.real import RealOptions, train_really

    usual = "torch" if asked.device is options.Device.cuda else "keras"
    framework = usual if asked.framework is None else asked.framework.value
    real = RealOptions(asked.device.value, framework, asked.model.value, asked.batch_size)
    return train_really(plan, real, shown.say, shown.watch)


def _plan(asked: Any) -> TrainOptions:
    from lakefeed.bench import workloads
    from lakefeed.bench.sources import Reading
    from lakefeed.bench.training import Limits, TrainOptions

    chosen = workloads.load(asked.workload, asked.accelerator)
    kinds = [kind.value for kind in asked.source or [options.SourceKind.lake]]
    return TrainOptions(
        lake=asked.lake,
        workload=chosen,
        accelerators=asked.accelerators,
        sources=tuple(dict.fromkeys(kinds)),
        select=asked.select,
        at=benching.snapshot_number(asked.lake, asked.at),
        data=benching.data_option(asked.data or []),
        reading=Reading(
            shuffle=None if asked.shuffle == "none" else asked.shuffle,
            window=asked.window,
            seed=asked.seed,
            read_threads=asked.read_threads or chosen.read_threads,
            prefetch=asked.prefetch or 2 * (asked.read_threads or chosen.read_threads),
        ),
        delays=benching.delays_option(asked.emulate),
        limits=Limits(
            steps=asked.steps,
            epochs=asked.epochs,
            sweep_max=asked.sweep_max if asked.sweep else 0,
            repeat=asked.repeat,
            warmup_steps=asked.warmup,
        ),
        harness=asked.harness.value,
        cold=asked.cold,
        strict=asked.strict,
        timeout_seconds=settings.get().timeout_seconds,
    )


@bench.command("generate", epilog=exit_codes(EXIT_NOT_FOUND))
def generate(
    lake: LakeArgument,
    workload: Annotated[
        str, typer.Option("--workload", metavar="NAME", help="Whose samples to make.")
    ] = "retinanet",
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", metavar="KIND", help="Some have their own size.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many.")] = 1000,
    seed: options.SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put made samples of a workload's size into a lake, to measure on.

    They are noise, so no codec or cache can flatter a run, and lie below the workload's name.

    JSON keys: workload, samples, bytes.

    \b
    lakefeed create /mnt/lake
    lakefeed bench generate /mnt/lake --workload retinanet --samples 5000
    """
    from lakefeed.bench import preparing, workloads

    chosen = workloads.load(workload, accelerator)
    with open_lake(lake) as opened, metering("making", total_files=samples, quiet=quiet) as meter:

        def done(count: int, size_bytes: int) -> None:
            meter.add(count - meter.files, size_bytes - meter.bytes)

        made = preparing.generate(opened, chosen, samples, done, seed)
    if as_json:
        print_json({"workload": chosen.name, "samples": made.samples, "bytes": made.bytes})
    else:
        print_line(f"{made.samples:,} samples of {chosen.name}, {human_size(made.bytes)}")


@bench.command("compare", epilog=exit_codes(EXIT_NOT_FOUND))
def compare(
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT.json", help="Two or more reports.", show_default=False),
    ],
    report: options.ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare reports of `train` or `feed` run by run, against the first.

    It says where machine, volume, workload or cache differ.

    JSON keys: those of a report, and changes (report, source, and the ratio of each figure).

    \b
    lakefeed bench compare before.json after.json --report change.html
    """
    from lakefeed.bench import reports as stored

    facts = stored.compare([(path.stem, stored.read(path)) for path in reports])
    benching.finish(facts, report, as_json)
