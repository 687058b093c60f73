"""What loads TensorFlow is tested in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.alone import hold

HERE = Path(__file__).parent / "alone"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cases", sorted(path.name for path in HERE.glob("*_cases.py")))
def test_the_cases_hold(cases: str) -> None:
    hold(HERE / cases)
