"""Which rank this process is: from torch.distributed where it runs, else from the feed's options.

"auto" asks the default process group, unless the options name a world of their own. A process group
gives the rank in it, for trainings where only some ranks see different data (a data-parallel mesh
dimension beside a tensor-parallel one). None leaves the options as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import distributed

from lakefeed.errors import Invalid
from lakefeed.feed.feed import FeedOptions


def with_rank(options: FeedOptions, group: Any) -> FeedOptions:
    """Return the options with this process's rank and world size filled in."""
    if group is None:
        return options
    if isinstance(group, str):
        if group != "auto":
            raise Invalid("group", expected='"auto", None or a process group', found=repr(group))
        if options.world_size > 1 or not running():
            return options
        group = None
    elif not running():
        raise Invalid("group", expected="torch.distributed to be initialized")
    rank, world_size = distributed.get_rank(group), distributed.get_world_size(group)
    if rank < 0:
        raise Invalid("group", expected="a process group that this process belongs to")
    return replace(options, rank=rank, world_size=world_size)


def running() -> bool:
    """Tell whether torch.distributed is there and initialized."""
    return distributed.is_available() and distributed.is_initialized()
