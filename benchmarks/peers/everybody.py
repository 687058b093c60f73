"""The contestants, and what each of them lacks on this machine."""

from __future__ import annotations

import importlib.util
import os

from benchmarks.peers.contest import Contestant
from benchmarks.peers.dali import Dali
from benchmarks.peers.ffcv_ import Ffcv
from benchmarks.peers.files_tf import FilesTf, FilesTf64
from benchmarks.peers.files_threads import FilesThreads
from benchmarks.peers.files_torch import FilesTorch
from benchmarks.peers.grain_array import GrainArrayRecord
from benchmarks.peers.hf import HuggingFace
from benchmarks.peers.images import Erofs, SquashFs, program
from benchmarks.peers.lake_feed import LakeFeed, LakeFeedRuns8, LakeFeedRuns64
from benchmarks.peers.lake_tf import LakeTfBuffer, LakeTfBytes
from benchmarks.peers.lake_torch import LakeTorch, LakeTorchRuns
from benchmarks.peers.lance_ import Lance
from benchmarks.peers.limit import Limit
from benchmarks.peers.litdata_ import LitData
from benchmarks.peers.lmdb_ import Lmdb
from benchmarks.peers.mds import Mds
from benchmarks.peers.tfrecord import TfRecord
from benchmarks.peers.webdataset_ import WebDataset

# Ours one after the other, so that they find the one lake they share.
EVERYBODY: tuple[type[Contestant], ...] = (
    Limit, LakeFeed, LakeFeedRuns8, LakeFeedRuns64, LakeTorch, LakeTorchRuns, LakeTfBuffer,
    LakeTfBytes,
    FilesTf, FilesTf64, FilesTorch, FilesThreads, TfRecord, WebDataset, Mds, LitData, Ffcv,
    GrainArrayRecord, HuggingFace, Lance, Lmdb, Dali, SquashFs, Erofs,
)  # fmt: skip


def folder(contestant: type[Contestant]) -> str:
    """Return the directory of a contestant's own format; all of ours read one lake."""
    return "LakeFeed" if issubclass(contestant, LakeFeed) else contestant.__name__


def lacking(contestant: type[Contestant]) -> str | None:
    """Say what is missing for a contestant, or None."""
    for need in contestant.needs:
        if need == "root":
            if os.geteuid() != 0:
                return "needs root"
        elif need.startswith("program:"):
            if not program(need.removeprefix("program:")):
                return f"{need.removeprefix('program:')} is not installed"
        elif not there(need):
            return f"{need} is not installed"
    return None


def there(module: str) -> bool:
    """Tell whether a module can be found, without importing more than the packages above it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
