"""Which library decodes pictures fastest without holding the interpreter's lock?

Sketch: libjpeg-turbo decodes some 30 to 60 megapixels of JPEG a second on one core, PNG takes three
times as long; everything built on it should be level, and Pillow behind for its slower scaling and
the lock it holds between steps. Where the picture is several times larger than what is wanted,
decoding at a half or a quarter of the size should win a factor. Contestants take turns in one
process: JPEG and PNG to uint8 [224, 224, 3], one thread and as many as processors.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks import harness

SIDE = 224
Decoder = Callable[[bytes], Any]


def pictures(kind: str, count: int, height: int, width: int) -> list[bytes]:
    """Noisy scenes, encoded: about 90 kB for 500 x 375 JPEG, as in ImageNet."""
    from PIL import Image

    chance = np.random.default_rng(0)
    out = []
    for _ in range(count):
        coarse = chance.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), np.float32)
        noisy = (smooth + chance.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        target = io.BytesIO()
        Image.fromarray(noisy).save(target, kind, **({"quality": 90} if kind == "JPEG" else {}))
        out.append(target.getvalue())
    return out


def contestants() -> dict[str, Decoder | None]:
    """Each decodes and scales one picture; None: not installed here."""
    made: dict[str, Decoder | None] = {}
    for name, make in (("lakefeed (simplejpeg, OpenCV)", ours), ("OpenCV", opencv),
                       ("Pillow", pillow), ("Pillow, draft", pillow_draft),
                       ("imagecodecs, OpenCV", codecs), ("PyTurboJPEG, OpenCV", turbo),
                       ("tf.io, tf.image.resize", tensorflow)):  # fmt: skip
        try:
            made[name] = make()
        except (ImportError, RuntimeError) as error:
            print(f"{name}: left out, {error}")
            made[name] = None
    return made


def ours() -> Decoder:
    from lakefeed.adapters.decode import Decode
    from lakefeed.adapters.decode.geometry import DRAWS
    from lakefeed.adapters.decode.pictures import decode_one

    options, numbers = Decode((SIDE, SIDE)), np.zeros(DRAWS)

    def one(data: bytes) -> Any:
        target = np.empty((SIDE, SIDE, 3), np.uint8)
        decode_one(data, options, numbers, target)
        return target

    return one


def opencv() -> Decoder:
    import cv2

    def one(data: bytes) -> Any:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(cv2.resize(image, (SIDE, SIDE)), cv2.COLOR_BGR2RGB)

    return one


def pillow() -> Decoder:
    from PIL import Image

    def one(data: bytes) -> Any:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    return one


def pillow_draft() -> Decoder:
    from PIL import Image

    def one(data: bytes) -> Any:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (SIDE, SIDE))  # decodes at a half, a quarter, ... of the size
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    return one


def codecs() -> Decoder:
    import cv2
    import imagecodecs

    def one(data: bytes) -> Any:
        jpeg = data[:2] == b"\xff\xd8"
        image = (imagecodecs.jpeg8_decode if jpeg else imagecodecs.png_decode)(data)
        return cv2.resize(image, (SIDE, SIDE))

    return one


def turbo() -> Decoder:
    import cv2
    import turbojpeg

    decoder = turbojpeg.TurboJPEG()

    def one(data: bytes) -> Any:
        image = decoder.decode(data, pixel_format=turbojpeg.TJPF_RGB)
        return cv2.resize(image, (SIDE, SIDE))

    return one


def tensorflow() -> Decoder:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    def one(data: bytes) -> Any:
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return tf.image.resize(image, (SIDE, SIDE))

    return one


def measure(
    decoders: dict[str, Decoder | None], data: Sequence[bytes], options: argparse.Namespace
) -> list[dict[str, object]]:
    """Return pictures per second, one thread and all, and processor time of each contestant."""
    count = os.cpu_count() or 1
    with ThreadPoolExecutor(count) as pool:
        actions: dict[str, Callable[[], object]] = {}
        for name, one in decoders.items():
            if one is not None:
                actions[f"{name}/one"] = lambda one=one: [one(each) for each in data]
                actions[f"{name}/all"] = lambda one=one: list(pool.map(one, data))
        timings = harness.interleave(actions, options.repeats)
    return [
        {
            "way": name,
            "one thread": round(len(data) / timings[f"{name}/one"].median),
            f"{count} threads": round(len(data) / timings[f"{name}/all"].median),
            "CPU ms": round(1e3 * timings[f"{name}/one"].median_cpu / len(data), 2),
        }
        for name, one in decoders.items()
        if one is not None
    ]


def main() -> None:
    """Run the benchmark, print its tables, write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="fewer pictures and rounds")
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    options.repeats = options.repeats or (2 if options.small else 7)
    count = 8 if options.small else 64
    decoders = contestants()
    results: dict[str, object] = {}
    for title, kind, height, width in (("JPEG 500 x 375", "JPEG", 375, 500),
                                       ("JPEG 1600 x 1200", "JPEG", 1200, 1600),
                                       ("PNG 500 x 375", "PNG", 375, 500)):  # fmt: skip
        share = count if width < 1000 else count // 4
        data = pictures(kind, share, height, width)
        able = {name: one for name, one in decoders.items()
                if kind == "JPEG" or "Turbo" not in name}  # fmt: skip
        rows = measure(able, data, options)
        head = f"{title}, {sum(map(len, data)) / len(data) / 1e3:.0f} kB, pictures/s"
        print("\n" + harness.table([head, *list(rows[0])[1:]], [list(r.values()) for r in rows]))
        results[title] = rows
    print(harness.save("decode_small" if options.small else "decode", {"decode": results}))


if __name__ == "__main__":
    main()
