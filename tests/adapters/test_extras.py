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
        ("lakefeed.adapters.grain", "grain", "prometheus_client"),
        ("lakefeed.adapters.decode", "decode", "cv2"),
        ("lakefeed.monitor", "bench", "prometheus_client"),
        ("lakefeed.metrics.exporter", "metrics", "prometheus_client"),
        ("lakefeed.metrics.loader", "metrics", "prometheus_client"),
    ],
)
def test_a_missing_library_names_the_extra(module: str, extra: str, library: str) -> None:
    assert said(module, library) == (
        f"ModuleNotFoundError: No module named {library!r}; {module} needs: "
        f'pip install "lakefeed[{extra}]"'
    )


def test_what_a_library_says_of_one_that_it_lacks_itself_is_passed_on() -> None:
    last = said("lakefeed.jax", "jaxlib")
    assert last.startswith("ModuleNotFoundError: jax requires jaxlib to be installed")
    assert last.endswith('; lakefeed.jax needs: pip install "lakefeed[jax]"')


def test_without_dlio_its_loader_says_how_to_get_it() -> None:
    last = said("lakefeed.adapters.dlio", "dlio_benchmark")
    assert last.startswith("ModuleNotFoundError: No module named 'dlio_benchmark")
    assert "docs/DLIO.md" in last


def said(module: str, library: str) -> str:
    """The last line of an import of a module where a library is not installed."""
    program = f"import sys; sys.modules[{library!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1]
