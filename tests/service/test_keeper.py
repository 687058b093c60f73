"""What happens to one lake is told of that lake, and ends neither its other jobs nor the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service.keeper import Keeper
from lakefeed.service.options import LakeOptions, ServiceOptions


def keeper(path: Path) -> Keeper:
    lake = LakeOptions(str(path))
    return Keeper(lake, ServiceOptions((lake,), "test"), CompactorMetrics())


@pytest.mark.parametrize("error", [VolumeFailed("pack"), OverflowError("too big")])
def test_a_job_that_fails_is_told_and_whoever_runs_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    made = keeper(tmp_path)

    async def work() -> int:
        raise error

    for _ in range(2):
        assert asyncio.run(made._attempt("gc", work)) is None
    assert type(error).__name__ in made.status.last_failure["gc"]
    assert caplog.text.count("gc failed") == 1
    assert ("Traceback" in caplog.text) is isinstance(error, OverflowError)
