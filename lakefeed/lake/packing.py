"""New packs on the volume: created under their final name, sealed, or discarded.

A pack becomes part of the lake only through a commit; one that never gets there is an orphan,
removed at once when its maker lives, by garbage collection otherwise. Keeps I1 and I2: the file and
its directory are synced before `new_pack` hands out the facts that a commit needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from lakefeed.errors import NotFound, VolumeFailed
from lakefeed.format.pack import PackSealed, PackWriter
from lakefeed.lake import layout
from lakefeed.lake.log import Log, look_at_log
from lakefeed.volume.base import Volume, WritableFile

_logger = logging.getLogger(__name__)


def _as_it_is(file: WritableFile) -> WritableFile:
    return file


def new_pack(
    volume: Volume,
    base: int,
    fill: Callable[[PackWriter, int], None],
    wrap: Callable[[WritableFile], WritableFile] = _as_it_is,
) -> PackSealed:
    """Write a pack with what `fill` adds, make it durable, and return its facts.

    `fill` gets the writer and the server's time. `base` is the newest commit known, kept in the
    pack for rebuilding a lake whose log was lost. `wrap` may put something of the caller's between
    pack and volume. After an exception the file is gone again. NotFound where the lake went away.
    """
    # Or its directories would be made anew, perhaps on the disk below an unmounted volume.
    look_at_log(volume)
    pack_id = layout.new_id()
    path = layout.pack_path(pack_id)
    with wrap(volume.create(path)) as file:
        try:
            writer = PackWriter(file, pack_id, base)
            fill(writer, file.stat().mtime_ns)
            sealed = writer.seal()
            file.close()
            volume.sync_directory(layout.pack_directory(pack_id))
        except BaseException:
            discard(volume, path)
            raise
    return sealed


def discard_packs(volume: Volume, log: Log, packs: Iterable[PackSealed]) -> None:
    """Remove complete packs that their maker will commit no more.

    Where the log is another by now, or cannot be asked, they stay: it may name them.
    """
    packs = [*packs]
    if packs and log.is_as_known():
        for pack in packs:
            discard(volume, layout.pack_path(pack.id))


def discard(volume: Volume, path: str) -> None:
    """Remove a file that no commit names; what cannot be removed is left to garbage collection."""
    try:
        volume.unlink(path)
    except NotFound:
        return  # never made, or removed by a call whose answer was lost
    except VolumeFailed as error:
        _logger.warning("left behind: %s", error)
