"""`lakefeed warm`: fill a node's cache before training starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
    import numpy as np
    from numpy.typing import NDArray
    from pyarrow import Array

    from lakefeed.feed.feed import Cache, Feed
    from lakefeed.feed.selection import Selection
    from lakefeed.feed.stats import FeedStats
    from lakefeed.feed.table import Rows
    from lakefeed.lake.snapshot import Snapshot

# Read ahead at most, unless one file is bigger.
_MEMORY_BYTES = 1 << 30
# A batch costs up to 3 ms whatever is in it, a small file in a full one 0.06 ms: one big file must
# not make small ones come alone. Four batches fit, of those up to this size as of the bigger ones.
_BATCH_SIZE = 256
_SMALL_BYTES = _MEMORY_BYTES // 4 // _BATCH_SIZE
# Sizes looked at together.
_ROWS = 1 << 16

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
        metering("warming", total_files=len(wanted.selection), quiet=quiet or as_json) as meter,
        ExitStack() as feeds,
    ):
        parts = [feeds.enter_context(part) for part in parts_of(snapshot, wanted.selection, blocks)]
        _read(parts, meter, blocks, cache_bytes * 7 // 8)
        facts = _facts([part.stats() for part in parts], meter, len(wanted.selection), cache)
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


@dataclass(frozen=True, slots=True)
class _Part:
    """Of a selection the files at some places, which ascend; or all but those."""

    whole: Selection
    places: NDArray[np.int64]
    is_rest: bool
    class_names: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """That of the whole: no state is taken of a part."""
        return self.whole.digest

    def __len__(self) -> int:
        return len(self.whole) - len(self.places) if self.is_rest else len(self.places)

    def _of_whole(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        import numpy as np

        if not self.is_rest:
            return self.places[numbers]
        # How many of the rest lie before each place: so many places are skipped behind them.
        before = self.places - np.arange(len(self.places))
        return numbers + np.searchsorted(before, numbers, "right")

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """Return where the payloads of some samples are."""
        return self.whole.rows(self._of_whole(numbers))

    def labels(self, numbers: NDArray[np.int64]) -> None:
        """Nobody wants any."""

    def paths(self, numbers: NDArray[np.int64]) -> Array:
        """Return the paths of some samples, in the order asked."""
        return self.whole.paths(self._of_whole(numbers))

    def content(self) -> str:
        """That of the whole, as its digest."""
        return self.whole.content()

    def through(self, snapshot: Snapshot) -> _Part:
        """Return the same samples, looked up through another opening of their snapshot."""
        return replace(self, whole=self.whole.through(snapshot))


def parts_of(snapshot: Snapshot, selection: Selection, cache: Cache) -> Iterator[Feed]:
    """Yield feeds of the small files and of the big ones, whose batches memory holds."""
    import numpy as np

    from lakefeed.feed.feed import Feed, FeedOptions

    big, biggest = [np.empty(0, np.int64)], 0
    for low in range(0, len(selection), _ROWS):
        sizes = selection.rows(np.arange(low, min(low + _ROWS, len(selection)))).size
        big.append(low + np.flatnonzero(sizes > _SMALL_BYTES))
        biggest = max(biggest, int(sizes.max()))
    places = np.concatenate(big)
    fitting = max(1, _MEMORY_BYTES // 4 // max(1, biggest))
    memory_bytes = max(_MEMORY_BYTES, 2 * biggest)  # compressed ones are there twice
    for is_rest, batch_size in ((True, _BATCH_SIZE), (False, fitting)):
        part = _Part(selection, places, is_rest)
        options = FeedOptions(batch_size, None, memory_bytes=memory_bytes, cache=cache)
        if len(part):
            yield Feed(snapshot, part, options)


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


def _read(parts: Sequence[Feed], meter: Meter, cache: Cache, bytes_max: int) -> None:
    missed = read_bytes = 0  # by the parts before
    for part in parts:
        for batch in part:
            meter.add(len(batch), batch.data.nbytes)
            now = part.stats()
            # Whole blocks come for the first of their files, and compressed files take less than
            # they have; what was there already shows in the reads alone. That is too much where
            # reads side by side want one block, so the cache has to be full as well; it may be so
            # of other files.
            fetched_bytes = (missed + now.cache_misses) * cache.block_bytes
            wanted_bytes = max(fetched_bytes, read_bytes + now.read_bytes)
            if min(wanted_bytes, now.cache_filled_bytes) >= bytes_max:
                return
        end = part.stats()
        missed, read_bytes = missed + end.cache_misses, read_bytes + end.read_bytes


def _facts(
    stats: Sequence[FeedStats], meter: Meter, wanted_files: int, cache: str
) -> dict[str, Any]:
    return {
        "files": meter.files,
        "bytes": meter.bytes,
        "files_left": wanted_files - meter.files,
        "blocks_found": sum(each.cache_hits for each in stats),
        "blocks_fetched": sum(each.cache_misses for each in stats),
        "blocks_refused": sum(each.cache_refused for each in stats),
        "cache": cache,
    }
