"""Real JPEGs and PNGs into one array a batch: right pixels, seeded parts, named failures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lakefeed.adapters.decode import Decode, Pictures, decoded
from lakefeed.adapters.decode.geometry import Part, choose, draws
from lakefeed.adapters.decode.pictures import decode_one
from lakefeed.errors import Corrupt, Invalid
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.labels import NO_LABEL
from lakefeed.lake.lake import Lake
from tests.feed.lakes import QUIET, lake_of
from tests.feed.test_feed import corrupt_one_payload
from tests.support.threads import Threads

pytestmark = pytest.mark.slow


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture: its pixels survive JPEG and scaling, and tell places apart."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def encoded(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def some_pictures(count: int = 24) -> dict[str, bytes]:
    files = {}
    for at in range(count):
        pixels = scene(60 + at, 90 + 2 * at, at)
        data = encoded(pixels, "PNG") if at % 3 == 0 else encoded(pixels, "JPEG", quality=95)
        files[f"train/class{at % 2}/{at:03d}"] = data
    return files


FILES = some_pictures()


@contextmanager
def pictures(
    files: Mapping[str, bytes], options: Decode, **feed: Any
) -> Iterator[Callable[[], list[Pictures]]]:
    with ExitStack() as stack:
        lake = stack.enter_context(lake_of(files))
        opened = stack.enter_context(Feed(lake.snapshot(), "", FeedOptions(**feed)))
        batches = stack.enter_context(decoded(opened, options, threads=3))
        yield lambda: list(batches)


def by_path(batches: list[Pictures]) -> dict[str, bytes]:
    return {
        path: image.tobytes()
        for batch in batches
        for path, image in zip(batch.paths, batch.images, strict=True)
    }


def decode_all(files: Mapping[str, bytes], options: Decode, **feed: Any) -> dict[str, bytes]:
    with pictures(files, options, **feed) as batches:
        return by_path(batches())


# -- pixels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(48, 64), (480, 640), (90, 31)])
def test_pictures_look_like_what_pillow_makes_of_them(kind: str, size: tuple[int, int]) -> None:
    pixels = scene(240, 320)
    files = {"a": encoded(pixels, kind), "b": encoded(pixels[:, ::-1], kind)}
    found = decode_all(files, Decode(size), shuffle=None)
    for path, source in (("a", pixels), ("b", pixels[:, ::-1])):
        wanted = Image.fromarray(source).resize(size[::-1], Image.Resampling.BILINEAR)
        image = np.frombuffer(found[path], np.uint8).reshape(*size, 3)
        difference = np.abs(image.astype(int) - np.asarray(wanted).astype(int))
        assert difference.mean() < 3, kind


def test_a_part_of_a_picture_that_is_decoded_smaller_is_the_same_part() -> None:
    """A JPEG is, where it has many more pixels than are wanted; a PNG never."""
    pixels, drawn = scene(480, 640), draws(1, 0, np.arange(6))
    files = [encoded(pixels, kind) for kind in ("JPEG", "PNG")]
    for crop in ("center", "random"):
        for at, numbers in enumerate(drawn):
            shown = np.empty((2, 40, 30, 3), np.uint8)
            for data, into in zip(files, shown, strict=True):
                decode_one(data, Decode((40, 30), crop=crop), numbers, into)
            assert np.abs(shown[0].astype(int) - shown[1]).mean() < 8, (crop, at)


@pytest.mark.parametrize("turned", [False, True])
def test_no_pixel_is_left_out_of_what_becomes_much_smaller(turned: bool) -> None:
    """Every fourth line is white: any four have one of it, and any two have none or half."""
    pixels = np.zeros((16, 64, 3), np.uint8)
    pixels[:, ::4] = 255
    data = encoded(pixels.transpose(1, 0, 2) if turned else pixels, "PNG")
    shown = np.empty((16, 16, 3), np.uint8)
    decode_one(data, Decode((16, 16)), np.zeros(5), shown)
    assert set(shown.ravel().tolist()) == {64}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_gray_palette_and_alpha_become_red_green_blue(mode: str) -> None:
    source = Image.fromarray(scene(40, 40)).convert(mode)
    out = io.BytesIO()
    source.save(out, "PNG")
    files = {"picture": out.getvalue()}
    if mode == "L":
        files["gray.jpg"] = encoded(np.asarray(source), "JPEG", quality=95)
    wanted = np.asarray(source.convert("RGB")).astype(int)
    for data in decode_all(files, Decode((40, 40))).values():
        image = np.frombuffer(data, np.uint8).reshape(40, 40, 3)
        assert np.abs(image.astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_only_a_tiff_is_turned_as_it_says(kind: str) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # Orientation: its first row is the right side
    pixels = scene(48, 64)
    data = encoded(pixels, kind, exif=exif)
    with pictures({"one": data}, Decode((32, 32))) as batches:
        (image,) = batches()[0].images
    shown = np.rot90(pixels, -1) if kind == "TIFF" else pixels
    expected = np.asarray(Image.fromarray(shown).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(image.astype(int) - expected).mean() < 6


def test_the_middle_is_cut_to_the_wanted_proportions() -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = (10, 200, 30)
    found = decode_all({"a": encoded(pixels, "PNG")}, Decode((20, 20), crop="center"))
    assert set(np.frombuffer(found["a"], np.uint8).reshape(-1, 3).max(axis=0)) == {10, 200, 30}
    assert np.frombuffer(found["a"], np.uint8).reshape(-1, 3).min(axis=0).tolist() == [10, 200, 30]


def test_batches_keep_labels_paths_and_order() -> None:
    with pictures(FILES, Decode((16, 16)), batch_size=5, labels="parent", seed=2) as batches:
        found = batches()
    with lake_of(FILES) as lake:
        options = FeedOptions(batch_size=5, labels="parent", seed=2)
        with Feed(lake.snapshot(), "", options) as feed:
            wanted = [(batch.paths, batch.labels) for batch in feed]
    assert [list(batch.paths) for batch in found] == [paths for paths, _ in wanted]
    for batch, (_, labels) in zip(found, wanted, strict=True):
        assert batch.images.shape == (len(batch), 16, 16, 3)
        assert batch.labels is not None and labels is not None
        assert batch.labels.tolist() == labels.tolist()


# -- chance ----------------------------------------------------------------------------------------

RANDOM = Decode((16, 24), crop="random", flip=True)


def test_parts_depend_on_seed_and_epoch_not_on_batches_ranks_and_threads() -> None:
    whole = decode_all(FILES, RANDOM, batch_size=24, seed=5)
    assert decode_all(FILES, RANDOM, batch_size=5, seed=5) == whole
    ranks = [
        decode_all(FILES, RANDOM, batch_size=4, seed=5, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert {**ranks[0], **ranks[1]} == whole
    other = decode_all(FILES, RANDOM, batch_size=24, seed=6)
    assert sum(other[path] == whole[path] for path in FILES) == 0
    both = decode_all(FILES, RANDOM, batch_size=24, seed=5, epochs=2)
    assert sum(both[path] == whole[path] for path in FILES) == 0  # the second epoch's


def test_training_goes_on_with_the_parts_it_would_have_had() -> None:
    options = FeedOptions(batch_size=5, seed=5)
    with lake_of(FILES) as lake, ExitStack() as stack:
        feed = stack.enter_context(Feed(lake.snapshot(), "", options))
        straight = [batch.images.tobytes() for batch in decoded(feed, RANDOM, threads=2)]
        feed = stack.enter_context(Feed(lake.snapshot(), "", options))
        first = stack.enter_context(decoded(feed, RANDOM, ahead=4))
        taken = [next(first).images.tobytes() for _ in range(2)]
        state = first.state()
        feed = stack.enter_context(Feed(lake.snapshot(), "", options))
        feed.restore(state)
        rest = stack.enter_context(decoded(feed, RANDOM, ahead=3))
        assert taken + [batch.images.tobytes() for batch in rest] == straight


def test_numbers_are_even_and_apart() -> None:
    drawn = draws(3, 1, np.arange(20_000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(drawn.T) - np.eye(drawn.shape[1])).max() < 0.03
    assert len(np.unique(drawn)) == drawn.size
    assert np.array_equal(draws(3, 1, np.array([17])), drawn[17:18])


def test_numbers_are_those_of_splitmix64_in_every_version() -> None:
    """Worked out with Python's own integers: a saved state goes on with the parts it had."""
    assert draws(3, 1, np.array([17])).tolist() == [
        [0.8826134778127038, 0.2295293886399271, 0.6253130179483207, 0.9494397411083597,
         0.2504233374166701],
    ]  # fmt: skip


@pytest.mark.parametrize(("number", "mirrored"), [(0.49, True), (0.5, False)])
def test_a_mirrored_picture_has_its_left_on_the_right(number: float, mirrored: bool) -> None:
    data = encoded(scene(48, 64), "PNG")
    shown, plain = np.empty((2, 48, 64, 3), np.uint8)
    decode_one(data, Decode((48, 64), flip=True), np.array([0, 0, 0, 0, number]), shown)
    decode_one(data, Decode((48, 64)), np.array([0, 0, 0, 0, number]), plain)
    assert np.array_equal(shown, plain[:, ::-1] if mirrored else plain)


def test_a_sample_that_is_skipped_changes_no_others_part(tmp_path: Path) -> None:
    whole = decode_all(FILES, RANDOM, batch_size=8, seed=5)
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    corrupt_one_payload(tmp_path, FILES["train/class1/007"])
    options = FeedOptions(8, seed=5, on_corrupt="skip")
    with Feed(tmp_path, "", options) as feed, decoded(feed, RANDOM) as batches:
        found = by_path(list(batches))
    assert found == {path: whole[path] for path in FILES if path != "train/class1/007"}


def test_random_parts_lie_inside_and_have_the_wanted_area() -> None:
    options = Decode((8, 8), crop="random", flip=True, area=(0.25, 0.5), ratio=(1.0, 2.0))
    parts = [choose(options, 200, 300, row) for row in draws(0, 0, np.arange(2000))]
    for part in parts:
        assert 0 <= part.top <= part.top + part.height <= 200
        assert 0 <= part.left <= part.left + part.width <= 300
        assert 0.2 < part.height * part.width / 60_000 < 0.52
        assert 0.95 < part.width / part.height < 2.05
    assert 900 < sum(part.mirrored for part in parts) < 1100
    assert choose(Decode((8, 8)), 200, 300, np.zeros(5)) == Part(0, 0, 200, 300, False)


def test_random_parts_reach_every_edge() -> None:
    options = Decode((8, 8), crop="random", area=(0.25, 0.5))
    nearly = 1 - 2.0**-53
    first = choose(options, 200, 300, np.array([0.5, 0.5, 0, 0, 0]))
    last = choose(options, 200, 300, np.array([0.5, 0.5, nearly, nearly, 0]))
    assert (first.top, first.left) == (0, 0)
    assert (last.top + last.height, last.left + last.width) == (200, 300)


@pytest.mark.parametrize(
    ("size", "picture", "part"),
    [
        ((20, 20), (40, 100), Part(0, 30, 40, 40, False)),
        ((20, 20), (100, 40), Part(30, 0, 40, 40, False)),
        ((10, 20), (90, 100), Part(20, 0, 50, 100, False)),
        ((20, 10), (90, 100), Part(0, 27, 90, 45, False)),
        ((1, 100), (51, 10), Part(25, 0, 1, 10, False)),
        ((100, 1), (10, 51), Part(0, 25, 10, 1, False)),
    ],
)
def test_the_middle_is_the_largest_part_of_the_wanted_proportions(
    size: tuple[int, int], picture: tuple[int, int], part: Part
) -> None:
    assert choose(Decode(size, crop="center"), *picture, np.zeros(5)) == part


# -- batches of one size ---------------------------------------------------------------------------


def test_what_only_fills_a_batch_up_is_black() -> None:
    with pictures(FILES, Decode((8, 8)), batch_size=7, last="pad", labels="parent") as batches:
        found = batches()
    assert [len(batch) for batch in found] == [7, 7, 7, 7]
    blank = np.array([path == "" for batch in found for path in batch.paths])
    images = np.concatenate([batch.images for batch in found])
    labels = np.concatenate([batch.labels for batch in found if batch.labels is not None])
    assert blank.sum() == 28 - len(FILES)
    assert not images[blank].any() and images[~blank].any(axis=(1, 2, 3)).all()
    assert np.array_equal(labels == NO_LABEL, blank)


def test_a_damaged_picture_that_is_skipped_is_black_in_a_batch_of_a_fixed_size(
    tmp_path: Path,
) -> None:
    with Lake.create(tmp_path) as lake, lake.writer(QUIET) as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    corrupt_one_payload(tmp_path, FILES["train/class1/007"])
    options = FeedOptions(8, last="repeat", labels="parent", on_corrupt="skip")
    with Feed(tmp_path, "", options) as feed, decoded(feed, Decode((8, 8))) as batches:
        found = list(batches)
    assert [len(batch) for batch in found] == [8, 8, 8]
    black = [path for batch in found for path, image in zip(batch.paths, batch.images, strict=True)
             if not image.any()]  # fmt: skip
    assert black == [""]
    assert {path for batch in found for path in batch.paths} == {*FILES, ""} - {"train/class1/007"}


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"no picture", encoded(scene(40, 60), "JPEG")[:400], b"\xff\xd8\xff" + b"x" * 50]
)
def test_what_is_no_picture_is_named_where_it_stands(data: bytes, threads: Threads) -> None:
    files = {**FILES, "train/class0/zzz.jpg": data}
    with (
        pictures(files, Decode((8, 8)), batch_size=5, shuffle=None) as batches,
        pytest.raises(Invalid, match=r"'train/class0/zzz\.jpg', expected a JPEG"),
    ):
        batches()
    assert threads.left() == []


@pytest.mark.parametrize("last", ["keep", "pad"])
def test_what_is_no_picture_is_skipped_and_named_on_request(last: str) -> None:
    bad = {f"train/class1/{at:03d}": b"no picture" for at in (3, 5, 6)}
    options = {"batch_size": 5, "shuffle": None, "labels": "parent", "last": last}
    with pictures({**FILES, **bad}, Decode((8, 8), on_corrupt="skip"), **options) as batches:
        found = batches()
    assert [path for batch in found for path in batch.corrupt] == sorted(bad)
    lengths = [5, 5, 3, 4, 5] if last == "keep" else [5] * 5
    assert [len(batch) for batch in found] == lengths
    for batch in found:
        assert batch.labels is not None
        rows = zip(batch.images, batch.labels.tolist(), batch.paths, strict=True)
        for image, label, path in rows:
            assert image.any() == bool(path) and path not in bad
            assert label == (int(path[11]) if path else NO_LABEL)
    sound = decode_all({path: FILES[path] for path in FILES if path not in bad}, Decode((8, 8)))
    assert {path: data for path, data in by_path(found).items() if path} == sound


def test_damage_comes_behind_the_batches_before_it() -> None:
    class Broken(Feed):
        left = 3

        def __next__(self) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Corrupt("train/class0/006")
            return super().__next__()

    with (
        lake_of(FILES) as lake,
        Broken(lake.snapshot(), "", FeedOptions(batch_size=4)) as feed,
        decoded(feed, Decode((8, 8)), ahead=5) as batches,
    ):
        assert [len(next(batches)) for _ in range(3)] == [4, 4, 4]
        with pytest.raises(Corrupt, match="006"):
            next(batches)
        with pytest.raises(Invalid, match="closed"):
            next(batches)


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ({"size": (0, 4)}, "size"),
        ({"size": 224}, "size"),
        ({"size": (4, 4, 3)}, "size"),
        ({"size": (4.0, 4)}, "size"),
        ({"size": (4, 4), "crop": "left"}, "crop"),
        ({"size": (4, 4), "area": (0.5, 2.0)}, "area"),
        ({"size": (4, 4), "ratio": (2.0, 1.0)}, "ratio"),
        ({"size": (4, 4), "on_corrupt": "ignore"}, "on_corrupt"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], subject: str) -> None:
    with pytest.raises(Invalid, match=subject):
        Decode(**options)


def test_no_thread_is_no_way_to_decode() -> None:
    lake: Lake
    with lake_of(FILES) as lake, Feed(lake.snapshot()) as feed:
        with pytest.raises(Invalid, match="workers"):
            decoded(feed, Decode((8, 8)), threads=0)
        with pytest.raises(Invalid, match="ahead"):
            decoded(feed, Decode((8, 8)), ahead=0)
