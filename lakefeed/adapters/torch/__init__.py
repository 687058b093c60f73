"""PyTorch: whole batches as tensors, from one process or many, resumable to the sample.

    loader = lakefeed.torch.Loader("/mnt/lake", "train/**", FeedOptions(256, labels="parent"),
                                   LoaderOptions(transform=decode, threads=4, device="cuda"))
    for images, labels in loader:
        ...
    torch.save(loader.state_dict(), "loader.pt")

`IterableDataset` is for those who have a DataLoader of their own (`batch_size=None`: its elements
are batches), also torchdata's StatefulDataLoader. `Loader` is ready to use. `batch` says what an
element is, `ranks` how the ranks are found, `device` how batches get to a GPU.
"""

from __future__ import annotations

from lakefeed.adapters.torch.batch import Batch
from lakefeed.adapters.torch.dataset import IterableDataset, position
from lakefeed.adapters.torch.loader import Loader, LoaderOptions

__all__ = ["Batch", "IterableDataset", "Loader", "LoaderOptions", "position"]
