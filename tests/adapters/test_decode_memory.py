"""What lacks while a picture is decoded says nothing of the picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from lakefeed.adapters.decode import Decode, decoded
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.options import OnCorrupt
from tests.feed.lakes import lake_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("choice", ["raise", "skip"])
def test_a_picture_for_which_memory_lacks_is_not_taken_for_a_damaged_one(
    choice: OnCorrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any) -> None:
        error = cv2.error("(-4:Insufficient memory) Failed to allocate 243000000 bytes")
        error.code = cv2.Error.StsNoMem
        raise error

    files = {"a.png": cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()}
    monkeypatch.setattr(cv2, "imdecode", lacking)
    with (
        lake_of(files) as lake,
        Feed(lake, "", FeedOptions(1)) as feed,
        decoded(feed, Decode((8, 8), on_corrupt=choice)) as batches,
        pytest.raises(MemoryError, match=r"'a.png'.*Insufficient memory"),
    ):
        next(batches)
