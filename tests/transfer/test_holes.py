"""Sparse members of tar archives, as GNU tar writes them, come in as the files that they were."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.transfer.importing import ImportOptions
from lakefeed.transfer.unpacking import import_archives
from tests.lake.tools import contents

BLOCK = 64 << 10
# Which blocks of a file are data: the others are holes.
SHAPES = {
    "hole first": "  x",
    "hole last": "xx    ",
    "hole between": "x   x",
    "all hole": "    ",
    "no hole": "xxx",
    "many": "x " * 30,
    "many, hole first and last": " x" * 30 + " ",
}
FORMS = [["gnu"], *(["posix", f"--sparse-version={one}"] for one in ("0.0", "0.1", "1.0"))]


def is_gnu() -> bool:
    """Tell whether the system's tar is the one that has these formats."""
    if shutil.which("tar") is None:
        return False
    said = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=False)
    return "GNU tar" in said.stdout


def made(path: Path, shape: str) -> bytes:
    """Make a file with holes, and return what it reads as."""
    with path.open("wb") as file:
        for at, block in enumerate(shape):
            if block != " ":
                file.seek(at * BLOCK)
                file.write(bytes([1 + at]) * BLOCK)
        file.truncate(len(shape) * BLOCK)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not is_gnu(), reason="needs GNU tar")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[-1])
def test_sparse_members_are_the_files_that_they_were(form: list[str], tmp_path: Path) -> None:
    source, tar = tmp_path / "source", tmp_path / "a.tar"
    source.mkdir()
    files = {name: made(source / name, shape) for name, shape in SHAPES.items()}
    command = ["tar", "--sparse", f"--format={form[0]}", *form[1:], "-cf", tar, "-C", source]
    subprocess.run([*command, *files], check=True)
    assert tar.stat().st_size < sum(map(len, files.values()))
    with Lake.create(tmp_path / "lake") as lake:
        report = import_archives(lake, [str(tar)], ImportOptions())
        assert report.errors == 0, report.problems
        assert contents(lake.snapshot()) == files
