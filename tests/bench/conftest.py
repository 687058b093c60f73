"""A small lake of noise and a workload that fits it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed import Lake
from lakefeed.bench import preparing, workloads
from lakefeed.bench.workloads import Workload

# 0.5 ms steps: long beside the harness, short for a test.
TOML = """
title = "A small workload"
framework = "pytorch"
format = "bin"
files = 200
sample_bytes = 3000
sample_bytes_stdev = 500
read_threads = 2
epochs = 2
utilisation_min = 0.01
[accelerators.x]
batch_size = 8
computation_seconds = 0.005
"""


@pytest.fixture(scope="session")
def workload_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workload") / "small.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="session")
def workload(workload_file: Path) -> Workload:
    return workloads.load(str(workload_file))


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory, workload: Workload) -> Path:
    """A lake of 200 made samples."""
    where = tmp_path_factory.mktemp("bench") / "lake"
    with Lake.create(where) as made:
        preparing.generate(made, workload, 200)
    return where
