"""`lakefeed bench`: how busy storage keeps accelerators, and what limits it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli import benching
from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    exit_codes,
    open_lake,
)
from lakefeed.cli.output import metering, print_json, print_line
from lakefeed.cli.units import human_size
from lakefeed.errors import EXIT_BUG, EXIT_NOT_FOUND

if TYPE_CHECKING:
    from lakefeed.bench.training import TrainOptions

commands = typer.Typer()
bench = benching.bench


class SourceKind(str, Enum):
    """Where batches come from."""

    lake = "lake"
    plain = "plain"
    tfrecord = "tfrecord"
    webdataset = "webdataset"
    mount = "mount"


class Harness(str, Enum):
    """What happens between emulated steps."""

    dlio = "dlio"
    lean = "lean"


class Device(str, Enum):
    """What trains."""

    emulated = "emulated"
    cuda = "cuda"
    tf_gpu = "tf-gpu"
    cpu = "cpu"


class Model(str, Enum):
    """The model of a real training."""

    cnn = "cnn"
    resnet50 = "resnet50"


class Framework(str, Enum):
    """The library of a real training."""

    keras = "keras"
    torch = "torch"


@bench.command("train", epilog=exit_codes(EXIT_NOT_FOUND))
def train(
    lake: LakeArgument,
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            metavar="NAME",
            help="retinanet, resnet50, unet3d, cosmoflow, flux, dlrm, or a TOML file.",
        ),
    ] = "retinanet",
    accelerator: Annotated[
        str | None,
        typer.Option("--accelerator", metavar="KIND", help="b200, mi355, h100 or a100."),
    ] = None,
    accelerators: Annotated[
        int, typer.Option("--accelerators", "-n", min=1, max=512, help="How many to emulate.")
    ] = 1,
    source: Annotated[
        list[SourceKind] | None,
        typer.Option("--source", help="What to read from; repeat it to compare.  [default: lake]"),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="KIND=DIR",
            help="Where a source's files are: plain=/data/train. Otherwise they are copied out "
            "of the lake, beside it, and removed afterwards.",
        ),
    ] = None,
    select: benching.SelectOption = "",
    at: AtOption = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Find the most accelerators above the threshold.")
    ] = False,
    sweep_max: Annotated[
        int, typer.Option("--sweep-max", min=1, max=512, help="Try no more than so many.")
    ] = 16,
    steps: Annotated[
        int | None, typer.Option("--steps", min=2, help="At most so many steps an epoch.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Epochs; default: the workload's.")
    ] = None,
    emulate: benching.EmulateOption = None,
    harness: Annotated[
        Harness,
        typer.Option(
            "--harness",
            help="dlio does DLIO's work between steps too, so that AU compares with MLPerf's; "
            "lean leaves it out.",
        ),
    ] = Harness.dlio,
    device: Annotated[
        Device,
        typer.Option("--device", help="emulated, or real steps: cuda (torch), tf-gpu, cpu."),
    ] = Device.emulated,
    model: Annotated[
        Model, typer.Option("--model", help="Model of a real training (not emulated).")
    ] = Model.cnn,
    framework: Annotated[
        Framework | None,
        typer.Option("--framework", help="Library of a real training.  [default: the device's]"),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Batch of a real training.")
    ] = 32,
    read_threads: Annotated[
        int | None, typer.Option("--read-threads", min=1, help="Threads of file and shard readers.")
    ] = None,
    prefetch: Annotated[
        int | None,
        typer.Option("--prefetch", min=1, help="Batches to read ahead; default: as many as fit."),
    ] = None,
    shuffle: Annotated[
        str, typer.Option("--shuffle", metavar="HOW", help="global, runs=K or none.")
    ] = "global",
    seed: benching.SeedOption = 0,
    cold: benching.ColdOption = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse fewer samples than MLPerf Storage's rule.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a run stays below the threshold.")
    ] = False,
    report: benching.ReportOption = None,
    watch: benching.WatchOption = False,
    metrics_port: benching.MetricsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train with emulated accelerators, or for real, and say how busy they are kept.

    Emulated accelerators are those of MLPerf Storage: each rank is a process that takes a batch,
    waits for the workload's computation time and meets the others. AU, the accelerator
    utilisation, is shown beside its ceiling, the AU of batches from memory. A run here is no MLPerf
    result. With another --device a real model trains: GPU busy and power are sampled where there
    is a GPU, and three runs tell compute, preparation and fetching apart.

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
    from lakefeed.bench import workloads
    from lakefeed.bench.sources import Reading
    from lakefeed.bench.training import Limits, TrainOptions
    from lakefeed.bench.training import train as train_emulated

    chosen = workloads.load(workload, accelerator)
    options = TrainOptions(
        lake=lake,
        workload=chosen,
        accelerators=accelerators,
        sources=tuple(dict.fromkeys(kind.value for kind in source or [SourceKind.lake])),
        select=select,
        at=at,
        data=benching.data_option(data or []),
        reading=Reading(
            shuffle=None if shuffle == "none" else shuffle,
            seed=seed,
            read_threads=read_threads or chosen.read_threads,
            prefetch=prefetch,
        ),
        delays=benching.delays_option(emulate),
        limits=Limits(steps, epochs, sweep_max if sweep else 0),
        harness=harness.value,
        cold=cold,
        strict=strict,
    )
    with benching.live(watch, quiet or as_json, metrics_port) as shown:
        if device is Device.emulated:
            facts = train_emulated(options, shown.say, shown.watch)
        else:
            real = (device.value, framework and framework.value, model.value, batch_size)
            facts = _train_really(options, real, shown)
    benching.finish(facts, report, as_json)
    if check and facts["passed"] is False:
        raise typer.Exit(EXIT_BUG)


def _train_really(options: TrainOptions, real: tuple[Any, ...], shown: benching.Shown) -> Any:
    from lakefeed.bench.real import RealOptions, train_really

    device, framework, model, batch_size = real
    benching.quiet_tensorflow()
    chosen = RealOptions(
        device=device,
        framework=framework or ("torch" if device == "cuda" else "keras"),
        model=model,
        batch_size=batch_size,
    )
    return train_really(options, chosen, shown.say, shown.watch)


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
    seed: benching.SeedOption = 0,
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
    report: benching.ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare reports run by run, against the first.

    It says where machine, volume, workload or cache differ.

    JSON keys: those of a report, and changes (report, source, and the ratio of each figure).

    \b
    lakefeed bench compare before.json after.json --report change.html
    """
    from lakefeed.bench import reports as stored

    facts = stored.compare([(path.stem, stored.read(path)) for path in reports])
    benching.finish(facts, report, as_json)


# Last, so that every command above is there.
commands.add_typer(bench, name="bench")
