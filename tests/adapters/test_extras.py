"""Where the libraries of an extra are not installed, its module says which extra brings them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "extra", "library"),
    [
        ("lakefeed.tf", "tf", "tensorflow"),
        ("lakefeed.torch", "torch", "torch"),
        ("lakefeed.torch", "torch", "prometheus_client"),
        ("lakefeed.jax", "jax", "jax"),
        ("lakefeed.adapters.decode", "decode", "cv2"),
        ("lakefeed.monitor", "bench", "prometheus_client"),
    ],
)
def test_a_missing_library_names_the_extra(module: str, extra: str, library: str) -> None:
    program = f"import sys; sys.modules[{library!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ")
    assert last.endswith(f'{module} needs: pip install "lakefeed[{extra}]"')
