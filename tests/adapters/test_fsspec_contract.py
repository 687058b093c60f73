"""fsspec's own suites, over a live lake named in the path and over one named in the options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.tests import abstract

from lakefeed import Lake
from lakefeed.adapters.fsspec import LakeFileSystem

pytestmark = pytest.mark.slow


def together(prepare: Any, where: Any) -> Any:
    """Prepare a test's files in one commit instead of ten: most of the time would go there."""
    if not isinstance(where[0], LakeFileSystem):
        return prepare(*where)
    with where[0].transaction:
        return prepare(*where)


class InPath(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, tmp_path: Path) -> Iterator[LakeFileSystem]:
        Lake.create(tmp_path / "lake").close()
        fs = LakeFileSystem(skip_instance_cache=True)
        yield fs
        fs.close()

    @pytest.fixture
    def fs_path(self, tmp_path: Path) -> str:
        return f"{tmp_path}/lake"

    def _bulk_operations_scenario_0(self, *where: Any) -> Any:
        return together(super()._bulk_operations_scenario_0, where)

    def _glob_edge_cases_files(self, *where: Any) -> Any:
        return together(super()._glob_edge_cases_files, where)

    def _dir_and_file_with_same_name_prefix(self, *where: Any) -> Any:
        return together(super()._dir_and_file_with_same_name_prefix, where)

    def _10_files_with_hashed_names(self, *where: Any) -> Any:
        return together(super()._10_files_with_hashed_names, where)

    @pytest.fixture
    def local_path(self, tmp_path: Path) -> str:
        (tmp_path / "local").mkdir()
        return f"{tmp_path}/local"


class InOptions(InPath):
    @pytest.fixture
    def fs(self, tmp_path: Path) -> Iterator[LakeFileSystem]:
        Lake.create(tmp_path / "lake").close()
        fs = LakeFileSystem(lake=f"{tmp_path}/lake", skip_instance_cache=True)
        yield fs
        fs.close()

    @pytest.fixture
    def fs_path(self, tmp_path: Path) -> str:
        return "inside"


class TestCopy(InPath, abstract.AbstractCopyTests):
    pass


class TestGet(InPath, abstract.AbstractGetTests):
    pass


class TestPut(InPath, abstract.AbstractPutTests):
    pass


class TestOpen(InPath, abstract.AbstractOpenTests):
    pass


class TestPipe(InPath, abstract.AbstractPipeTests):
    pass


class TestOpenRelative(InOptions, abstract.AbstractOpenTests):
    pass


class TestPipeRelative(InOptions, abstract.AbstractPipeTests):
    pass
