"""`lakefeed demo`: real pictures in, a trained model out, and a report to look at."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from lakefeed.cli.common import JsonOption, exit_codes
from lakefeed.cli.output import print_json, print_line
from lakefeed.errors import EXIT_BUG, EXIT_CONFLICT, EXIT_NOT_FOUND, Invalid

commands = typer.Typer()

_NEEDS = ("tensorflow", "sklearn", "PIL", "matplotlib")

ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        file_okay=False,
        help="Train on PNG and JPEG files in one folder for each class, not on the digits.",
    ),
]
DirOption = Annotated[
    Path,
    typer.Option("--dir", metavar="DIR", help="Where the report goes, and the lake meanwhile."),
]
EpochsOption = Annotated[int, typer.Option("--epochs", min=1, help="Passes over the pictures.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of weights and order.")]
AcceleratorsOption = Annotated[
    bool,
    typer.Option(
        "--accelerators/--no-accelerators",
        help="Feed emulated accelerators at the end, which takes about a minute.",
    ),
]
KeepOption = Annotated[
    bool, typer.Option("--keep", help="Keep the lake and the folders beside the report.")
]


@commands.command("demo", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT))
def demo(
    images: ImagesOption = None,
    directory: DirOption = Path("demo-output"),
    epochs: EpochsOption = 12,
    seed: SeedOption = 1,
    keep: KeepOption = False,
    accelerators: AcceleratorsOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a small model on real pictures through a lake and write a report.

    It imports picture folders, splits them, trains LeNet, saves the model into the lake, loads it
    back and validates it; then the same from plain files. Exit code 1 if it names 95 % of the
    digits or less.

    JSON keys: those of report.json, which lies beside the report; passed and verdict among them.

    \b
    lakefeed demo
    lakefeed demo --images cats_and_dogs/ --epochs 10 --keep
    """
    _require_libraries()
    from lakefeed.demo import refusing

    refusing.check(directory, images)
    # TensorFlow's C++ side reports its CPU features and missing GPUs as if they were news.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from rich.console import Console

    from lakefeed.demo.story import Options, run

    console = Console(stderr=True, highlight=False)

    def say(line: str, *, step: bool = False) -> None:
        text, style = (line, "bold") if step else (f"    {line}", None)
        console.print(text, style=style, markup=False, soft_wrap=True)

    facts = run(Options(directory, images, epochs, seed, keep, accelerators), say)
    if as_json:
        print_json(facts)
    else:
        print_line(facts["verdict"])
        print_line(f"report: {facts['report']}")
    if not facts["passed"]:
        raise typer.Exit(EXIT_BUG)


def _require_libraries() -> None:
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise Invalid(
            "demo",
            expected=", ".join(_NEEDS),
            found=f"no {', '.join(missing)}",
            hint="pip install 'lakefeed[demo,tf]'",
        )
