"""A mount's counters for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from lakefeed.adapters.fuse.operations import ReadOperations
from lakefeed.adapters.fuse.writing import WriteOperations
from lakefeed.errors import VolumeFailed
from lakefeed.metrics.fuse import FuseReading, OpReading, serve_mount


def reading(operations: ReadOperations) -> FuseReading:
    """Return the counters of this moment. Safe from any thread: it only looks."""
    stats, cache = operations.stats, operations.reads.stats
    pending = operations.pending if isinstance(operations, WriteOperations) else None
    return FuseReading(
        ops={n: OpReading(op.done, op.failed, op.seconds) for n, op in list(stats.ops.items())},
        open_handles=stats.open_handles,
        inodes=len(operations.tree.inodes),
        cache_hits=cache.hits,
        cache_misses=cache.misses,
        cache_bytes=cache.held_bytes,
        fetched_bytes=cache.fetched_bytes,
        pending_changes=0 if pending is None else pending.count,
        spool_bytes=0 if pending is None else pending.held_bytes,
        commits=0 if pending is None else pending.commits,
        failed_commits=0 if pending is None else pending.failed_commits,
        unforeseen=stats.unforeseen,
        snapshot=operations.tree.view.snapshot.number,
    )


def listen(host: str, port: int) -> Callable[[ReadOperations], None]:
    """Serve a page until the process ends; what this returns lets it show a mount.

    Before mounting, so that VolumeFailed (with the errno) leaves no mount behind.
    """
    try:
        show = serve_mount(host, port)
    except OSError as error:
        subject = f"listen on {host}:{port}"
        raise VolumeFailed(subject, found=str(error), errno=error.errno) from error
    return lambda operations: show(lambda: reading(operations))
