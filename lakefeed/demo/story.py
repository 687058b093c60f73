"""The demo, step by step: class folders -> lake -> split -> train -> save -> load -> validate.

Each step is one short method that uses the library as a user would, tells the terminal what it did
and leaves its facts. The result is a dictionary (the JSON) and a self-contained page. Accuracy is
judged on pictures that were never trained on, by a model that was loaded back from the lake.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from lakefeed import __version__
from lakefeed.demo import accelerators, page, plots, refusing, training
from lakefeed.demo.pictures import HELD_OUT_OF, Picture, arrange, thumbnail, write_digits
from lakefeed.demo.training import Epoch, Recipe
from lakefeed.errors import Invalid
from lakefeed.format.columns import MAGIC
from lakefeed.lake.batch import WHEN_TOLD
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.transfer.importing import ImportOptions, import_tree

DIGITS_ACCURACY_MIN = 0.95
MODEL_PATH = "models/lenet.keras"
SHEET_COLUMNS = 12
THUMBNAIL_SIDE = 72
_LOOK_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Options:
    """What to train on and for how long. `images` holds one folder for each class."""

    workdir: Path
    images: Path | None = None
    epochs: int = 12
    seed: int = 1
    keep: bool = False
    accelerators: bool = True


class Say(Protocol):
    """Shows a line to whoever waits; a step is a headline."""

    def __call__(self, line: str, *, step: bool = False) -> None: ...


@dataclass(slots=True)
class Story:
    """What is known so far; `say` shows a line on the terminal."""

    options: Options
    say: Say
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)  # PNG bytes for the page


def run(options: Options, say: Say) -> dict[str, Any]:
    """Run the demo; return its facts, the paths of report.html and report.json among them.

    Conflict when the directory holds an earlier run; Invalid for a tree without two classes.
    """
    began = time.perf_counter()
    refusing.check(options.workdir, options.images)
    options.workdir.mkdir(parents=True, exist_ok=True)
    lake_directory, images = options.workdir / "lake", options.workdir / "images"
    tf.config.experimental.enable_op_determinism()
    story = Story(options, say)
    try:
        with Lake.create(lake_directory) as lake:
            source = _make_folders(story, images)
            _import(story, lake, source)
            chosen = _split(story, lake)
            _look(story, lake.snapshot(), chosen)
            _train_and_validate(story, lake, source, chosen)
            _record_history(story, lake)
        _feed_accelerators(story)
    finally:
        if not options.keep:
            shutil.rmtree(lake_directory, ignore_errors=True)
            shutil.rmtree(images, ignore_errors=True)
    return _write_report(story, time.perf_counter() - began)


# -- pictures in -----------------------------------------------------------------------------------


def _make_folders(story: Story, images: Path) -> Path:
    if story.options.images is not None:
        story.facts["source"] = f"pictures in {story.options.images.name}/"
        return story.options.images
    with _step(story, "write the handwritten digits as PNG files, one folder for each class"):
        count = write_digits(images)
    story.facts["source"] = "scikit-learn's handwritten digits"
    story.say(f"{count:,} files below {images}")
    return images


def _import(story: Story, lake: Lake, source: Path) -> None:
    with _step(story, "import the folders into the lake") as seconds:
        report = import_tree(lake, source, ImportOptions(prefix="images"))
    if report.errors:
        raise Invalid(str(source), expected="a readable tree", found=report.problems[0])
    story.facts["imported"] = {
        "files": report.files,
        "bytes": report.bytes,
        "packs": report.packs,
        "seconds": seconds(),
    }
    story.say(
        f"{report.files:,} files, {report.bytes:,} bytes -> {report.packs} pack, one commit: "
        f"{report.files / seconds():,.0f} files/s"
    )


def _split(story: Story, lake: Lake) -> list[Picture]:
    """Copy the pictures to train/ and val/: one commit of rows, no payload is written."""
    snapshot = lake.snapshot()
    paths = [path for table in snapshot.find("images") for path in table["path"].to_pylist()]
    with _step(story, "decode every picture once, leave out what is none"):
        found = arrange(path.removeprefix("images/") for path in paths)
        chosen = [picture for picture, good in _tried(snapshot, found) if good]
    names = sorted({picture.class_name for picture in chosen})
    parts = Counter(picture.target.split("/", 1)[0] for picture in chosen)
    if len(names) < 2 or len(parts) < 2:
        raise refusing.too_few(f"{len(chosen)} PNG or JPEG files in {len(names)} folders")
    before = _payload_bytes(snapshot)
    message = f"one picture in {HELD_OUT_OF} held out"
    with _step(story, "split by name: copies in train/ and val/ inside the lake") as seconds:
        # Rows are small: all of a split fits into memory, so it becomes visible in one piece.
        with lake.writer(WHEN_TOLD, operation="split", message=message) as writer:
            for picture in chosen:
                writer.copy(f"images/{picture.path}", picture.target)
        tag = lake.tag("split")
    story.facts["classes"] = names
    story.facts["split"] = {
        "train": parts["train"],
        "held_out": parts["val"],
        "left_out": len(paths) - len(chosen),
        "payload_bytes_before": before,
        "payload_bytes_after": _payload_bytes(lake.snapshot()),
        "seconds": seconds(),
        "snapshot": tag.snapshot,
    }
    story.say(
        f"{parts['train']:,} to train on, {parts['val']:,} held out; payload bytes before and "
        f"after: {before:,} and {_payload_bytes(lake.snapshot()):,}"
    )
    return chosen


def _tried(snapshot: Snapshot, found: Sequence[Picture]) -> Iterator[tuple[Picture, bool]]:
    for start in range(0, len(found), _LOOK_AT_ONCE):
        part = found[start : start + _LOOK_AT_ONCE]
        payloads = snapshot.get_many([f"images/{picture.path}" for picture in part])
        yield from zip(part, map(training.decodable, payloads), strict=True)


def _payload_bytes(snapshot: Snapshot) -> int:
    packs = snapshot.state.packs.values()
    return sum(info.sealed.payload_end - len(MAGIC) for info in packs)


def _look(story: Story, snapshot: Snapshot, chosen: Sequence[Picture]) -> None:
    """Count the labels and lay out a contact sheet, from what the lake has."""
    names: list[str] = story.facts["classes"]
    counts = {
        part: Counter(p.class_name for p in chosen if p.target.startswith(f"{part}/"))
        for part in ("train", "val")
    }
    story.facts["labels"] = {
        part: {name: count[name] for name in names} for part, count in counts.items()
    }
    sheet = {}
    for name in names[:SHEET_COLUMNS]:
        paths = sorted(p.target for p in chosen if p.class_name == name)[:SHEET_COLUMNS]
        payloads = snapshot.get_many(paths)
        sheet[name] = [(path, thumbnail(data, THUMBNAIL_SIDE))
                       for path, data in zip(paths, payloads, strict=True)]  # fmt: skip
    story.pictures["sheet"] = sheet
    story.pictures["histogram"] = plots.histogram(*story.facts["labels"].values())


# -- a model out -----------------------------------------------------------------------------------


def _train_and_validate(story: Story, lake: Lake, source: Path, chosen: Sequence[Picture]) -> None:
    recipe = _recipe(story)
    snapshot = lake.snapshot("split")
    held_out = training.from_lake(snapshot, "val/**", recipe, None)

    model = training.make_model(recipe)
    with _step(story, f"train LeNet from the lake, {recipe.epochs} epochs"):
        data = training.from_lake(snapshot, "train/**", recipe, "global")
        lake_epochs = training.train(model, data, held_out, recipe.epochs, _teller(story))
    with _step(story, "save the model into the lake, load it back, validate on held-out pictures"):
        loaded = _through_the_lake(story, lake, model)
        truth, guesses = training.predict(loaded, held_out)
    _judge(story, truth, guesses, recipe)
    _gather_mistakes(story, snapshot, truth, guesses)

    files = {part: _files(source, chosen, part) for part in ("train", "val")}
    with _step(story, "train the same model from the plain files, for comparison"):
        other = training.make_model(recipe)
        file_epochs = training.train(
            other,
            training.from_files(files["train"], recipe, shuffle=True),
            training.from_files(files["val"], recipe, shuffle=False),
            recipe.epochs,
            _teller(story),
        )
    with _step(story, "read the training pictures alone, undecoded"):
        reading = _compare_reading(snapshot, [path for path, _ in files["train"]], recipe)
    story.facts["training"] = {
        "lake": _summary(lake_epochs, reading["lake"]),
        "files": _summary(file_epochs, reading["files"]),
    }
    story.pictures["curves"] = plots.curves(lake_epochs, file_epochs)


def _recipe(story: Story) -> Recipe:
    names = tuple(story.facts["classes"])
    own = story.options.images is not None
    recipe = Recipe(
        class_names=names,
        side=64 if own else 32,
        channels=3 if own else 1,
        batch_size=32,
        epochs=story.options.epochs,
        seed=story.options.seed,
    )
    story.facts["recipe"] = {**asdict(recipe), "class_names": len(names)}
    return recipe


def _teller(story: Story) -> Any:
    def tell(number: int, epoch: Epoch) -> None:
        story.say(
            f"epoch {number + 1:2}  loss {epoch.loss:.3f}  accuracy {epoch.accuracy:6.1%}  "
            f"held out {epoch.held_out_accuracy:6.1%}  {epoch.seconds:.2f} s"
        )

    return tell


def _through_the_lake(story: Story, lake: Lake, model: Any) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        saved, back = Path(scratch) / "saved.keras", Path(scratch) / "back.keras"
        model.save(saved)
        with lake.writer(operation="save model") as writer:
            writer.put_file(MODEL_PATH, saved)
        back.write_bytes(lake.snapshot().get(MODEL_PATH))
        loaded = keras.models.load_model(back)
        story.facts["model"] = {
            "path": MODEL_PATH,
            "bytes": back.stat().st_size,
            "parameters": loaded.count_params(),
            "same_bytes": saved.read_bytes() == back.read_bytes(),
            "same_weights": training.same_weights(model, loaded),
        }
    return loaded


def _judge(
    story: Story, truth: NDArray[np.int64], guesses: NDArray[np.int64], recipe: Recipe
) -> None:
    size = len(recipe.class_names)
    table = np.bincount(truth * size + guesses, minlength=size * size).reshape(size, size)
    right = int((truth == guesses).sum())
    accuracy = right / len(truth)
    needed = DIGITS_ACCURACY_MIN if story.options.images is None else None
    passed = story.facts["model"]["same_weights"] and (needed is None or accuracy > needed)
    ask = "" if needed is None else f" (more than {needed:.0%} wanted)"
    story.facts["validation"] = {
        "pictures": len(truth),
        "right": right,
        "accuracy": accuracy,
        "accuracy_min": needed,
        "confusion": table.tolist(),
    }
    story.facts["passed"] = passed
    story.facts["verdict"] = (
        f"{'passed' if passed else 'FAILED'}: the model read back from the lake names {right} of "
        f"{len(truth)} held-out pictures correctly, {accuracy:.1%}{ask}"
    )
    story.pictures["confusion"] = plots.confusion(table, recipe.class_names)
    story.say(f"{accuracy:.1%} of {len(truth)} held-out pictures, weights "
              f"{'equal' if story.facts['model']['same_weights'] else 'DIFFER'}")  # fmt: skip


def _gather_mistakes(
    story: Story, snapshot: Snapshot, truth: NDArray[np.int64], guesses: NDArray[np.int64]
) -> None:
    names = story.facts["classes"]
    paths = [path for table in snapshot.find("val") for path in table["path"].to_pylist()]
    wrong = np.flatnonzero(truth != guesses)[: 2 * SHEET_COLUMNS].tolist()
    payloads = snapshot.get_many([paths[at] for at in wrong])
    story.pictures["mistakes"] = [
        (paths[at], names[truth[at]], names[guesses[at]], thumbnail(data, THUMBNAIL_SIDE))
        for at, data in zip(wrong, payloads, strict=True)
    ]


def _files(source: Path, chosen: Sequence[Picture], part: str) -> list[tuple[Path, str]]:
    return [(source / p.path, p.class_name) for p in chosen if p.target.startswith(f"{part}/")]


def _compare_reading(snapshot: Snapshot, paths: Sequence[Path], recipe: Recipe) -> dict[str, float]:
    return {
        "lake": training.reading_seconds(lambda: training.raw_from_lake(snapshot, recipe)),
        "files": training.reading_seconds(lambda: training.raw_from_files(paths, recipe)),
    }


def _summary(epochs: Sequence[Epoch], reading_seconds: float) -> dict[str, Any]:
    # The first epoch also builds TensorFlow's graphs.
    later = [epoch.seconds for epoch in epochs[1:]] or [epochs[0].seconds]
    return {
        "epochs": [asdict(epoch) for epoch in epochs],
        "first_epoch_seconds": epochs[0].seconds,
        "epoch_seconds_median": statistics.median(later),
        "held_out_accuracy": epochs[-1].held_out_accuracy,
        "reading_seconds": reading_seconds,
    }


# -- the report ------------------------------------------------------------------------------------


def _record_history(story: Story, lake: Lake) -> None:
    story.facts["commits"] = [
        {"number": commit.number, "operation": commit.operation, "message": commit.message}
        for commit in sorted(lake.history(), key=lambda commit: commit.number)
    ]


def _feed_accelerators(story: Story) -> None:
    if not story.options.accelerators:
        return
    with _step(story, "feed emulated accelerators from plain files and a lake, simulated volume"):
        facts = accelerators.feed(story.options.workdir, story.say)
    story.facts["accelerators"] = facts
    story.pictures["accelerators"] = plots.accelerators(facts)


def _write_report(story: Story, seconds: float) -> dict[str, Any]:
    workdir = story.options.workdir
    facts = story.facts
    facts["seconds"] = seconds
    facts["versions"] = {
        "lakefeed": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    facts["report"] = str(workdir / "report.html")
    facts["json"] = str(workdir / "report.json")
    (workdir / "report.html").write_text(page.render(facts, story.pictures), encoding="utf-8")
    text = json.dumps(facts, indent=2, default=str) + "\n"
    (workdir / "report.json").write_text(text, encoding="utf-8")
    return facts


@contextmanager
def _step(story: Story, title: str) -> Iterator[Any]:
    """Announce a step; the value is a clock that stands still once the step is done."""
    story.say(title, step=True)
    began = time.perf_counter()
    taken: list[float] = []
    try:
        yield lambda: taken[0]
    finally:
        taken.append(time.perf_counter() - began)
