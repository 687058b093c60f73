"""What the demo takes for a picture, and for two classes of them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from lakefeed.demo.pictures import thumbnail, write_digits
from lakefeed.demo.story import Options, run
from lakefeed.demo.training import decodable
from lakefeed.errors import Invalid

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


def test_what_only_looks_like_two_classes_is_refused_and_leaves_no_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its names this tree passes; TensorFlow tells that one class has no picture."""
    # It would last for the process, which other cases share.
    monkeypatch.setattr("tensorflow.config.experimental.enable_op_determinism", lambda: None)
    images, workdir = tmp_path / "images", tmp_path / "out"
    for name in ("birds", "cats"):
        (images / name).mkdir(parents=True)
    Image.new("L", (8, 8)).save(images / "birds" / "1.png")
    (images / "cats" / "1.png").write_bytes(b"no picture")
    with pytest.raises(Invalid, match="1 PNG or JPEG files in 1 folders"):
        run(Options(workdir, images), lambda line, step=False: None)
    assert list(workdir.iterdir()) == []
