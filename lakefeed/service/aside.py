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
from lakefeed.service.taking import directory_of, opened
from lakefeed.service.waiting import Bad

REJECTED = ".rejected"


def move_aside(root: str, bad: Bad, now_ns: int) -> str | None:
    """Move one name to `.rejected/` and report it; return its new place, None if it is gone.

    After an OSError it is where it was.
    """
    id_ = layout.new_id()
    place = f"{REJECTED}/{id_}"
    name = bad.path.rpartition("/")[2]
    os.makedirs(os.path.join(root, place))
    report = {
        "path": os.fsencode(bad.path).decode(errors="backslashreplace"),
        "moved_to": os.fsencode(f"{place}/{name}").decode(errors="backslashreplace"),
        "reason": bad.reason,
        "time_ns": now_ns,
    }
    path = os.path.join(root, f"{place}.json")
    try:
        with open(f"{path}.tmp", "x", encoding="utf-8") as file:
            json.dump(report, file)
        os.replace(f"{path}.tmp", path)
        with opened(root) as root_fd, directory_of(root_fd, bad.path) as fd:
            os.rename(name, f"{place}/{name}", src_dir_fd=fd, dst_dir_fd=root_fd)
    except OSError as error:
        for made in (path, f"{path}.tmp"):
            with suppress(FileNotFoundError):
                os.unlink(made)
        os.rmdir(os.path.join(root, place))
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return None
        raise
    return f"{place}/{name}"
