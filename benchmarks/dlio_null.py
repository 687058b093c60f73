"""A loader for DLIO that costs nothing: one tensor, again and again. DLIO imports it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from dlio_benchmark.common.enumerations import DataLoaderType
from dlio_benchmark.data_loader.base_data_loader import BaseDataLoader


class Null(BaseDataLoader):  # type: ignore[misc]
    """Returns one tensor for ever; DLIO stops by itself."""

    def __init__(self, format_type: Any, dataset_type: Any, epoch: int) -> None:
        super().__init__(format_type, dataset_type, epoch, DataLoaderType.PYTORCH)
        self._batch = torch.zeros(1024, dtype=torch.uint8)

    def read(self) -> None:
        """Nothing to read."""

    def next(self) -> Iterator[Any]:
        """Yield without end."""
        super().next()
        while True:
            yield self._batch

    def finalize(self) -> None:
        """Nothing to let go of."""
