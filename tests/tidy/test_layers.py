"""Imports point down, adapters do not know each other, heavy libraries stay in their adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tidy.layers import findings
from tests.tidy.sources import module_name, python_files, read


@pytest.mark.parametrize("path", python_files("lakefeed"), ids=str)
def test_imports_point_down(path: Path) -> None:
    broken = findings(module_name(path), read(path), is_package=path.name == "__init__.py")
    assert not broken, "\n".join(f"{path} {line}" for line in broken)


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("lakefeed.lake.log", "from lakefeed.feed import order", "upward import"),
        ("lakefeed.lake.log", "import lakefeed.cli", "upward import"),
        ("lakefeed.lake.log", "from lakefeed import feed", "upward import"),
        ("lakefeed.lake.log", "from lakefeed import Lake", "upward import"),
        ("lakefeed.lake.log", "import lakefeed", "upward import"),
        ("lakefeed.lake.log", "from ..feed.order import sample", "upward import"),
        ("lakefeed.lake.log", "def f():\n    from lakefeed.feed import order", "line 2: upward"),
        (
            "lakefeed.lake.log",
            "import importlib\nimportlib.import_module('lakefeed.cli')",
            "upward",
        ),
        ("lakefeed.lake.log", "__import__('lakefeed.cli')", "upward import"),
        (
            "lakefeed.lake.log",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lakefeed.feed import x",
            "line 3: upward import",
        ),
        ("lakefeed.errors", "from lakefeed.volume.base import Volume", "upward import"),
        ("lakefeed", "from lakefeed.cli import app", "upward import"),
        ("lakefeed.volume.posix", "from lakefeed.format import pack", "do not know each other"),
        ("lakefeed.format.pack", "from lakefeed.volume.base import Volume", "do not know each"),
        ("lakefeed.adapters.tf", "from lakefeed.adapters.torch import x", "adapter tf may not"),
        ("lakefeed.adapters.tf", "from lakefeed.adapters import torch", "adapter tf may not"),
        ("lakefeed.adapters.tf", "from . import torch", "adapter tf may not"),
        ("lakefeed.adapters", "from lakefeed.adapters import torch", "adapter package may not"),
        ("lakefeed.feed.feed", "import tensorflow as tf", "only in lakefeed.adapters.tf"),
        ("lakefeed.feed.feed", "def f():\n    import torch.utils", "line 2: torch may be"),
        ("lakefeed.adapters.torch", "import tensorflow", "only in lakefeed.adapters.tf"),
        ("lakefeed.lake.lake", "import pandas", "tests and benchmarks"),
        ("lakefeed.newcomer", "", "is in no layer"),
        ("lakefeed.cli.main", "import lakefeed.newcomer", "is in no layer"),
    ],
)
def test_a_bad_import_is_found(module: str, source: str, reason: str) -> None:
    broken = findings(module, source)
    assert len(broken) == 1
    assert reason in broken[0]


def test_a_package_resolves_relative_imports_from_itself() -> None:
    assert not findings("lakefeed.lake", "from .log import Log", is_package=True)
    assert findings("lakefeed.lake", "from ..cli import app", is_package=True)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lakefeed.lake.log", "from lakefeed.volume.base import Volume\nimport lakefeed.errors"),
        ("lakefeed.lake.log", "from lakefeed import errors\nimport numpy, pyarrow"),
        ("lakefeed", "from lakefeed.lake.lake import Lake\nfrom lakefeed.feed import Feed"),
        ("lakefeed.adapters.tf", "import tensorflow\nfrom lakefeed import Lake"),
        ("lakefeed.adapters.tf", "from lakefeed.adapters._shared import x"),
        ("lakefeed.adapters.fuse.ops", "import trio\nfrom lakefeed.adapters.fuse import inodes"),
        ("lakefeed.tf", "from lakefeed.adapters.tf import dataset"),
        ("lakefeed.cli.main", "import typer\nfrom lakefeed.bench import runner"),
    ],
)
def test_a_good_import_is_not_found(module: str, source: str) -> None:
    assert findings(module, source) == []
