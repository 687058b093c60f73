"""lakefeed in PyTorch: the ready Loader, in one process, batches as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.peers.contest import Delivered, Task, count
from benchmarks.peers.lake_feed import LakeFeed


class LakeTorch(LakeFeed):
    """`lakefeed.torch.Loader`, each sample a tensor."""

    name = "lakefeed torch Loader, global"
    needs: tuple[str, ...] = ("torch",)

    def run(self, task: Task) -> Delivered:
        """Cut every batch into tensors."""
        import lakefeed.torch

        options = replace(self.options(task), epochs=1)  # one iteration is one epoch
        with lakefeed.torch.Loader(self.lake(task), "", options) as loader:

            def epoch() -> Iterator[list[object]]:
                return (batch.views() for batch in loader)

            return count(task, epoch)


class LakeTorchRuns(LakeTorch):
    """The same, by runs of eight neighbours."""

    name = "lakefeed torch Loader, runs=8"
    shuffle = "runs=8"
