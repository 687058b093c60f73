"""What happened, told three ways at once: the status in memory, the metrics, the log.

One place for all of it, so that the three agree. Called on the event loop only.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable

from lakefeed.errors import LakefeedError, VolumeFailed
from lakefeed.format.commit import State
from lakefeed.lake.garbage import Collected
from lakefeed.lake.scrub import Scrubbed
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service.inbox import Backlog
from lakefeed.service.ingest import Outcome
from lakefeed.service.jobs import CompactionDone
from lakefeed.service.status import LakeStatus
from lakefeed.volume.base import Space

INBOX = "inbox"
# What cannot be written, and what each try of that tells anew: the name of the file, in a directory
# of its first digits, and how much room there is. What cannot be read has its name for good.
_WRITING = re.compile(
    VolumeFailed.__name__
    + ": (create|write|fsync|close|link|rename|unlink|mkdir|inbox|compaction)\\b"
)
_PASSING = re.compile(r"(/[0-9a-f]{2})?[/.-][0-9a-f]{32}\b|\d+ bytes free, found \d+")
_logger = logging.getLogger(__name__)


def inbox_job(directory: str) -> str:
    """Return what taking in one inbox is called: each succeeds and fails for itself."""
    return f"{INBOX} {directory}"


def _again(text: str, before: str | None) -> bool:
    """Tell whether this was told before: a volume fails as ever, whatever it was to write."""
    if before is None or not _WRITING.match(text):
        return text == before
    return _PASSING.sub("", text) == _PASSING.sub("", before)


class Teller:
    """Tells what happens to one lake."""

    def __init__(
        self,
        path: str,
        metrics: CompactorMetrics,
        inboxes: Iterable[str] = (),
        jobs: Iterable[str] = (),
    ) -> None:
        # As people and metrics, which are UTF-8, can be told it.
        self._path = os.fsencode(path).decode(errors="backslashreplace")
        self._metrics = metrics
        # When each inbox last got on; of one that never did, when this replica began with it.
        self._inboxes = dict.fromkeys(map(inbox_job, inboxes), 0.0)
        # Of jobs that never ended well, metrics show when this replica first had the lease: what
        # has no time cannot be late.
        self._awaited = {*jobs}
        # What the last run of compaction could not move: each run meets it again.
        self._damages: tuple[str, ...] = ()
        self.status = LakeStatus(path)
        metrics.leader.labels(self._path).set(0)

    def _log(
        self,
        level: int,
        text: str,
        job: str = "",
        unforeseen: Exception | None = None,
        **facts: object,
    ) -> None:
        extra = {"lake": self._path, "job": job, **facts}
        _logger.log(level, "%s: %s", self._path, text, extra=extra, exc_info=unforeseen)

    def problem(self, text: str) -> None:
        """Note what keeps the lake from being looked after; '' when nothing does any more."""
        if text and not _again(text, self.status.problem):
            self._log(logging.ERROR, text)
        self.status.problem = text

    def leads(self, held: bool, holder: str, token: int) -> None:
        """Note who has the lease. What waits in the inboxes is the leader's to tell."""
        if held != self.status.leader:
            without = f"no lease: {holder}" if holder else "the lease is given back"
            text = f"token {token} is ours" if held else without
            self._log(logging.INFO, text, token=token or None)
            self.waiting(())
            if not held:
                self._metrics.forget(self._path)
            for job in (*self._inboxes, *self._awaited) if held else ():
                self.advance(job)
        self.status.leader, self.status.holder, self.status.token = held, holder, token
        self._metrics.leader.labels(self._path).set(int(held))

    def success(self, job: str) -> None:
        """Note that a job ended well."""
        self.status.done(job)
        self.advance(job)

    def advance(self, job: str) -> None:
        """Note that a job gets on. Of the inboxes, metrics show the one that waits the longest."""
        when = time.time()
        if job in self._inboxes:
            self._inboxes[job] = when
            job, when = INBOX, min(self._inboxes.values())
        self._awaited.discard(job)
        self._metrics.last_success.labels(self._path, job).set(when)

    def noted(self, job: str, when: float, well: bool) -> None:
        """Tell when a job last ended `well`, as the lake says, whichever replica did it; or else
        since when the lake waits for that."""
        when = max(min(when, time.time()), self.status.last_success.get(job, 0.0))
        if well:
            self.status.last_success[job] = when
        self._awaited.discard(job)
        if self.status.leader:
            self._metrics.last_success.labels(self._path, job).set(when)

    def failure(self, job: str, error: Exception) -> None:
        """Note that a job failed; the same failure is logged once until the job ends well.

        What nobody foresaw is logged with its traceback.
        """
        unforeseen = None if isinstance(error, LakefeedError) else error
        text = f"{type(error).__name__}: {error}" if unforeseen else str(error)
        if not _again(text, self.status.last_failure.get(job)):
            self._log(logging.ERROR, f"{job} failed: {text}", job, unforeseen)
        self.status.failed(job, text)
        if job == "compaction":
            self._metrics.runs.labels(self._path, "failed").inc()

    def ended_early(self, job: str, why: str) -> None:
        """Note that a job was asked to end."""
        self._log(logging.INFO, f"{job} ended early: {why}", job)
        if job == "compaction":
            self._metrics.runs.labels(self._path, "stopped").inc()

    def conflict(self, job: str, why: str) -> None:
        """Note that somebody else committed first."""
        self.status.conflicts += 1
        self._metrics.conflicts.labels(self._path).inc()
        self._log(logging.INFO, f"{job} lost a race: {why}", job)

    def packed(self, outcome: Outcome) -> None:
        """Note a batch that was taken from an inbox."""
        self.status.files_packed += outcome.files
        self.status.bytes_ingested += outcome.bytes
        self._metrics.files_packed.labels(self._path).inc(outcome.files)
        self._metrics.ingested.labels(self._path).inc(outcome.bytes)
        self.moved(outcome.bytes, outcome.written_bytes)
        if outcome.files:
            text = f"{outcome.files} files, {outcome.bytes} bytes in snapshot {outcome.snapshot}"
            self._log(logging.INFO, text, INBOX, files=outcome.files, bytes=outcome.bytes,
                      snapshot=outcome.snapshot)  # fmt: skip

    def moved(self, read_bytes: int, written_bytes: int) -> None:
        """Note bytes read from and written to the volume."""
        status = self.status
        status.bytes_read += read_bytes
        status.bytes_written += written_bytes
        self._metrics.bytes.labels(self._path, "read").inc(read_bytes)
        self._metrics.bytes.labels(self._path, "written").inc(written_bytes)
        if status.leader:  # here and below: a job may end after the lease was lost
            self._metrics.write_amplification.labels(self._path).set(status.write_amplification)

    def waiting(self, backlogs: Iterable[Backlog]) -> None:
        """Note what waits in all inboxes of the lake."""
        found, status = list(backlogs), self.status
        status.backlog_files = sum(backlog.files for backlog in found)
        status.backlog_bytes = sum(backlog.bytes for backlog in found)
        status.ingest_lag_seconds = max((backlog.oldest_seconds for backlog in found), default=0.0)
        self._metrics.backlog_files.labels(self._path).set(status.backlog_files)
        self._metrics.backlog_bytes.labels(self._path).set(status.backlog_bytes)
        self._metrics.ingest_lag.labels(self._path).set(status.ingest_lag_seconds)

    def compacted(self, done: CompactionDone) -> None:
        """Note how a run of compaction ended."""
        self._metrics.runs.labels(self._path, done.result).inc()
        self.moved(done.read_bytes, done.written_bytes)
        before, self._damages = self._damages, done.damages
        for damage in (one for one in done.damages if one not in before):
            self._log(logging.ERROR, f"damaged, left where it is: {damage}", "compaction")
        if done.result == "conflict":
            self.conflict("compaction", "a writer or another compaction was first")
        elif done.result == "done":
            text = f"rewrote {done.read_bytes} bytes of payloads"
            self._log(logging.INFO, text, "compaction", bytes=done.read_bytes)

    def collected(self, done: Collected, orphan_bytes: int | None) -> None:
        """Note what garbage collection deleted, and what a sweep left."""
        self._metrics.vacuum_deleted.labels(self._path).inc(done.deleted_bytes)
        if done.deleted:
            text = f"deleted {done.deleted} files, {done.deleted_bytes} bytes"
            self._log(logging.INFO, text, "gc", files=done.deleted, bytes=done.deleted_bytes)
        if orphan_bytes is not None:
            self.status.orphan_bytes = orphan_bytes
            if self.status.leader:
                self._metrics.orphan_bytes.labels(self._path).set(orphan_bytes)

    def scrubbed(self, done: Scrubbed) -> None:
        """Note what verification has found."""
        self.status.corrupt_payloads = len(done.damaged)
        if self.status.leader:
            self._metrics.scrub_corrupt.labels(self._path).set(len(done.damaged))
        self._metrics.scrub_verified.labels(self._path).inc(done.verified_bytes)
        for one in done.damaged:
            text = f"damaged payload: {one.path} in pack {one.pack}"
            self._log(logging.ERROR, text, "scrub", path=one.path, pack=one.pack)

    def looked(self, state: State, space: Space, damaged: int) -> None:
        """Note what the newest snapshot consists of, and how many payloads are known damaged."""
        status, metrics, path = self.status, self._metrics, self._path
        status.corrupt_payloads = damaged
        status.show(state)
        self.room(space)
        if not status.leader:
            return
        metrics.scrub_corrupt.labels(path).set(damaged)
        metrics.index_entries.labels(path).set(status.index_entries)
        metrics.index_segments.labels(path).set(status.index_segments)
        metrics.index_bytes.labels(path).set(status.index_bytes)
        metrics.snapshot_version.labels(path).set(status.snapshot)
        metrics.snapshot_age.labels(path).set(max(time.time() - state.time_ns / 1e9, 0.0))

    def room(self, space: Space | None) -> None:
        """Note how much room is left, None where the volume does not tell. Each replica does: on a
        full volume none of them gets the lease."""
        if space is None:
            self._metrics.forget_room(self._path)
            return
        self.status.free_bytes = space.free_bytes
        self._metrics.free_bytes.labels(self._path).set(space.free_bytes)
