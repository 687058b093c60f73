"""lakefeed in PyTorch: the ready Loader, in one process, batches as tensors."""

from __future__ import annotations

from benchmarks.peers.contest import Delivered, Task, count
from benchmarks.peers.lake_feed import LakeFeed


class LakeTorch(LakeFeed):
    """`lakefeed.torch.Loader`, each sample a tensor."""

    name = "lakefeed torch Loader, global"
    needs = ("torch",)

    def run(self, task: Task) -> Delivered:
        """Cut every batch into tensors."""
        import lakefeed.torch

        with lakefeed.torch.Loader(self.lake(task), "", self.options(task)) as loader:
            return count(task, (batch.views() for batch in loader))


class LakeTorchRuns(LakeTorch):
    """The same, by runs of eight neighbours."""

    name = "lakefeed torch Loader, runs=8"
    shuffle = "runs=8"
