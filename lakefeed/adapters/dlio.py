"""A data loader for DLIO, the benchmark under MLPerf Storage: its workloads through a feed.

    mpirun -np 8 dlio_benchmark workload=unet3d_h100 \\
        ++workload.dataset.data_folder=/mnt/data \\
        ++workload.reader.data_loader_classname=lakefeed.adapters.dlio.Loader \\
        ++workload.reader.data_loader_sampler=iterative

The lake is `lake` in DLIO's data folder; its files below `train` and `valid` are the samples. DLIO
itself lists `train` and `valid` beside it and counts files there, so either the data set that it
generated stays there (`lakefeed import DATA/train DATA/lake/train`), or `stand_in` puts empty files
of the right number in their place.

Each rank of MPI is a rank of the feed. A step's batch is the verified bytes of its samples in one
buffer, as DLIO's own readers hand over bytes without decoding them. Shuffling, seed, batch size and
prefetch are DLIO's settings; an epoch is read from its first step on, never ahead of it, as the
benchmark's rules for a cold start want it. Keeps I7, I8 and I9.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from lakefeed.errors import Invalid, NotFound
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.selection import resolve
from lakefeed.lake.lake import Lake

try:
    from dlio_benchmark.common.enumerations import DataLoaderType, DatasetType, Shuffle
    from dlio_benchmark.data_loader.base_data_loader import BaseDataLoader
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"No module named {error.name!r}; {__name__} is loaded by DLIO, which no extra can bring: "
        'see "Installing DLIO" in docs/DLIO.md',
        name=error.name,
    ) from error

LAKE = "lake"
_PARTS = ("train", "valid")

_logger = logging.getLogger(__name__)


class Loader(BaseDataLoader):
    """One rank's batches; DLIO makes one loader for training and one for evaluation."""

    def __init__(self, format_type: Any, dataset_type: Any, epoch_number: int) -> None:
        super().__init__(format_type, dataset_type, epoch_number, DataLoaderType.PYTORCH)
        self._part = "train" if dataset_type is DatasetType.TRAIN else "valid"
        self._epoch = max(0, epoch_number - 1)
        self._resources = ExitStack()
        self._samples = 0
        self._bytes = 0

    def read(self) -> None:
        """Check that the lake holds the samples that DLIO counts on. Works any number of times."""
        with ExitStack() as resources:
            found = len(self._feed(resources).selection)
        if found != self.num_samples:
            raise Invalid(
                f"{self._part} samples of {self._lake}",
                expected=f"{self.num_samples} (num_files x num_samples_per_file)",
                found=found,
                hint="set the workload's counts as lakefeed.adapters.dlio.stand_in says",
            )

    def next(self) -> Iterator[Any]:
        """Yield the batches of the next epoch, each as one flat uint8 array."""
        super().next()
        self._resources.close()
        self._samples = self._bytes = 0
        feed = self._feed(self._resources)
        feed.restore({**feed.state(), "epoch": self._epoch})
        for batch in feed:
            self._samples += len(batch)
            self._bytes += len(batch.data)
            yield batch.data

    def finalize(self) -> None:
        """End the epoch: say what was read, let go of the lake."""
        self._resources.close()
        _logger.info(
            "lakefeed: rank %d read %d samples, %d bytes of %s in epoch %d",
            self._args.my_rank, self._samples, self._bytes, self._part, self._epoch + 1,
        )  # fmt: skip
        self._epoch += 1

    @property
    def _lake(self) -> str:
        return os.path.join(self._args.data_folder, LAKE)

    def _feed(self, resources: ExitStack) -> Feed:
        lake = resources.enter_context(Lake.open(self._lake))
        return resources.enter_context(Feed(lake.snapshot(), self._part, self._options()))

    def _options(self) -> FeedOptions:
        args = self._args
        still = args.sample_shuffle is Shuffle.OFF and args.file_shuffle is Shuffle.OFF
        options = FeedOptions(
            self.batch_size,
            shuffle=None if still else "global",
            seed=args.seed,
            epochs=self._epoch + 1,
            last="drop",
            rank=args.my_rank,
            world_size=args.comm_size,
        )
        return replace(options, prefetch=args.prefetch_size) if args.prefetch_size else options


def stand_in(data_folder: str | os.PathLike[str], suffix: str) -> dict[str, int]:
    """Put empty files where DLIO counts its data set, and return the settings that go with them.

    `suffix` is the workload's format ("npz", "jpeg", …). The keys are those of a workload's
    `dataset` section; DLIO multiplies them to the number of samples in the lake. Files that are
    there already stay; NotFound without a lake or without training samples in it.
    """
    folder = Path(data_folder)
    counts = {}
    with Lake.open(folder / LAKE) as lake:
        for part in _PARTS:
            try:
                counts[part] = len(resolve(lake.snapshot(), part))
            except NotFound:
                if part == "train":
                    raise
                counts[part] = 0
    together = math.gcd(*counts.values())
    for part, count in counts.items():
        (folder / part).mkdir(exist_ok=True)  # DLIO lists both, whatever it needs
        for number in range(count // together):
            (folder / part / f"stand-in-{number:06d}.{suffix}").touch()
    return {
        "num_files_train": counts["train"] // together,
        "num_files_eval": counts["valid"] // together,
        "num_samples_per_file": together,
    }
