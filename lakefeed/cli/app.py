"""The root of the command tree: global options, and how the process is set up for any command.

The commands are in the modules that `contents` names. Starting must stay quick: only the module of
the command that runs is imported, and it imports nothing heavy at its top.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TextIO

import typer
from typer._completion_classes import completion_init

import lakefeed
from lakefeed import __version__
from lakefeed.cli import common, contents, stopping
from lakefeed.cli.sparing import spare_pydantic
from lakefeed.cli.units import duration_option

# No markup: help is plain text, quick to print, the same on a terminal and in docs/CLI.md.
app = typer.Typer(
    name="lakefeed",
    cls=contents.Root,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 some files failed or a bug, 2 usage, 3 not found, 4 conflict, "
    "5 corrupt, 6 volume failed, 130 interrupted.",
)
# Without this Typer answers no shell, because the application leaves out its own two options.
completion_init()
spare_pydantic()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lakefeed {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="LAKEFEED_DEBUG", help="Show tracebacks and the log."),
    ] = False,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            envvar="LAKEFEED_TIMEOUT",
            help="Fail when the volume leaves a call unanswered for so long; 0s waits for ever.",
        ),
    ] = "10m",
) -> None:
    """A data lake for billions of small files on any mounted volume, and its GPU feed.

    \b
    lakefeed create /mnt/lake
    lakefeed import photos/ /mnt/lake --prefix train
    lakefeed ls -l /mnt/lake train
    """
    common.settings.set(common.Settings(debug, duration_option(timeout)))
    common.start_logging()


def main() -> None:
    """Run the command line; ends the process with the exit code of what happened."""
    _take_names_as_utf8()
    stopping.hear_signals()
    # numpy's linear algebra, which we never use, starts threads that spin for 0.1 s (here and in
    # workers, which inherit this).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.stdout, sys.stderr = _open_stdout(), _open_stderr()
    try:
        app(prog_name="lakefeed")
    except KeyboardInterrupt:  # while the commands are put together, before `Wall` is there
        sys.exit(common.report_interrupt())
    except Exception as error:  # noqa: BLE001 - the last wall: whatever is left is a bug
        sys.exit(common.report_bug(error))


def _take_names_as_utf8() -> None:
    """Start this command once more in Python's UTF-8 mode where the locale says otherwise.

    A locale of ISO-8859-1 would make two other letters of each that is not ASCII in the names of
    files and in arguments; the lake would hold, and look for, names that nobody gave.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8":
        return
    # Processes that this one starts are to agree with it.
    os.environ["PYTHONUTF8"] = "1"
    command = str(Path(lakefeed.__file__).with_name("__main__.py"))
    os.execv(sys.executable, [sys.executable, "-X", "utf8", command, *sys.argv[1:]])


def _open_stdout() -> TextIO:
    """Return stdout for paths and bytes: UTF-8, as paths in a lake are, whatever the locale says.

    It is buffered even under PYTHONUNBUFFERED, where Python takes half a write for a whole one. A
    name of this machine that is no UTF-8 is escaped.
    """
    if sys.stdout is None:  # closed by whoever started us
        return open(os.devnull, "w", encoding="utf-8")
    return open(
        sys.stdout.fileno(), "w", encoding="utf-8", errors="backslashreplace", closefd=False
    )


class _Complaints(io.TextIOWrapper):
    """A stderr that is full, or whose reader is gone, loses what is said; the exit code tells."""

    def write(self, text: str) -> int:
        """Say something, if somebody takes it."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Say all that was said, if somebody takes it."""
        with suppress(OSError):
            super().flush()


def _open_stderr() -> TextIO:
    """Return stderr for everything that is said there: complaints, usage, progress, tracebacks."""
    if sys.stderr is None:
        return open(os.devnull, "w", encoding="utf-8")
    buffer = io.BufferedWriter(io.FileIO(sys.stderr.fileno(), "w", closefd=False))
    return _Complaints(
        buffer, encoding=sys.stderr.encoding, errors="backslashreplace", line_buffering=True
    )
