"""Sparse members of tar archives: holes are zeros, and pieces come from nowhere else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.transfer.unpacking import import_archives
from tests.lake.tools import contents
from tests.transfer.test_unpacking import GOOD, archive, member, take


def test_holes_of_a_sparse_member_are_zeros(lake: Lake, tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse",
               "GNU.sparse.realsize": "9000"}  # fmt: skip
    data = b"1\n4096\n3\n".ljust(512, b"\0") + b"abc"
    report = take(lake, tmp_path, archive(member("x", data, pax_headers=headers)))
    assert (report.errors, report.bytes) == (0, 9000)
    assert contents(lake.snapshot()) == {"sparse": bytes(4096) + b"abc" + bytes(9000 - 4099)}


@pytest.mark.parametrize(
    "form", ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix"]
)
def test_what_gnu_tar_says_of_holes_is_understood(lake: Lake, tmp_path: Path, form: str) -> None:
    step = 100_000  # more pieces than the first header of the old form has room for
    with (tmp_path / "sparse").open("wb") as file:
        for number in range(30):
            os.pwrite(file.fileno(), b"%d" % number * 3000, number * step)
        file.truncate(31 * step)
    with (tmp_path / "x.tar").open("wb") as out:
        command = ["tar", "c", "--sparse", f"--format={form}", "sparse"]
        subprocess.run(" ".join(command).split(), cwd=tmp_path, stdout=out, check=True)
    assert (tmp_path / "x.tar").stat().st_size < 20 * step
    assert import_archives(lake, [tmp_path / "x.tar"]).errors == 0
    assert contents(lake.snapshot()) == {"sparse": (tmp_path / "sparse").read_bytes()}


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
