"""`lakefeed warm`: fill a node's cache before training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    exit_codes,
    open_snapshot,
)
from lakefeed.cli.output import Meter, metering, print_json, print_line
from lakefeed.cli.units import human_count, human_size, size_option
from lakefeed.errors import EXIT_CORRUPT, EXIT_NOT_FOUND, VolumeFailed

if TYPE_CHECKING:
    from lakefeed.feed.feed import Cache, Feed, FeedOptions
    from lakefeed.feed.selection import Selection

# Read ahead at most, unless one file is bigger.
_MEMORY_BYTES = 1 << 30
_BATCH_SIZES = (256, 64, 16, 4, 1)
# Sizes looked at together: whole batches.
_ROWS = 256 * _BATCH_SIZES[0]

commands = typer.Typer()


@commands.command("warm", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def warm(
    lake: LakeArgument,
    cache: Annotated[
        str, typer.Option("--cache", metavar="DIR", help="Directory on a local disk.")
    ],
    cache_bytes: Annotated[
        int,
        typer.Option(
            "--cache-bytes", metavar="SIZE", parser=size_option, help="What it may hold at most."
        ),
    ] = "100GiB",  # type: ignore[assignment]
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="PREFIX", help="Only files below this directory.")
    ] = "",
    at: AtOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read files once, so that a node's cache holds them before training starts.

    Feeds with the same cache directory, of any process on the node, then read from the local disk.
    Every file is verified on the way. Stops where seven eighths of the cache are filled. Repeating
    it reads only what is missing. Ends with 6 if the local disk did not take all blocks.

    JSON keys: files, bytes, files_left, blocks_found (once for each read), blocks_fetched,
    blocks_refused, cache.

    \b
    lakefeed warm /mnt/lake --cache /local/nvme --cache-bytes 200GiB --prefix train
    """
    from lakefeed.feed.feed import Cache, Feed, FeedOptions

    blocks = Cache(cache, cache_bytes)
    with (
        open_snapshot(lake, at) as snapshot,
        Feed(snapshot, prefix, FeedOptions(cache=blocks)) as wanted,
        Feed(snapshot, wanted.selection, _fitting(wanted.selection, blocks)) as feed,
        metering("warming", total_files=len(feed.selection), quiet=quiet or as_json) as meter,
    ):
        _read(feed, meter, blocks, cache_bytes * 7 // 8)
        facts = _facts(feed, meter, cache)
    if as_json:
        print_json(facts)
    else:
        _tell(facts, meter, cache_bytes)
    if facts["blocks_refused"]:
        raise VolumeFailed(
            f"cache {cache}",
            expected="a disk that takes all blocks",
            found=f"{human_count(facts['blocks_refused'])} that it did not take",
            hint="look at its free space and at the directory's permissions, then repeat",
        )


def _fitting(selection: Selection, cache: Cache) -> FeedOptions:
    """Return options whose batches are in memory several at a time, however big the files are."""
    import numpy as np

    from lakefeed.feed.feed import FeedOptions

    heaviest = dict.fromkeys(_BATCH_SIZES, 0)
    for low in range(0, len(selection), _ROWS):
        sizes = selection.rows(np.arange(low, min(low + _ROWS, len(selection)))).size
        for batch_size in _BATCH_SIZES:
            batches = np.add.reduceat(sizes, np.arange(0, len(sizes), batch_size))
            heaviest[batch_size] = max(heaviest[batch_size], int(batches.max()))
    fitting = (each for each in _BATCH_SIZES if heaviest[each] <= _MEMORY_BYTES // 4)
    batch_size = next(fitting, _BATCH_SIZES[-1])
    memory_bytes = max(_MEMORY_BYTES, 2 * heaviest[batch_size])  # compressed ones are there twice
    return FeedOptions(batch_size, None, memory_bytes=memory_bytes, cache=cache)


def _tell(facts: dict[str, Any], meter: Meter, cache_bytes: int) -> None:
    print_line(meter.summary())
    print_line(
        f"{human_count(facts['blocks_fetched'])} blocks were fetched; "
        f"reads found theirs in the cache {human_count(facts['blocks_found'])} times"
    )
    if facts["files_left"]:
        print_line(
            f"{human_count(facts['files_left'])} files are left out: {human_size(cache_bytes)} are "
            "full; raise --cache-bytes or name a --prefix"
        )


def _read(feed: Feed, meter: Meter, cache: Cache, bytes_max: int) -> None:
    for batch in feed:
        meter.add(len(batch), batch.data.nbytes)
        stats = feed.stats()
        # Whole blocks come for the first of their files, and compressed files take less than they
        # have; what was there already shows in the reads alone. That is too much where reads side
        # by side want one block, so the cache has to be full as well; it may be so of other files.
        wanted_bytes = max(stats.cache_misses * cache.block_bytes, stats.read_bytes)
        if min(wanted_bytes, stats.cache_filled_bytes) >= bytes_max:
            return


def _facts(feed: Feed, meter: Meter, cache: str) -> dict[str, Any]:
    stats = feed.stats()
    return {
        "files": meter.files,
        "bytes": meter.bytes,
        "files_left": len(feed.selection) - meter.files,
        "blocks_found": stats.cache_hits,
        "blocks_fetched": stats.cache_misses,
        "blocks_refused": stats.cache_refused,
        "cache": cache,
    }
