"""What a daemon knows of its lakes, kept in memory: for probes, for metrics, for `lakefeed top`.

Nothing here touches a volume, so it can be asked while one hangs. Written and read on the event
loop only.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from lakefeed.format.commit import State


@dataclass(slots=True)
class LakeStatus:
    """One lake as its keeper sees it. Times are seconds of this machine's clock, for people."""

    path: str
    leader: bool = False
    holder: str = ""
    token: int = 0
    opened: bool = False
    problem: str = ""
    jobs: list[str] = field(default_factory=list)
    backlog_files: int = 0
    backlog_bytes: int = 0
    ingest_lag_seconds: float = 0.0
    files_packed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_ingested: int = 0
    conflicts: int = 0
    orphan_bytes: int = 0
    corrupt_payloads: int = 0
    snapshot: int = 0
    snapshot_time_ns: int = 0
    packs: int = 0
    unmerged_packs: int = 0
    index_entries: int = 0
    index_segments: int = 0
    index_bytes: int = 0
    free_bytes: int = 0
    last_success: dict[str, float] = field(default_factory=dict)
    last_failure: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether the lake is looked after, by this replica or by another one."""
        return self.opened and not self.problem

    @property
    def write_amplification(self) -> float:
        """Bytes written to packs and index for each byte taken in; 0 before the first."""
        return self.bytes_written / self.bytes_ingested if self.bytes_ingested else 0.0

    def begin(self, job: str) -> None:
        """Note that a job is at work; inboxes are beside the other jobs."""
        self.jobs.append(job)

    def end(self, job: str) -> None:
        """Note that a job is at work no more."""
        self.jobs.remove(job)

    def done(self, job: str) -> None:
        """Note that a job ended well."""
        self.last_success[job] = time.time()
        self.last_failure.pop(job, None)

    def failed(self, job: str, problem: str) -> None:
        """Note why a job did not end well."""
        self.last_failure[job] = problem

    def show(self, state: State) -> None:
        """Take over what the newest snapshot consists of."""
        packs = state.packs.values()
        segments = state.segments.values()
        unmerged = [info.sealed for info in packs if not info.indexed]
        self.snapshot, self.snapshot_time_ns = state.number, state.time_ns
        self.packs, self.unmerged_packs = len(packs), len(unmerged)
        self.index_segments = len(segments)
        self.index_entries = sum(s.rows for s in segments) + sum(pack.rows for pack in unmerged)
        self.index_bytes = sum(segment.bytes for segment in segments)

    def facts(self) -> dict[str, Any]:
        """Return everything as plain values."""
        facts = asdict(self)
        facts["job"] = ", ".join(facts.pop("jobs"))
        return {
            **facts,
            "ready": self.ready,
            "write_amplification": round(self.write_amplification, 3),
        }
