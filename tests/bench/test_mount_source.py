"""`bench train --source mount` on a real mount: the same bytes as the lake's own, judged alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakefeed.bench.emulation import NAS
from lakefeed.bench.training import TrainOptions, check_mount
from lakefeed.bench.workloads import Workload
from lakefeed.errors import Invalid
from tests.bench.test_sources import epoch_of
from tests.fuse.tools import mounted, needs_fuse, run

pytestmark = [pytest.mark.slow, pytest.mark.root, needs_fuse]


@pytest.fixture(scope="module")
def mount(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(lake, tmp_path_factory.mktemp("mount") / "mnt") as here:
        yield here.path


def test_a_mount_gives_the_bytes_of_the_lake(lake: Path, mount: Path) -> None:
    shares = [epoch_of("mount", mount, rank, 2) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(epoch_of("lake", lake, 0, 1))


def test_lake_and_mount_side_by_side(
    lake: Path, mount: Path, workload_file: Path, tmp_path: Path
) -> None:
    done = run(
        "bench", "train", lake, "--workload", workload_file, "--source", "lake",
        "--source", "mount", "--data", f"mount={mount}", "-n", 2, "--epochs", 2,
        "--steps", 12,
        "--json", "--report", tmp_path / "run",
    )  # fmt: skip
    facts = json.loads(done.stdout)
    runs = {one["source"]: one for one in facts["runs"]}
    assert set(runs) == {"lake", "mount"}
    assert runs["mount"]["samples"] == runs["lake"]["samples"] == 2 * 2 * 12 * 8
    assert runs["mount"]["read_bytes"] >= runs["mount"]["sample_bytes"] > 0
    assert 0 < runs["mount"]["utilisation"] <= 1
    assert (tmp_path / "run.html").exists()


def test_a_directory_that_is_no_mount_is_refused(
    lake: Path, mount: Path, workload: Workload, tmp_path: Path
) -> None:
    plain = TrainOptions(str(lake), workload, sources=("mount",), data={"mount": str(tmp_path)})
    with pytest.raises(Invalid, match="expected a mounted lake at"):
        check_mount(plain)
    here = {"mount": str(mount / "small")}
    check_mount(TrainOptions(str(lake), workload, sources=("mount",), data=here))
    slow = TrainOptions(str(lake), workload, sources=("mount",), data=here, delays=NAS)
    with pytest.raises(Invalid, match="reads the lake itself"):
        check_mount(slow)
