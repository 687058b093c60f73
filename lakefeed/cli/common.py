"""The frame of the command line: how commands plug in, how they fail, what they share.

A module of commands has one public name that `contents.py` asks for, and nothing heavy at its top
(pyarrow, rich and the lake itself are imported inside the functions that need them):

    commands = typer.Typer()

    @commands.command("put", epilog=exit_codes(3, 6))
    def put(lake: LakeArgument, path: PathArgument, as_json: JsonOption = False) -> None:
        '''Store a file under PATH.

        JSON keys: snapshot, path, size.

        \\b
        lakefeed put /mnt/lake cat.jpg train/cat/1.jpg
        '''

The first sentence of a docstring is the help, the `\\b` block its example, `exit_codes` the epilog;
"JSON keys:" names what `--json` prints, so that people can rely on it.
Add command and module to `SECTIONS` in `contents.py`, run `make docs`, and the command is there.

A command parses, calls and prints. It raises LakefeedError and leaves the reporting to `Wall`,
which turns every failure into one line on stderr and the exit code of its kind. Work where some
files failed and the rest was done ends with `raise typer.Exit(EXIT_BUG)` after saying which ones.
Facts go to stdout (`output`), progress and complaints to stderr; sizes and times as people write
them are in `units`. Only this package reads the environment.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from lakefeed.cli.output import shown_lines
from lakefeed.cli.units import parse_time
from lakefeed.errors import (
    EXIT_BUG,
    EXIT_CONFLICT,
    EXIT_CORRUPT,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_USAGE,
    EXIT_VOLUME,
    Conflict,
    Corrupt,
    Invalid,
    LakefeedError,
    NotFound,
    VolumeFailed,
    from_local_error,
)
from lakefeed.service.logs import TextFormatter, log_to_stderr

if TYPE_CHECKING:
    from lakefeed.lake.federation import Federation
    from lakefeed.lake.lake import Lake
    from lakefeed.lake.snapshot import Snapshot
    from lakefeed.lake.view import View
    from lakefeed.volume.base import Volume

# An NFS server that restarts lets its clients wait for its grace period, 90 s unless configured
# otherwise; one that is silent several times as long is gone.
TIMEOUT_SECONDS = 600.0

# What a shell reports of a process that a signal ended: 128 and the signal's number.
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
EXIT_TERMINATED = 143

# More names than this nobody reads in a shell, and longer than this nobody waits for them.
COMPLETIONS_MAX = 1000
COMPLETION_SECONDS = 2.0

EXIT_MEANINGS = {
    EXIT_OK: "done",
    EXIT_BUG: "some files failed or a bug",
    EXIT_USAGE: "usage",
    EXIT_NOT_FOUND: "not found",
    EXIT_CONFLICT: "conflict",
    EXIT_CORRUPT: "corrupt",
    EXIT_VOLUME: "volume failed",
}

# The extras of pyproject.toml that bring a module; the first one where the command has none of its
# own among them.
_EXTRAS = {
    "PIL": ("bench", "demo"),
    "aiofiles": ("service",),
    "aiohttp": ("service",),
    "duckdb": ("sql",),
    "matplotlib": ("bench", "demo"),
    "plotext": ("bench",),
    "prometheus_client": ("bench", "fuse", "service"),
    "pyfuse3": ("fuse",),
    "pynvml": ("bench",),
    "sklearn": ("demo",),
    "tensorflow": ("tf",),
    "torch": ("torch",),
    "trio": ("fuse",),
}
_EXTRA_OF_COMMAND = {"compactd": "service", "demo": "demo", "mount": "fuse"}

# What to do next, where the error itself does not know better.
_NEXT_STEPS: dict[type[LakefeedError], str] = {
    NotFound: 'check the name; "lakefeed ls" lists what is there',
    Conflict: "somebody else was first; look again, then repeat",
    Corrupt: 'see what else is damaged with "lakefeed fsck --deep"',
    VolumeFailed: "check that the volume is mounted and answers, then repeat",
    Invalid: "see --help",
}


def complete_path(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the paths in the lake on the command line that a shell may complete to."""
    lake = ctx.params.get("lake")
    directory = incomplete.rpartition("/")[0]
    if not lake:
        return []
    settings.set(Settings(timeout_seconds=COMPLETION_SECONDS))
    try:
        with open_view(lake, ctx.params.get("at")) as snapshot:
            rows = snapshot.children(directory)
    except (LakefeedError, OSError):
        # Nobody can read a message while pressing a key; the command itself will tell.
        return []
    names = (row.path + ("/" if row.kind.name == "DIR" else "") for row in rows)
    # The shells take a name a line, and show it: a line break or an escape would do more than that.
    fitting = (name for name in names if name.startswith(incomplete) and name.isprintable())
    return [*islice(fitting, COMPLETIONS_MAX)]


LakeArgument = Annotated[
    str, typer.Argument(metavar="LAKE", help="Directory of the lake.", show_default=False)
]
ViewArgument = Annotated[
    str,
    typer.Argument(
        metavar="LAKE", help="Directory of the lake, or a federation file.", show_default=False
    ),
]
PathArgument = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="Path in the lake.",
        show_default=False,
        autocompletion=complete_path,
    ),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="SNAPSHOT",
        help="Look at a snapshot: a number, a tag, a time (2026-01-31T12:00), or '2h ago'.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the facts as JSON; listings one object per line.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done and change nothing.")
]
MessageOption = Annotated[
    str | None,
    typer.Option("--message", "-m", metavar="TEXT", help="Recorded with the commit; see log."),
]
LongOption = Annotated[
    bool, typer.Option("--long", "-l", help="Show mode, size in bytes and time as well.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def exit_codes(*codes: int) -> str:
    """Return the help line on exit codes; done, bug, usage and volume are always among them."""
    shown = sorted({EXIT_OK, EXIT_BUG, EXIT_USAGE, EXIT_VOLUME, *codes})
    return "exit codes: " + ", ".join(f"{code} {EXIT_MEANINGS[code]}" for code in shown)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options before the command say."""

    debug: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS


# Set by the root command, read by whatever it runs.
settings: ContextVar[Settings] = ContextVar("settings", default=Settings())  # noqa: B039


# -- failing ---------------------------------------------------------------------------------------


class Wall(typer.core.TyperGroup):
    """The root command: what its commands raise ends here as one line and an exit code."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Parse what comes before the command; `--help` and `--version` print here."""
        with _walled():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _walled(ctx):
            return super().invoke(ctx)


@contextmanager
def _walled(ctx: Any = None) -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        raise typer.Exit(EXIT_PIPE_CLOSED) from None
    except KeyboardInterrupt:
        raise typer.Exit(report_interrupt()) from None
    except LakefeedError as error:
        raise typer.Exit(report(error)) from error
    except ModuleNotFoundError as error:
        missing = _not_installed(error, ctx and ctx.invoked_subcommand)
        if missing is None:
            raise
        raise typer.Exit(report(missing)) from error
    except OSError as error:
        # A file or a stream of this machine, not of the lake: the world's fault all the same.
        if error.filename is None:
            drop_stdout()
        where = os.fsdecode(error.filename) if error.filename else "stdin or stdout"
        failure = from_local_error(error, f"{where} on this machine")
        raise typer.Exit(report(failure)) from error


def _not_installed(error: ModuleNotFoundError, command: str | None) -> Invalid | None:
    module = error.name or ""  # a part of a library that is there would be a bug
    extras = _EXTRAS.get(module)
    if extras is None:
        return None
    own = _EXTRA_OF_COMMAND.get(command or "")
    extra = own if own in extras else extras[0]
    hint = f'pip install "lakefeed[{extra}]"'
    return Invalid(f"lakefeed {command}", expected=f"the library {module}", found="none", hint=hint)


def report(error: LakefeedError) -> int:
    """Say on stderr what went wrong and what to do next; return the exit code."""
    if debugging():
        traceback.print_exception(error)
    complain(f"error: {describe(error)}")
    return error.exit_code


def describe(error: LakefeedError) -> str:
    """Return one line: the kind, the object, expected, found, and the next step."""
    kind = re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
    hint = next((step for home, step in _NEXT_STEPS.items() if isinstance(error, home)), None)
    text = error.text if error.hint or hint is None else f"{error.text}; {hint}"
    return f"{kind}: " + " ".join(text.splitlines())


def report_interrupt() -> int:
    """Say that Ctrl-C was heard; return the exit code."""
    complain("interrupted")
    return EXIT_INTERRUPTED


def report_bug(error: BaseException) -> int:
    """Say that this should not have happened; the traceback only for those who asked."""
    if debugging():
        traceback.print_exception(error)
    complain(f"error: {type(error).__name__}: {error}")
    complain("This is a bug in lakefeed; LAKEFEED_DEBUG=1 shows where. Please report it.")
    return EXIT_BUG


def complain(line: str) -> None:
    """Print one line on stderr."""
    print(shown_lines(line, sys.stderr), file=sys.stderr, flush=True)


def debugging() -> bool:
    """Tell whether `--debug` or LAKEFEED_DEBUG asked for tracebacks."""
    return settings.get().debug


def start_logging() -> None:
    """Send the library's warnings to stderr in the shape of our own complaints."""
    for one in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(one, logging.getLevelName(one).lower())
    level = logging.DEBUG if debugging() else logging.WARNING
    log_to_stderr(TextFormatter("%(levelname)s: %(message)s"), level)


def drop_stdout() -> None:
    """Point a stdout that failed to nowhere: flushing it again at exit would fail again."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)


# -- lakes and snapshots ---------------------------------------------------------------------------


def volume_at(where: str) -> Volume:
    """Return a directory as a volume whose every call answers within `--timeout`, or fails."""
    from lakefeed.volume.deadline import posix_volume

    return posix_volume(where, settings.get().timeout_seconds)


def is_file(where: str) -> bool:
    """Tell whether a file is there, in the time that any call to a volume has."""
    from lakefeed.volume.deadline import DeadlineVolume

    volume, look = volume_at(where), partial(os.path.isfile, where)
    return volume.run("look", "", look) if isinstance(volume, DeadlineVolume) else look()


@contextmanager
def open_lake(where: str) -> Iterator[Lake]:
    """Open a lake for one command."""
    from lakefeed.format.bridge import spare_pandas
    from lakefeed.lake.lake import Lake

    spare_pandas()
    with Lake.open(volume_at(where)) as lake:
        yield lake


@contextmanager
def open_federation(where: str) -> Iterator[Federation]:
    """Open a federation file for one command."""
    from lakefeed.format.bridge import spare_pandas
    from lakefeed.lake.federation import Federation

    spare_pandas()
    with Federation.open(where, volume_at=volume_at) as federation:
        yield federation


@contextmanager
def open_snapshot(where: str, at: str | None) -> Iterator[Snapshot]:
    """Open what `--at` names in a lake, the newest snapshot by default."""
    with open_lake(where) as lake:
        yield snapshot_of(lake, at)


@contextmanager
def open_view(where: str, at: str | None) -> Iterator[View]:
    """Open what `--at` names in a lake or, where that is a file, in a federation."""
    if not is_file(where):
        with open_snapshot(where, at) as snapshot:
            yield snapshot
        return
    with open_federation(where) as federation:
        time_ns = None if at is None else parse_time(at)
        yield federation.snapshot(at if time_ns is None else None, time_ns=time_ns)


def number_of(view: View) -> int | None:
    """Return a snapshot's number, None for a federation: each of its lakes has its own."""
    from lakefeed.lake.snapshot import Snapshot

    return view.number if isinstance(view, Snapshot) else None


def snapshot_of(lake: Lake, at: str | None) -> Snapshot:
    """Return the snapshot that a number, a tag, a time or '2h ago' names; a tag comes first.

    Commits carry the file server's time, so that is what "ago" counts from.
    """
    if at is None or at.isdecimal():
        return lake.snapshot(at)
    time_ns = parse_time(at, lake.refs.about_now_ns)
    if time_ns is None or at in lake.refs.names():
        return lake.snapshot(at)
    return lake.snapshot(time_ns=time_ns)
