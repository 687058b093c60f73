"""What commands print: facts on stdout, progress on stderr.

`--json` prints one document (`print_json`) or, for listings, one object a line (`print_json` for
each). Keys are stable: they are the column names of the index where there is one (`size`,
`mtime_ns`), and units ride last otherwise (`read_bytes`). People get lines or a table; colours
appear only on a terminal and never with NO_COLOR. Paths go to a pipe as they are, and to a terminal
with control characters escaped, as all text does: messages and attributes come from volumes, too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from lakefeed.cli.units import human_count, human_seconds, human_size
from lakefeed.service.logs import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from lakefeed.lake.findings import Progress as Stages


# Wider than any table.
_ENDLESS = 100_000

# One encoder for all lines: `json.dumps` with options would make one for each.
encode_json = json.JSONEncoder(ensure_ascii=False).encode


def print_json(facts: Any) -> None:
    """Print one JSON value on a line of its own."""
    sys.stdout.write(encode_json(facts) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text in one piece; for thousands of them."""
    text = "\n".join(lines)
    if text:
        sys.stdout.write(text + "\n")


def print_line(text: str = "") -> None:
    """Print one line of text, unwrapped and uncoloured."""
    sys.stdout.write(shown_lines(text, sys.stdout) + "\n")


def shown(path: str) -> str:
    """Return a path as it may be printed: a terminal gets no control characters."""
    if path.isprintable() or not sys.stdout.isatty():  # asking the kernel costs most of a line
        return path
    return printable(path)


def shown_lines(text: str, stream: TextIO) -> str:
    """Return a text as it may be written to a stream, its line ends as they are."""
    if text.isprintable() or not stream.isatty():
        return text
    return "\n".join(map(printable, text.split("\n")))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], turns: bool = False
) -> None:
    """Print rows under column titles; a column of numbers (title ending in '>') aligns right.

    With `turns`, what is wider than the terminal has a line for each column instead, so that no
    figure is cut or broken: for few rows of many columns.
    """
    from rich.console import Console

    # A pipe has no width, so nothing is cut there.
    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else _ENDLESS)
    table = _table(columns, rows, terminal)
    unbounded = console.options.update(max_width=_ENDLESS)
    if turns and console.measure(table, options=unbounded).maximum > console.width:
        names = [f"{row[0]}>" for row in rows]
        lines = zip(*(row[1:] for row in rows), strict=True)
        turned = [
            (title.rstrip(">"), *line) for title, line in zip(columns[1:], lines, strict=True)
        ]
        table = _table([columns[0], *names], turned, terminal)
    if terminal:
        console.print(table)
        return
    with console.capture() as drawn:
        console.print(table)
    # Cells are filled up to their column's width, the last ones of a line in vain.
    print_lines(line.rstrip(" ") for line in drawn.get().removesuffix("\n").split("\n"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], terminal: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # In a pipe there are no rules for programs to trip over.
    shape: dict[str, Any] = {"pad_edge": False, "show_edge": False, "collapse_padding": terminal}
    table = Table(box=box.SIMPLE_HEAD if terminal else None, **shape)
    for title in columns:
        right = title.endswith(">")
        name = Text(shown(title.rstrip(">")))
        table.add_column(name, justify="right" if right else "left", no_wrap=not terminal)
    for row in rows:
        table.add_row(*(Text(shown(str(cell))) for cell in row))
    return table


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print `name  value` lines, values aligned."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        print_line(f"{name:<{width}}  {value}")


class Meter:
    """Counts files and bytes of a long command, and shows them where somebody is watching."""

    def __init__(
        self,
        progress: Progress | None = None,
        task: TaskID | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._task = task
        self._clock = clock
        self._started = clock()
        self.files = 0
        self.bytes = 0

    def add(self, files: int = 1, size_bytes: int = 0) -> None:
        """Count files and bytes that are done. Call it from one thread."""
        self.files += files
        self.bytes += size_bytes
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=self.files, size_bytes=self.bytes, rates=self.rates()
            )

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return self._clock() - self._started

    def rates(self) -> str:
        """Return '1,234 files/s  56.7 MB/s'."""
        seconds = max(self.seconds, 1e-9)
        return f"{self.files / seconds:,.0f} files/s  {self.bytes / 1e6 / seconds:,.1f} MB/s"

    def summary(self) -> str:
        """Return '1,000 files, 3.9 MiB in 0.5 s: 2,000 files/s  8.2 MB/s'."""
        amount = f"{human_count(self.files)} files, {human_size(self.bytes)}"
        return f"{amount} in {human_seconds(self.seconds)}: {self.rates()}"


@contextmanager
def metering(what: str, *, total_files: int | None = None, quiet: bool = False) -> Iterator[Meter]:
    """Count the work of a command; the bar is drawn on stderr, and only on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Meter()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} files"),
        TextColumn("{task.fields[rates]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total_files, size_bytes=0, rates="")
        yield Meter(progress, task)


@contextmanager
def stages(*, quiet: bool = False) -> Iterator[Stages]:
    """Lend a function that shows (stage, done, total) on stderr, where somebody is watching."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True, highlight=False), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield show
