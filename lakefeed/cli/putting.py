"""`lakefeed put`: one local file, or stdin, into the lake."""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from enum import Enum
from io import BufferedReader, BytesIO, RawIOBase
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from lakefeed.cli.common import JsonOption, LakeArgument, MessageOption, PathArgument, exit_codes
from lakefeed.cli.output import print_json, print_line, shown
from lakefeed.cli.units import human_size, time_option
from lakefeed.cli.writing import one_commit, place_at
from lakefeed.errors import EXIT_CONFLICT, EXIT_NOT_FOUND, Invalid

if TYPE_CHECKING:
    from lakefeed.format.pack import Meta

commands = typer.Typer()

# A few pipes full.
STEP_BYTES = 1 << 20


class CodecName(str, Enum):
    """How `put` may store a file."""

    NONE = "none"
    ZSTD = "zstd"


@commands.command("put", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT))
def put(
    lake: LakeArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Local file; '-' is stdin.", show_default=False)
    ],
    path: PathArgument,
    mtime: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Record this time instead of the file's own."),
    ] = None,
    codec: Annotated[
        CodecName, typer.Option(metavar="CODEC", help="none or zstd.")
    ] = CodecName.NONE,
    attr: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Record an attribute; repeatable."),
    ] = None,
    message: MessageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a local file, or stdin, under PATH; what was there is replaced.

    The command returns once the file is durable. If PATH is a directory or ends in '/', the
    file goes there under its own name.

    JSON keys: snapshot, path, size.

    \b
    lakefeed put /mnt/lake cat.jpg train/cat/1.jpg
    tar c . | lakefeed put /mnt/lake - backups/today.tar --mtime 2026-01-31
    """
    if file == "-" and path.endswith("/"):
        raise Invalid(f"{path!r}", expected="the name of a file", found="that of a directory",
                      hint="stdin has no name of its own: add one")  # fmt: skip
    meta = _meta(file, mtime, attr or [])
    with one_commit(lake, "put", message, codec.name) as change:
        writer = change.writer
        path = place_at(writer, "" if file == "-" else os.path.basename(file), path)
        writer.put_file(path, _stdin() if file == "-" else file, meta=meta)
        size = writer.stat(path).size
    if as_json:
        print_json({"snapshot": change.snapshot, "path": path, "size": size})
    else:
        print_line(f"put {shown(path)} ({human_size(size)}) in snapshot {change.snapshot}")


class _Interruptible(BytesIO):
    """A stream that is read in steps, so that Ctrl-C counts between any two of them.

    One long read of a pipe would notice a signal only if it came while nothing was there to read.
    """

    def __init__(self, stream: RawIOBase) -> None:
        super().__init__()
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        parts: list[bytes] = []
        left = sys.maxsize if size is None or size < 0 else size
        while left and (part := self._part(min(left, STEP_BYTES))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _part(self, size: int) -> bytes:
        while (part := self._stream.read(size)) is None:
            # Another program that has the same pipe made it so that reading does not wait.
            select.select([self._stream], [], [])
        return part

    def isatty(self) -> bool:
        """Tell whether a person types it."""
        return self._stream.isatty()


def _stdin() -> BinaryIO:
    if sys.stdin is None:  # closed by whoever started us
        raise Invalid("stdin", expected="something to read", found="it is closed",
                      hint="name a file, or connect a pipe")  # fmt: skip
    stream = sys.stdin.buffer
    # Only a raw stream tells "nothing yet" from the end.
    raw = stream.raw if isinstance(stream, BufferedReader) else cast(RawIOBase, stream)
    return _Interruptible(raw)


def _meta(file: str, mtime: str | None, attr: list[str]) -> Meta:
    """Return what the row shall say: the file's own mode and time unless told otherwise."""
    from lakefeed.format.pack import Meta

    attrs = dict(_pair(text) for text in attr) or None
    given_ns = None if mtime is None else time_option(mtime)
    if file == "-":
        return Meta(time.time_ns() if given_ns is None else given_ns, 0o644, attrs)
    info = os.stat(file)
    if stat.S_ISDIR(info.st_mode):
        raise Invalid(
            f"file {file}",
            expected="a file",
            found="a directory",
            hint='bring a tree with "lakefeed import"',
        )
    return Meta(info.st_mtime_ns if given_ns is None else given_ns, info.st_mode & 0o7777, attrs)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r} is no attribute; write NAME=VALUE")
    return name, value
