"""A snapshot that other processes can open again: what every framework's workers need.

A place is a source (the path of a lake, an opened lake, or a snapshot) and the number of the
snapshot that was the newest when the place was made, so that all processes and all epochs see the
same files (I3 as long as the snapshot is kept). A path is opened anew by each process that uses it,
and so is an opened lake or a snapshot that was sent there, which only one in a directory can be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from lakefeed.feed.fetching import Patience
from lakefeed.feed.sources import Source, check_source
from lakefeed.lake.federated import FederatedSnapshot
from lakefeed.lake.federation import Federation
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot


class Place:
    """Where a snapshot is, and which one."""

    def __init__(
        self, source: str | os.PathLike[str] | Lake | Snapshot | FederatedSnapshot, number: int
    ) -> None:
        self.source = source
        self.number = number

    @classmethod
    def of(cls, source: Source) -> Place:
        """Return the place of a source's newest snapshot, or of the snapshot itself."""
        check_source(source)
        if isinstance(source, Federation):
            source = source.snapshot()
        if isinstance(source, Snapshot | FederatedSnapshot):
            return cls(source, source.number)
        if isinstance(source, Lake):
            return cls(source, source.snapshot().number)
        with Lake.open(source) as lake:
            return cls(os.path.abspath(os.fspath(source)), lake.snapshot().number)

    @contextmanager
    def opened(self) -> Iterator[Snapshot]:
        """Lend the snapshot; what this opened is closed afterwards."""
        source, run = self.source, Patience.for_look_ups().run
        if isinstance(source, Snapshot | FederatedSnapshot):
            yield cast("Snapshot", source)  # a federation's has all that is asked of it (`View`)
        elif isinstance(source, Lake):
            yield run(lambda: source.snapshot(self.number))
        else:
            with run(lambda: Lake.open(source)) as lake:
                yield run(lambda: lake.snapshot(self.number))
