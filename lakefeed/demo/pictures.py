"""Pictures in class folders: where they come from, and which are held out.

Without a tree of the user's own, scikit-learn's 1,797 handwritten digits (8x8 grey levels, scanned
from forms) become PNG files in ten folders. The split is a function of a picture's name, so it is
the same on every machine and whatever else is in the tree.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from lakefeed.format.checksum import crc32c

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
HELD_OUT_OF = 5  # one picture in five is kept for validation


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the tree: its path there, its class, and where it goes in the lake."""

    path: str
    class_name: str
    target: str


def write_digits(directory: Path) -> int:
    """Write the digits as PNG files into one folder for each class; return how many."""
    from sklearn.datasets import load_digits  # a second, which who brings pictures need not wait

    bunch = load_digits()
    for number, (pixels, digit) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        folder = directory / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        # 16 levels are spread over the 256 of a grey PNG; nothing else is changed.
        image = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
        image.save(folder / f"{number:04d}.png")
    return len(bunch.images)


def arrange(paths: Iterable[str]) -> list[Picture]:
    """Return the pictures among paths like `class/…/name.png`, each assigned to train/ or val/."""
    pictures = []
    for path in paths:
        parts = PurePosixPath(path).parts
        if len(parts) > 1 and PurePosixPath(path).suffix.lower() in SUFFIXES:
            part = "val" if crc32c(path.encode()) % HELD_OUT_OF == 0 else "train"
            # Classes are flat in the lake, and no two pictures of a tree may meet there.
            name = "/".join(parts[1:]).replace("%", "%25").replace("/", "%2F")
            target = f"{part}/{parts[0]}/{name}"
            pictures.append(Picture(path, parts[0], target))
    return pictures


def thumbnail(data: bytes, side: int) -> bytes:
    """Return a PNG of at most `side` pixels; smaller pictures keep every pixel."""
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("L" if image.mode in ("1", "L") else "RGB")
        small.thumbnail((side, side))
        out = io.BytesIO()
        small.save(out, "PNG", optimize=True)
        return out.getvalue()
