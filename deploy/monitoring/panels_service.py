"""The dashboard's lower half: ingest, compaction, garbage, index, volume and mounts."""

from __future__ import annotations

from queries import BY_LAKE, LAKE, LAKE_NAME, Panel, Query, Row, of_lake, rate

RUNS = "lakefeed_compactor_runs_total"
LAST_SUCCESS = "lakefeed_compactor_last_success_timestamp_seconds"
HITS = rate("lakefeed_fuse_cache_hits_total", "instance")
MISSES = rate("lakefeed_fuse_cache_misses_total", "instance")

ROWS = (
    Row(
        "Ingest",
        (
            Panel(
                "Ingest lag",
                "s",
                (Query(of_lake("max", "lakefeed_compactor_ingest_lag_seconds"), LAKE_NAME),),
                "Age of the oldest complete file that is not in the lake yet; 5 minutes alert.",
            ),
            Panel(
                "Backlog",
                "short",
                (Query(of_lake("max", "lakefeed_compactor_backlog_files"), f"files {LAKE_NAME}"),),
                "Files that wait to be packed.",
            ),
            Panel(
                "Backlog bytes",
                "bytes",
                (Query(of_lake("max", "lakefeed_compactor_backlog_bytes"), LAKE_NAME),),
                "The same in bytes.",
            ),
            Panel(
                "Files packed",
                "ops",
                (
                    Query(
                        rate("lakefeed_compactor_files_packed_total", BY_LAKE, LAKE),
                        LAKE_NAME,
                    ),
                ),
                "Files a second that became durable in the lake.",
            ),
            Panel(
                "Commit conflicts",
                "ops",
                (
                    Query(
                        rate("lakefeed_compactor_commit_conflicts_total", BY_LAKE, LAKE),
                        LAKE_NAME,
                    ),
                ),
                "Commits that lost against another writer and were done again.",
            ),
            Panel(
                "Snapshot age",
                "s",
                (Query(of_lake("min", "lakefeed_snapshot_age_seconds"), LAKE_NAME),),
                "Time since the newest commit.",
            ),
        ),
    ),
    Row(
        "Compaction and garbage",
        (
            Panel(
                "Compaction bandwidth",
                "Bps",
                (
                    Query(
                        rate("lakefeed_compactor_bytes_total", f"{BY_LAKE}, direction", LAKE),
                        f"{{{{direction}}}} {LAKE_NAME}",
                    ),
                ),
                "What the background takes from the volume; bounded by --rate.",
            ),
            Panel(
                "Runs",
                "short",
                (
                    Query(
                        f"sum by ({BY_LAKE}, result) (increase({RUNS}{LAKE}[1h]))",
                        f"{{{{result}}}} {LAKE_NAME}",
                    ),
                ),
                "Compactor runs an hour by how they ended.",
            ),
            Panel(
                "Time since the last success",
                "s",
                (
                    Query(
                        f"time() - max by ({BY_LAKE}, task) ({LAST_SUCCESS}{LAKE})",
                        f"{{{{task}}}} {LAKE_NAME}",
                    ),
                ),
                "Compaction, garbage collection and scrub.",
            ),
            Panel(
                "Write amplification",
                "short",
                (
                    Query(
                        of_lake("max", "lakefeed_compactor_write_amplification_ratio"),
                        LAKE_NAME,
                    ),
                ),
                "Bytes written for each byte taken in, since the daemon started; what it rewrites "
                "first came in before. At most 2.5 in the long run.",
            ),
            Panel(
                "Orphans",
                "bytes",
                (Query(of_lake("max", "lakefeed_compactor_orphan_bytes"), LAKE_NAME),),
                "Bytes that no commit names: the work of writers that died.",
            ),
            Panel(
                "Collected",
                "Bps",
                (
                    Query(
                        rate("lakefeed_vacuum_deleted_bytes_total", BY_LAKE, LAKE),
                        LAKE_NAME,
                    ),
                ),
                "Bytes that garbage collection gave back.",
            ),
            Panel(
                "Scrub",
                "Bps",
                (
                    Query(
                        rate("lakefeed_scrub_verified_bytes_total", BY_LAKE, LAKE),
                        f"verified {LAKE_NAME}",
                    ),
                ),
                "Bytes read back and compared with their checksum.",
            ),
            Panel(
                "Corrupt payloads",
                "short",
                (Query(of_lake("max", "lakefeed_scrub_corrupt_payloads"), LAKE_NAME),),
                "Damage at rest. Anything but zero alerts.",
            ),
            Panel(
                "Leaders",
                "short",
                (Query(of_lake("sum", "lakefeed_compactor_leader"), LAKE_NAME),),
                "One for each lake.",
            ),
        ),
    ),
    Row(
        "Index and volume",
        (
            Panel(
                "Files in the index",
                "short",
                (Query(of_lake("max", "lakefeed_index_entries"), LAKE_NAME),),
                "Rows of the offset index.",
            ),
            Panel(
                "Index bytes for each file",
                "bytes",
                (
                    Query(
                        of_lake("max", "lakefeed_index_bytes")
                        + " / "
                        + of_lake("max", "lakefeed_index_entries"),
                        LAKE_NAME,
                    ),
                ),
                "16 or less once the lake has settled.",
            ),
            Panel(
                "Segments",
                "short",
                (Query(of_lake("max", "lakefeed_index_segments"), LAKE_NAME),),
                "Files of the merged index. A number that only grows: merging stands still.",
            ),
            Panel(
                "Free on the volume",
                "bytes",
                (Query(of_lake("min", "lakefeed_volume_free_bytes"), LAKE_NAME),),
                "Below 64 GiB compaction may not start.",
            ),
        ),
    ),
    Row(
        "Mounts",
        (
            Panel(
                "Operations",
                "ops",
                (Query(rate("lakefeed_fuse_ops_total", "op"), "{{op}}"),),
                "What programs do through FUSE.",
            ),
            Panel(
                "Failed operations",
                "ops",
                (Query(rate("lakefeed_fuse_ops_total", "op", '{result="error"}'), "{{op}}"),),
                "Looking for what is not there is daily bread; reads that fail alert.",
            ),
            Panel(
                "Time an operation takes",
                "s",
                (
                    Query(
                        rate("lakefeed_fuse_op_seconds_total", "op")
                        + " / "
                        + rate("lakefeed_fuse_ops_total", "op"),
                        "{{op}}",
                    ),
                ),
                "Mean in the daemon, waiting for the volume and for commits included.",
            ),
            Panel(
                "Cache hits",
                "percentunit",
                (
                    Query(
                        f"{HITS} / ({HITS} + {MISSES})",
                        "{{instance}}",
                    ),
                ),
                "Blocks and payloads found in the daemon's cache.",
                most=1,
            ),
            Panel(
                "Changes that wait for a commit",
                "short",
                (
                    Query("lakefeed_fuse_pending_changes", "names {{instance}}"),
                    Query(
                        "rate(lakefeed_fuse_failed_commits_total[5m])", "failed commits a second"
                    ),
                ),
                "Of writable mounts. They are durable once they are committed.",
            ),
            Panel(
                "Open files",
                "short",
                (Query("lakefeed_fuse_open_handles", "{{instance}}"),),
                "Handles that programs hold.",
            ),
        ),
    ),
)
