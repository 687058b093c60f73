"""What an inbox cannot take in, moved out of the way with a report beside it.

    .rejected/<id>/<name>     the file, link or device as it was found
    .rejected/<id>.json       which path it had, why, and when (the file server's time)

Each report is a file of its own: appending to one from several machines would tear it on NFS.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress

from lakefeed.lake import layout
from lakefeed.service.taking import directory_of, made_directory, opened
from lakefeed.service.waiting import Bad

REJECTED = ".rejected"


def move_aside(root: str, bad: Bad, now_ns: int) -> str | None:
    """Move one name to `.rejected/` and report it; return its new place, None if it is gone.

    After an OSError it is where it was.
    """
    id_ = layout.new_id()
    place = f"{REJECTED}/{id_}"
    name = bad.path.rpartition("/")[2]
    report = {
        "path": os.fsencode(bad.path).decode(errors="backslashreplace"),
        "moved_to": os.fsencode(f"{place}/{name}").decode(errors="backslashreplace"),
        "reason": bad.reason,
        "time_ns": now_ns,
    }
    with (
        opened(root) as root_fd,
        made_directory(root_fd, place) as place_fd,
        directory_of(root_fd, place) as rejected_fd,
    ):
        try:
            _write(rejected_fd, f"{id_}.json", report)
            with directory_of(root_fd, bad.path) as fd:
                os.rename(name, name, src_dir_fd=fd, dst_dir_fd=place_fd)
        except OSError as error:
            for made in (f"{id_}.json", f"{id_}.json.tmp"):
                with suppress(FileNotFoundError):
                    os.unlink(made, dir_fd=rejected_fd)
            os.rmdir(id_, dir_fd=rejected_fd)
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                return None
            raise
    return f"{place}/{name}"


def _write(directory_fd: int, name: str, report: dict[str, object]) -> None:
    tmp = f"{name}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(tmp, flags, 0o666, dir_fd=directory_fd)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(report, file)
    os.replace(tmp, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
