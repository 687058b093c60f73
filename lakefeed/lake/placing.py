"""Small files that appear whole or not at all, also when the server's answer is lost on the way.

On NFS "it exists" and "no such file" may be the answer to a call that was repeated because the
first answer was lost: the change is made, and only the caller does not know. So no answer of a
link, a rename or a removal is taken at its word here; the temporary file tells what happened. It
belongs to one caller alone: a second name means that the link was made.

Keeps I1 for new names. Commits have rules of their own (`lake.log`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from lakefeed.errors import Conflict, NotFound, VolumeFailed
from lakefeed.lake import layout
from lakefeed.volume.base import Volume, read_file, write_file

# Each round means that somebody else replaced the file, or that an answer was lost, once more.
REPLACE_TRIES_MAX = 10

_logger = logging.getLogger(__name__)


def place_new(volume: Volume, data: bytes, path: str) -> None:
    """Publish `data` under a new name; Conflict when it is taken. The parent is left to sync."""
    tmp = layout.tmp_path(layout.new_id())
    try:
        write_file(volume, tmp, data)
        try:
            volume.link(tmp, path)
        except (Conflict, VolumeFailed):
            if not _has_second_name(volume, tmp):
                raise
    finally:
        discard_tmp(volume, tmp)


def _has_second_name(volume: Volume, tmp: str) -> bool:
    # Opening asks the server, so the link count is not a remembered one.
    with volume.open(tmp) as file:
        return file.stat().links > 1


def place_over(
    volume: Volume, data: bytes, path: str, tmp_path: Callable[[str], str] = layout.tmp_path
) -> None:
    """Publish `data` under a name, replacing what is there. The parent is left to sync.

    `tmp_path` says where the temporary file of an id lies.
    """
    missing: NotFound | None = None
    for _ in range(REPLACE_TRIES_MAX):
        tmp = tmp_path(layout.new_id())
        try:
            write_file(volume, tmp, data)
            volume.replace(tmp, path)
            return
        except NotFound as error:
            # Nobody else removes our file, so it was moved; but what the name shows decides. To do
            # it again is harmless: then the one who came between us was first.
            missing = error
        except BaseException:
            discard_tmp(volume, tmp)
            raise
        if _shows(volume, path, data):
            return
    assert missing is not None
    raise missing


def move_over(volume: Volume, source: str, target: str) -> None:
    """Give a file of the caller's own another name, replacing what is there. The parents are left
    to sync."""
    with volume.open(source) as file:
        size_bytes = file.size
    try:
        volume.replace(source, target)
    except NotFound:
        volume.refresh(target.rpartition("/")[0])
        # Nobody else moves it; too big to be read, its size has to do.
        with volume.open(target) as file:
            if file.size != size_bytes:
                raise


def _shows(volume: Volume, path: str, data: bytes) -> bool:
    volume.refresh(path.rpartition("/")[0])
    try:
        return read_file(volume, path) == data
    except NotFound:
        return False


def discard_tmp(volume: Volume, tmp: str) -> None:
    """Remove a temporary file; what stays is left to garbage collection."""
    try:
        volume.unlink(tmp)
    except (NotFound, VolumeFailed) as error:
        _logger.debug("temporary file left behind or gone already: %s", error)
