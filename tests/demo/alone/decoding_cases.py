"""What the demo takes for a picture."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from lakefeed.demo.pictures import thumbnail, write_digits
from lakefeed.demo.training import decodable

pytestmark = [pytest.mark.tf, pytest.mark.slow]


def test_only_pictures_that_tensorflow_decodes_are_used(tmp_path: Path) -> None:
    assert write_digits(tmp_path) == 1797
    data = (tmp_path / "0" / "0000.png").read_bytes()
    assert decodable(data)
    assert not decodable(data[: len(data) // 2])
    assert not decodable(b"")
    assert not decodable(b"text")
    for mode in ("RGB", "RGBA", "L", "1", "P"):
        encoded = io.BytesIO()
        Image.new(mode, (9, 7)).save(encoded, "PNG")
        assert decodable(encoded.getvalue())
    assert thumbnail(data, 72)[:4] == b"\x89PNG"
