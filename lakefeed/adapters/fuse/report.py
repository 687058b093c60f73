"""A mount's counters for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from lakefeed.adapters.fuse.operations import ReadOperations
from lakefeed.adapters.fuse.writing import WriteOperations
from lakefeed.errors import Invalid, VolumeFailed
from lakefeed.metrics.fuse import FuseReading, OpReading, serve_mount

_PORT_MAX = 65_535


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


def listen(where: str) -> Callable[[ReadOperations], None]:
    """Serve a page at HOST:PORT until the process ends; what this returns lets it show a mount.

    Before mounting, so that Invalid and VolumeFailed (with the errno) leave no mount behind.
    """
    host, _, port = where.rpartition(":")
    if not port.isdecimal() or int(port) > _PORT_MAX:
        raise Invalid(f"--listen {where}", expected="HOST:PORT, such as 127.0.0.1:9464")
    try:
        show = serve_mount(host.strip("[]") or "127.0.0.1", int(port))
    except OSError as error:
        raise VolumeFailed(f"listen on {where}", found=str(error), errno=error.errno) from error
    return lambda operations: show(lambda: reading(operations))
