"""The options of the bench commands, each declared once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


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


SelectOption = Annotated[
    str, typer.Option("--select", metavar="PATTERN", help="A prefix or a glob: train/**.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order.")]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE", help="Write FILE.html (one page, offline) and FILE.json."
    ),
]
EmulateOption = Annotated[
    str | None,
    typer.Option(
        "--emulate",
        metavar="VOLUME",
        help="Simulate a slow volume: far (1 ms a call), nas (also 5,000 calls/s and 1 GB/s), or "
        "latency=2ms,calls=5000,bandwidth=1GB.",
    ),
]
ColdOption = Annotated[
    bool, typer.Option("--cold", help="Drop the page cache before each run; needs root.")
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Draw the run live on the terminal.")]
MetricsOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT",
        min=0,
        max=65535,
        help="Serve Prometheus metrics meanwhile.",
    ),
]
WorkloadOption = Annotated[
    str,
    typer.Option(
        "--workload",
        metavar="NAME",
        help="retinanet, resnet50, unet3d, cosmoflow, flux, dlrm, or a TOML file.",
    ),
]
AcceleratorOption = Annotated[
    str | None,
    typer.Option("--accelerator", metavar="KIND", help="b200, mi355, h100 or a100."),
]
AcceleratorsOption = Annotated[
    int, typer.Option("--accelerators", "-n", min=1, max=512, help="How many to emulate.")
]
SourceOption = Annotated[
    list[SourceKind] | None,
    typer.Option("--source", help="What to read from; repeat it to compare. [default: lake]"),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="KIND=DIR",
        help="Where a source's files are: plain=/data/train. Otherwise they are copied out "
        "of the lake, beside it, and removed afterwards.",
    ),
]
SweepOption = Annotated[
    bool, typer.Option("--sweep", help="Find the most accelerators above the threshold.")
]
SweepMaxOption = Annotated[
    int, typer.Option("--sweep-max", min=1, max=512, help="Try no more than so many.")
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", min=2, help="At most so many steps an epoch.")
]
EpochsOption = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Epochs; default: the workload's.")
]
RepeatOption = Annotated[
    bool,
    typer.Option(
        "--repeat", help="Take all of --steps: go on into the data's next epoch where it is short."
    ),
]
WarmupOption = Annotated[
    int,
    typer.Option(
        "--warmup",
        min=0,
        help="Take so many batches of each rank first, without computing, and count none of them.",
    ),
]
HarnessOption = Annotated[
    Harness,
    typer.Option(
        "--harness",
        help="dlio does DLIO's work between steps too, so that AU compares with MLPerf's; "
        "lean leaves it out.",
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", help="emulated, or real steps: cuda (torch), tf-gpu, cpu."),
]
ModelOption = Annotated[
    Model, typer.Option("--model", help="Model of a real training (not emulated).")
]
FrameworkOption = Annotated[
    Framework | None,
    typer.Option("--framework", help="Library of a real training. [default: the device's]"),
]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", min=1, help="Batch of a real training.")
]
ReadThreadsOption = Annotated[
    int | None, typer.Option("--read-threads", min=1, help="Threads of file and shard readers.")
]
PrefetchOption = Annotated[
    int | None,
    typer.Option("--prefetch", min=1, help="Batches read ahead; default: twice the threads."),
]
ShuffleOption = Annotated[
    str, typer.Option("--shuffle", metavar="HOW", help="global, runs=K or none.")
]
WindowOption = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=1,
        help="With runs=K: samples are mixed within so many positions. As many as a batch has "
        "let neighbours share reads. [default: the feed's]",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse fewer samples than MLPerf Storage's rule.")
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Exit with 1 if a run stays below the threshold.")
]
