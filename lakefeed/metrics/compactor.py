"""The metrics of the packing service: one set for each daemon, one label: the lake.

They are declared here and nowhere else; `docs/METRICS.md` says what they mean. A `CompactorMetrics`
owns its registry, so that two daemons in one process (as in tests) do not add up.
"""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST


class CompactorMetrics:
    """What a daemon tells Prometheus. Safe for threads, as prometheus_client is."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = self._counter, self._gauge
        self.runs = counter("lakefeed_compactor_runs_total", "Compaction runs by how they ended.",
                            "result")  # fmt: skip
        self.files_packed = counter("lakefeed_compactor_files_packed_total",
                                    "Files taken from inboxes and committed.")  # fmt: skip
        self.ingested = counter("lakefeed_compactor_ingested_bytes_total",
                                "Bytes taken from inboxes and committed.")  # fmt: skip
        self.bytes = counter("lakefeed_compactor_bytes_total",
                             "Bytes read from and written to the volume by inbox and compaction.",
                             "direction")  # fmt: skip
        self.backlog_files = gauge("lakefeed_compactor_backlog_files",
                                   "Files waiting in inboxes at the last scan.")  # fmt: skip
        self.backlog_bytes = gauge("lakefeed_compactor_backlog_bytes",
                                   "Bytes waiting in inboxes at the last scan.")  # fmt: skip
        self.ingest_lag = gauge("lakefeed_compactor_ingest_lag_seconds",
                                "Age of the oldest file waiting in an inbox.")  # fmt: skip
        self.conflicts = counter("lakefeed_compactor_commit_conflicts_total",
                                 "Commits that lost against somebody else's.")  # fmt: skip
        self.orphan_bytes = gauge("lakefeed_compactor_orphan_bytes",
                                  "Bytes that no commit names, at the last sweep.")  # fmt: skip
        self.leader = gauge("lakefeed_compactor_leader", "1 while this replica holds the lease.")
        # Not `job`: Prometheus gives that name to every target, and would call ours exported_job.
        self.last_success = gauge("lakefeed_compactor_last_success_timestamp_seconds",
                                  "When a task last ended well.", "task")  # fmt: skip
        self.write_amplification = gauge(
            "lakefeed_compactor_write_amplification_ratio",
            "Bytes written to packs and index for each byte taken in, since the daemon started.",
        )
        self.vacuum_deleted = counter("lakefeed_vacuum_deleted_bytes_total",
                                      "Bytes that garbage collection deleted.")  # fmt: skip
        self.scrub_corrupt = gauge("lakefeed_scrub_corrupt_payloads",
                                   "Known damaged payloads that are still needed.")  # fmt: skip
        self.scrub_verified = counter("lakefeed_scrub_verified_bytes_total",
                                      "Payload bytes that verification has read.")  # fmt: skip
        self.index_entries = gauge("lakefeed_index_entries", "Rows of the offset index.")
        self.index_segments = gauge("lakefeed_index_segments", "Segments of the offset index.")
        self.index_bytes = gauge("lakefeed_index_bytes", "Bytes of all segments.")
        self.snapshot_version = gauge("lakefeed_snapshot_version", "Number of the newest commit.")
        self.snapshot_age = gauge("lakefeed_snapshot_age_seconds", "Age of the newest commit.")
        self.free_bytes = gauge("lakefeed_volume_free_bytes", "Room left on the lake's volume.")

    def forget(self, lake: str) -> None:
        """Say no more how a lake is: the replica that holds its lease knows better now."""
        for gauge in (
            self.orphan_bytes, self.write_amplification, self.scrub_corrupt, self.index_entries,
            self.index_segments, self.index_bytes, self.snapshot_version, self.snapshot_age,
        ):  # fmt: skip
            self._forget(gauge, lake)

    def forget_room(self, lake: str) -> None:
        """Say no more how much room there is: the volume does not tell."""
        self._forget(self.free_bytes, lake)

    def _forget(self, gauge: Gauge, lake: str) -> None:
        with suppress(KeyError):  # older versions of the library want it to be there
            gauge.remove(lake)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("lake", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, ("lake", *labels), registry=self.registry)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
