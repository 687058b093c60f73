"""Which part of a picture is wanted, and whether it is mirrored: pure, and seeded by position.

Randomness is a function of (seed, epoch, position in the epoch, number of the draw), as the order
of samples is. So a sample is cropped the same way whatever the batch size, the number of ranks and
threads, and wherever training was interrupted before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.feed.options import OnCorrupt
from lakefeed.given import check, check_fields

CROPS = (None, "center", "random")
DRAWS = 5  # area, ratio, top, left, mirror

# splitmix64 (Steele, Lea, Flood 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class Decode:
    """What becomes of a picture: uint8 [height, width, 3], red first.

    `crop` None stretches the whole picture to `size`; "center" takes the largest part of the
    wanted proportions; "random" takes a part of `area` times the picture, of proportions `ratio`
    (width by height), wherever it lies. `flip` mirrors half of the pictures. `seed` None is the
    feed's. `on_corrupt` "raise" ends the iteration at what cannot be decoded, "skip" leaves it out
    and names it.
    """

    size: tuple[int, int]
    crop: str | None = None
    flip: bool = False
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    seed: int | None = None
    on_corrupt: OnCorrupt = "raise"

    def __post_init__(self) -> None:
        check("size", self.size, tuple[int, int], "(height, width), from 1")
        check_fields(self)
        if min(self.size) < 1:
            raise Invalid("size", expected="(height, width), from 1", found=self.size)
        if self.crop not in CROPS:
            raise Invalid("crop", expected='None, "center" or "random"', found=repr(self.crop))
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise Invalid("area", expected="a range above 0, up to 1", found=self.area)
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise Invalid("ratio", expected="a range above 0", found=self.ratio)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a picture of `height` by `width`, in its own pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def draws(seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) for each position: a row of `DRAWS`."""
    key = _mix(_mix(np.array([seed], np.uint64)) ^ np.uint64(epoch))
    words = (
        _mix(key ^ _mix(positions.astype(np.uint64)))[:, None]
        + np.arange(1, DRAWS + 1, dtype=np.uint64) * _GOLDEN
    )
    # 53 bits are what a double holds.
    return (_mix(words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(options: Decode, height: int, width: int, drawn: NDArray[np.float64]) -> Part:
    """Return the part of a picture that a sample's numbers choose."""
    mirrored = bool(options.flip and drawn[4] < 0.5)
    if options.crop is None:
        return Part(0, 0, height, width, mirrored)
    if options.crop == "center":
        ratio = options.size[1] / options.size[0]
        part_height = min(height, max(1, round(width / ratio)))
        part_width = min(width, max(1, round(height * ratio)))
        top, left = (height - part_height) // 2, (width - part_width) // 2
        return Part(top, left, part_height, part_width, mirrored)
    low, high = options.area
    pixels = height * width * (low + (high - low) * drawn[0])
    # Proportions are drawn by their logarithm, so that 3:4 is as likely as 4:3. What would be wider
    # or higher than the picture is cut, where torchvision draws again.
    first, last = math.log(options.ratio[0]), math.log(options.ratio[1])
    ratio = math.exp(first + (last - first) * drawn[1])
    part_height = min(height, max(1, round(math.sqrt(pixels / ratio))))
    part_width = min(width, max(1, round(math.sqrt(pixels * ratio))))
    top = int(drawn[2] * (height - part_height + 1))
    left = int(drawn[3] * (width - part_width + 1))
    return Part(top, left, part_height, part_width, mirrored)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _MULTIPLY_1
    words = (words ^ (words >> np.uint64(27))) * _MULTIPLY_2
    return words ^ (words >> np.uint64(31))
