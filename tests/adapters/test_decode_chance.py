"""What is random about a picture follows from the seed, the epoch and its position alone."""

from __future__ import annotations

import numpy as np
import pytest

from lakefeed.adapters.decode import Decode, decoded
from lakefeed.adapters.decode.geometry import draws
from lakefeed.adapters.decode.pictures import decode_one
from lakefeed.feed.feed import Feed, FeedOptions
from tests.adapters.test_decode import FILES
from tests.feed.lakes import lake_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("own", "expected"), [(None, 5), (9, 9)])
def test_a_picture_is_cut_by_the_numbers_of_its_place(own: int | None, expected: int) -> None:
    """A state that was saved goes on with the parts it had, in every version."""
    options = Decode((16, 24), crop="random", flip=True, seed=own)
    with (
        lake_of(FILES) as lake,
        Feed(lake, "", FeedOptions(7, seed=5, epochs=2)) as feed,
        decoded(feed, options, threads=3) as batches,
    ):
        seen = [each for batch in batches for each in zip(batch.paths, batch.images, strict=True)]
    assert len(seen) == 2 * len(FILES)
    wanted = np.empty((16, 24, 3), np.uint8)
    for at, (path, image) in enumerate(seen):
        epoch, position = divmod(at, len(FILES))
        decode_one(FILES[path], options, draws(expected, epoch, np.array([position]))[0], wanted)
        assert np.array_equal(image, wanted), (path, epoch, position)
