"""JPEG and PNG pictures of a feed as one uint8 array a batch, decoded by threads side by side.

    options = Decode((224, 224), crop="random", flip=True)
    with Feed(lake, "train/**", FeedOptions(batch_size=256, labels="parent")) as feed:
        with decoded(feed, options) as batches:
            for pictures in batches:
                train(pictures.images, pictures.labels)

simplejpeg (libjpeg-turbo) decodes JPEG, at a half, a quarter or an eighth of its size where the
wanted part is still sharper than the result; OpenCV decodes the rest and scales. Both release the
interpreter's lock. A picture that cannot be decoded is Invalid and named: its bytes are what was
written, so reading it again would not help. Where such are to be skipped, batches get
shorter, or have a black picture in their place where the feed fills batches up. The orientation
that a camera notes is not applied, as TensorFlow's decoder does not; that of a TIFF is, as OpenCV
cannot be told to leave it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from lakefeed.adapters.decode.geometry import DRAWS, Decode, Part, choose, draws
from lakefeed.adapters.decode.ordered import Given, Ordered, Samples, width
from lakefeed.errors import Invalid
from lakefeed.feed.batch import Names
from lakefeed.feed.feed import Feed
from lakefeed.feed.labels import NO_LABEL
from lakefeed.given import check

Image = NDArray[np.uint8]

_JPEG = b"\xff\xd8\xff"
_HINT = 'look at it with "lakefeed cat"; Decode(on_corrupt="skip") leaves such files out'


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """A decoded batch: uint8 [samples, height, width, 3]; an empty sample is black.

    `corrupt` names what was left out: what the feed skipped, and what could not be decoded.
    """

    images: Image
    labels: NDArray[np.int32] | None
    names: Names | Given
    corrupt: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def paths(self) -> list[str]:
        """The samples' paths, looked up on first use: ask while the feed is open."""
        return self.names.list


def decoded(
    feed: Feed, options: Decode, *, threads: int | None = None, ahead: int = 2
) -> Ordered[Pictures]:
    """Return a feed's batches as pictures, `ahead` of them in the works at a time.

    A batch is shared among the threads (None: one for each processor), so that few batches are in
    memory at once. Close the result before the feed.
    """
    check("feed", feed, Feed)
    check("options", options, Decode)
    count = width(threads)
    executor = ThreadPoolExecutor(count, "lakefeed-decode")

    def begin(samples: Samples) -> Callable[[], Pictures]:
        images = np.empty((len(samples), *options.size, 3), np.uint8)
        bounds = np.linspace(0, len(samples), min(count, len(samples)) + 1).astype(int).tolist()
        shares: list[Future[list[int]]] = [
            executor.submit(_decode_some, samples, options, images, range(low, high))
            for low, high in itertools.pairwise(bounds)
        ]

        def wait() -> Pictures:
            failed = [at for share in shares for at in share.result()]
            return _without(failed, samples, images)

        return wait

    return Ordered(feed, executor, begin, ahead)


def _without(failed: list[int], samples: Samples, images: Image) -> Pictures:
    """Return the batch without what could not be decoded."""
    labels, names = samples.labels, samples.names
    if not failed:
        return Pictures(images, labels, names, samples.corrupt)
    paths = np.array(samples.paths, object)
    corrupt = (*samples.corrupt, *paths[failed])
    if samples.fixed:
        images[failed], paths[failed] = 0, ""
        if labels is not None:
            labels = labels.copy()
            labels[failed] = NO_LABEL
    else:
        images, paths = np.delete(images, failed, 0), np.delete(paths, failed)
        labels = None if labels is None else np.delete(labels, failed)
    return Pictures(images, labels, Given(paths.tolist()), corrupt)


def _decode_some(samples: Samples, options: Decode, images: Image, which: range) -> list[int]:
    """Decode some samples into their places; return those that could not be, in order."""
    failed = []
    seed = samples.seed if options.seed is None else options.seed
    drawn = draws(seed, samples.epoch, samples.positions[which.start : which.stop])
    assert drawn.shape[1] == DRAWS
    for at, numbers in zip(which, drawn, strict=True):
        if samples.blank[at]:
            images[at] = 0
            continue
        try:
            decode_one(samples.views[at], options, numbers, images[at])
        except (ValueError, cv2.error) as error:
            if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
                raise MemoryError(f"{samples.paths[at]!r}: {error}") from error
            if options.on_corrupt == "skip":
                failed.append(at)
                continue
            raise Invalid(
                repr(samples.paths[at]),
                expected="a JPEG, PNG or other picture that OpenCV reads",
                found=f"{len(samples.views[at])} bytes ({error})",
                hint=_HINT,
            ) from error
    return failed


def decode_one(
    data: memoryview | bytes, options: Decode, numbers: NDArray[np.float64], target: Image
) -> None:
    """Decode one picture into its place; `numbers` are the sample's draws."""
    if bytes(data[:3]) == _JPEG:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        part = choose(options, height, width, numbers)
        # The smallest size at which the part still has as many pixels as are wanted.
        image = simplejpeg.decode_jpeg(
            data,
            colorspace="RGB",
            min_height=min(height, math.ceil(height * options.size[0] / part.height)),
            min_width=min(width, math.ceil(width * options.size[1] / part.width)),
        )
        part = _scaled(part, image.shape[0] / height, image.shape[1] / width, image)
    else:
        image = _decode_other(data)
        part = choose(options, image.shape[0], image.shape[1], numbers)
    cut = image[part.top : part.top + part.height, part.left : part.left + part.width]
    # Bilinear scaling looks at two by two pixels: below a half it would leave pixels out. Averaging
    # does not, but costs 0.7 ms more for a picture of 500 x 375.
    shrinks = part.height >= 2 * options.size[0] or part.width >= 2 * options.size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(cut, options.size[::-1], interpolation=method)
    target[:] = resized[:, ::-1] if part.mirrored else resized


def _decode_other(data: memoryview | bytes) -> Image:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    raw = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(raw, flags) if len(raw) else None
    if image is None:
        raise ValueError("not a picture")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _scaled(part: Part, down: float, across: float, image: Image) -> Part:
    """Return a part in the pixels of a picture that was decoded smaller."""
    height, width = image.shape[:2]
    top = min(height - 1, round(part.top * down))
    left = min(width - 1, round(part.left * across))
    return Part(
        top,
        left,
        min(height - top, max(1, round(part.height * down))),
        min(width - left, max(1, round(part.width * across))),
        part.mirrored,
    )
