"""The demo runs as a command, judges honestly, and leaves a report that needs nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lakefeed.demo import accelerators
from lakefeed.demo.pictures import arrange

pytestmark = [
    pytest.mark.tf,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("demo"),
]

COMMAND = [sys.executable, "-W", "error::UserWarning", "-m", "lakefeed", "demo"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=1700, env=environment
    )


class References(HTMLParser):
    """Collects whatever the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        if tag in ("script", "link", "iframe", "object"):
            self.outside.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset") and not (value or "").startswith("data:image/png"):
                self.outside.append(f"{tag} {name}={value}")


def check_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    assert references.outside == []
    assert references.images > 4
    assert not re.search(r"url\(|@import|https?://", text)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("digits")
    return directory, run("--dir", str(directory), "--epochs", "10")


def test_the_digits_are_learned_and_the_model_returns_from_the_lake(
    digits: tuple[Path, Any],
) -> None:
    directory, done = digits
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((directory / "report.json").read_text())
    assert facts["passed"] is True
    assert facts["validation"]["accuracy"] > 0.95
    assert facts["model"]["same_weights"] is True
    assert facts["model"]["same_bytes"] is True
    assert facts["imported"]["files"] == 1797
    assert facts["split"]["train"] + facts["split"]["held_out"] == 1797
    assert facts["split"]["payload_bytes_before"] == facts["split"]["payload_bytes_after"]
    assert [commit["operation"] for commit in facts["commits"]] == ["import", "split", "save model"]
    for source in ("lake", "files"):
        assert len(facts["training"][source]["epochs"]) == 10
        assert facts["training"][source]["held_out_accuracy"] > 0.9


def test_plain_files_and_lake_feed_emulated_accelerators(digits: tuple[Path, Any]) -> None:
    facts = json.loads((digits[0] / "report.json").read_text())
    assert [case["workload"] for case in facts["accelerators"]] == [
        "retinanet/b200",
        "resnet50/h100",
    ]
    for case in facts["accelerators"]:
        assert case["volume"].startswith("simulated volume")
        assert set(case["sources"]) == {"plain", "lake"}
        for found in case["sources"].values():
            assert 0 < found["utilisation"] <= 1
            assert found["points"][0]["accelerators"] == 1
    page = (digits[0] / "report.html").read_text()
    assert "Plain files and lake on an emulated slow volume" in page


def test_what_lies_beside_the_made_samples_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "bench-retinanet" / "mine"
    mine.parent.mkdir()
    mine.write_text("of the user")

    def one(case: accelerators.Case, where: Path, say: object) -> str:
        where.mkdir(exist_ok=True)
        (where / "made").write_bytes(b"")
        return case.workload

    monkeypatch.setattr(accelerators, "_one", one)
    assert accelerators.feed(tmp_path, print) == ["retinanet", "resnet50"]
    assert mine.read_text() == "of the user"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_the_last_line_says_where_the_report_is(digits: tuple[Path, Any]) -> None:
    directory, done = digits
    verdict, report = done.stdout.splitlines()
    assert verdict.startswith("passed: ")
    assert report == f"report: {directory / 'report.html'}"


def test_the_report_needs_nothing_from_outside(digits: tuple[Path, Any]) -> None:
    check_page(digits[0] / "report.html")


def test_only_the_report_is_left(digits: tuple[Path, Any]) -> None:
    assert {path.name for path in digits[0].iterdir()} == {"report.html", "report.json"}


def test_a_tree_of_the_users_own_is_trained_on_and_kept(tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    chance = np.random.default_rng(0)
    for name, bright in (("cats & dogs", 70), ("<birds>", 180)):
        (images / name / "more").mkdir(parents=True)
        for at in range(24):
            pixels = chance.normal(bright, 30, (40, 50, 3)).clip(0, 255).astype(np.uint8)
            folder = images / name / ("more" if at % 4 == 0 else ".")
            Image.fromarray(pixels).save(folder / f"{at}.jpg")
    (images / "<birds>" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (images / "<birds>" / "notes.txt").write_text("no picture either")
    done = run(
        *("--dir", str(output), "--images", str(images), "--epochs", "2", "--keep", "--json"),
        "--no-accelerators",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts == json.loads((output / "report.json").read_text())
    assert facts["classes"] == ["<birds>", "cats & dogs"]
    assert facts["split"]["train"] + facts["split"]["held_out"] == 48
    assert facts["split"]["left_out"] == 2
    check_page(output / "report.html")
    assert "<birds>" not in (output / "report.html").read_text()
    assert (output / "lake" / "lake.json").exists()


def test_too_little_training_is_a_failure_and_says_so(tmp_path: Path) -> None:
    done = run("--dir", str(tmp_path), "--epochs", "1", "--seed", "3", "--no-accelerators")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["validation"]["accuracy"] <= 0.95
    assert done.returncode == 1
    assert done.stdout.startswith("FAILED: ")
    assert 'class="verdict failed"' in (tmp_path / "report.html").read_text()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run what is refused, and see to it that nobody waits for TensorFlow to read so."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")

    def refused(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = run(*arguments)
        loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert "lakefeed.demo.refusing" in loaded
        assert not loaded & {"tensorflow", "sklearn"}
        return done

    return refused


def test_a_tree_without_two_classes_is_refused(
    tmp_path: Path, refused: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    images = tmp_path / "images"
    (images / "only").mkdir(parents=True)
    (images / "notes").mkdir()
    (images / "notes" / "1.txt").write_text("no picture")
    Image.new("L", (8, 8)).save(images / "only" / "1.png")
    done = refused("--dir", str(tmp_path / "out"), "--images", str(images))
    assert done.returncode == 2
    assert "two classes or more" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_tree_that_is_not_there_is_refused(
    tmp_path: Path, refused: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = refused("--dir", str(tmp_path / "out"), "--images", str(tmp_path / "images"))
    assert done.returncode == 3
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_refused(
    tmp_path: Path, refused: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "lake").mkdir()
    done = refused("--dir", str(tmp_path))
    assert done.returncode == 4
    assert "an earlier run" in done.stderr


def test_the_split_is_a_function_of_the_name() -> None:
    paths = [f"{name}/{at}.png" for name in "abc" for at in range(300)]
    whole = {picture.path: picture.target for picture in arrange(paths)}
    part = {picture.path: picture.target for picture in arrange(paths[::7])}
    assert part == {path: whole[path] for path in paths[::7]}
    held_out = sum(target.startswith("val/") for target in whole.values())
    assert 120 < held_out < 240
    assert whole["a/1.png"].split("/", 1)[1] == "a/1.png"
    assert arrange(["top.png", "a/notes.txt", "a"]) == []


def test_no_picture_takes_the_place_of_another() -> None:
    named = [f"cats/{n}{name}" for n in range(20) for name in ("_x.png", "/x.png", "%2Fx.png")]
    targets = [picture.target for picture in arrange(named)]
    assert len({*targets}) == len(named)
    assert {target.split("/")[1] for target in targets} == {"cats"}
    assert {target.count("/") for target in targets} == {2}
