"""From a sample's bytes to pixels, the preparation of a real training.

PNG and JPEG samples are decoded and resized by Pillow, which lets other threads run meanwhile.
Samples of any other kind become pixels as they are: their bytes, repeated or cut, so that a lake of
made samples can be trained on as well.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lakefeed.errors import Corrupt

Bytes = bytes | memoryview
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff")


def pictures(samples: Sequence[Bytes], side: int) -> NDArray[np.float32]:
    """Return an array of samples x side x side x 3, from 0 to 1; Corrupt for a damaged picture."""
    pixels = np.stack([_one(sample, side) for sample in samples])
    return pixels.astype(np.float32) / np.float32(255)


def _one(sample: Bytes, side: int) -> NDArray[np.uint8]:
    if bytes(sample[:4]).startswith(_PICTURES):
        try:
            with Image.open(io.BytesIO(sample)) as image:
                # JPEG can be decoded at a fraction of its size: only as many pixels as are wanted.
                image.draft("RGB", (side, side))
                return np.asarray(image.convert("RGB").resize((side, side)), np.uint8)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's, of damaged pictures
            found = str(error).partition(" <")[0]
            hint = "leave it out with --select"
            raise Corrupt("a picture", expected="a whole one", found=found, hint=hint) from error
    size = side * side * 3
    raw = np.frombuffer(sample, np.uint8)
    return np.resize(raw if len(raw) else np.zeros(1, np.uint8), size).reshape(side, side, 3)
