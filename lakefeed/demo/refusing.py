"""What is refused before anything is done. Loads no TensorFlow: nobody waits seconds for a refusal.

What a tree holds is told by its names alone here; `story` still leaves out what is no picture.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from lakefeed.demo.pictures import SUFFIXES
from lakefeed.errors import Conflict, Invalid, from_local_error


def check(workdir: Path, images: Path | None) -> None:
    """Conflict when the directory holds an earlier run; NotFound where there is no such tree of
    pictures, and Invalid where it has not two classes."""
    for directory in (workdir / "lake", workdir / "images"):
        if directory.exists():
            raise Conflict(
                str(directory), found="an earlier run", hint="remove it or choose another --dir"
            )
    if images is not None:
        _check_classes(images)


def _check_classes(images: Path) -> None:
    try:
        with os.scandir(images) as entries:
            folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise from_local_error(error, f"source {images}") from error
    classes = sum(map(_may_hold_pictures, folders))
    if classes < 2:
        raise too_few(f"PNG or JPEG files in {'one' if classes else 'none'}")


def too_few(found: str) -> Invalid:
    """Return the error for a tree in which there are not two classes of pictures."""
    return Invalid("pictures", expected="two classes or more, in a folder each", found=found)


def _may_hold_pictures(folder: str) -> bool:
    unreadable: list[OSError] = []  # the import says which
    tree = os.walk(folder, onerror=unreadable.append)
    found = any(PurePath(name).suffix.lower() in SUFFIXES for _, _, names in tree for name in names)
    return found or bool(unreadable)
