"""lakefeed: the feed itself, globally shuffled and by runs, verified as always."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.contest import Delivered, Task, count
from lakefeed import Feed, FeedOptions, Lake

# One budget for every kind; the emulated volumes judge by it.
MEMORY_BYTES = 512 << 20


class LakeFeed:
    """`Feed(lake)`, batches as views."""

    name = "lakefeed Feed, global"
    needs: tuple[str, ...] = ()
    shuffle = "global"

    def prepare(self, task: Task) -> None:
        """Import the files."""
        where = str(task.where / "lake")
        for command in (["create", where], ["import", "-q", str(task.files), where]):
            subprocess.run([sys.executable, "-m", "lakefeed", *command], check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
        with Lake.open(where) as lake:
            lake.merge_index(everything=True)

    def lake(self, task: Task) -> Path:
        """Where the lake is; all of ours share one."""
        return task.where / "lake"

    def options(self, task: Task) -> FeedOptions:
        """The feed's options."""
        return FeedOptions(
            task.batch,
            self.shuffle,
            seed=1,
            epochs=None if task.again else 1,
            memory_bytes=MEMORY_BYTES,
        )

    def run(self, task: Task) -> Delivered:
        """Cut every batch into views, as a consumer of raw bytes would."""
        with Feed(self.lake(task), "", self.options(task)) as feed:
            return count(
                task, lambda: (batch.views() for batch in itertools.islice(feed, len(feed)))
            )


class LakeFeedRuns8(LakeFeed):
    """The same, by runs of eight neighbours."""

    name = "lakefeed Feed, runs=8"
    shuffle = "runs=8"


class LakeFeedRuns64(LakeFeed):
    """By runs of 64 neighbours; pictures mixed in windows that fit into a quarter of the budget."""

    name = "lakefeed Feed, runs=64"

    def options(self, task: Task) -> FeedOptions:
        """The feed's options."""
        mixed = "runs=64,window=1024" if task.kind == "img" else "runs=64"
        return replace(super().options(task), shuffle=mixed)
