"""Sparse members of tar archives: holes are zeros, and pieces come from nowhere else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.transfer.unpacking import import_archives
from tests.lake.tools import contents
from tests.transfer.test_unpacking import GOOD, archive, member, take

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


def test_holes_of_a_sparse_member_are_zeros(lake: Lake, tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse",
               "GNU.sparse.realsize": "9000"}  # fmt: skip
    data = b"1\n4096\n3\n".ljust(512, b"\0") + b"abc"
    report = take(lake, tmp_path, archive(member("x", data, pax_headers=headers)))
    assert (report.errors, report.bytes) == (0, 9000)
    assert contents(lake.snapshot()) == {"sparse": bytes(4096) + b"abc" + bytes(9000 - 4099)}


def test_holes_that_the_volume_has_no_room_for_are_refused_at_once(
    lake: Lake, tmp_path: Path
) -> None:
    """A few bytes of an archive would fill a volume, and everybody else's writing would fail."""
    headers = {"GNU.sparse.map": "0,3", "GNU.sparse.size": "1" * 30}
    report = take(lake, tmp_path, archive(member("x", b"abc", pax_headers=headers), *GOOD))
    assert (report.errors, report.files) == (1, 3)
    (problem,) = report.problems
    assert problem.path == "x"
    assert problem.reason.startswith(f"takes {'1' * 30} bytes, of which the volume has ")
    assert list(contents(lake.snapshot())) == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.skipif(not is_gnu(), reason="needs GNU tar")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[-1])
def test_sparse_members_are_the_files_that_they_were(
    lake: Lake, tmp_path: Path, form: list[str]
) -> None:
    source, tar = tmp_path / "source", tmp_path / "a.tar"
    source.mkdir()
    files = {name: made(source / name, shape) for name, shape in SHAPES.items()}
    command = ["tar", "--sparse", f"--format={form[0]}", *form[1:], "-cf", tar, "-C", source]
    subprocess.run([*command, *files], check=True)
    assert tar.stat().st_size < sum(map(len, files.values()))
    assert import_archives(lake, [tar]).errors == 0
    assert contents(lake.snapshot()) == files


def pieces(size: int, where: str) -> dict[str, str]:
    """Return the headers of a sparse member."""
    return {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(size),
            "GNU.sparse.map": where}  # fmt: skip


def test_what_is_stored_of_a_sparse_member_is_not_its_size(lake: Lake, tmp_path: Path) -> None:
    # So it is said where more than 8 GiB are stored.
    headers = {**pieces(99, "0,3"), "size": "3"}
    data = archive(member("sparse", b"abc", pax_headers=headers), member("next", b"1"))
    assert take(lake, tmp_path, data).errors == 0
    assert contents(lake.snapshot()) == {"sparse": b"abc" + bytes(96), "next": b"1"}


@pytest.mark.parametrize(
    "headers",
    [pieces(99, "9,2,0,1"), pieces(99, "0,-2,9,1"), pieces(99, "0,2,98,2"), {"size": "-5"},
     pieces(9999, "0,2,9,600")],
    ids=["backwards", "negative", "behind the end", "less than nothing", "of other members"],
)  # fmt: skip
def test_impossible_pieces_end_an_archive(
    lake: Lake, tmp_path: Path, headers: dict[str, str]
) -> None:
    first, *others = GOOD
    liar = member("liar", b"123", pax_headers=headers)
    report = take(lake, tmp_path, archive(first, liar, *others))
    (problem,) = report.problems
    assert "at byte 1536 of the tar" in problem.reason
    assert "impossible sizes" in problem.reason
    assert contents(lake.snapshot()).keys() == {"a"}
