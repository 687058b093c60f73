"""What a check found, as values: findings, counters, and the report that holds them.

A `Finding` is one thing that is not as it should be: what, where, expected, found, what to do next.
A `Collector` gathers them while the parts of a check run; it keeps the first `FINDINGS_MAX` and
counts all, so that a lake damaged everywhere does not fill the memory. Pure; does no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lakefeed.errors import LakefeedError

# Enough to see what kind of damage it is; the report says how many more there were.
FINDINGS_MAX = 1000

# Called with the stage, and how much of how much of it is done.
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `kind` is one of the words in `KINDS`."""

    kind: str
    subject: str
    expected: str
    found: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.kind}: {self.subject}: expected {self.expected}, found {self.found}"
        return f"{text}; {self.hint}" if self.hint else text


KINDS = {
    "log": "a commit is missing, damaged or does not follow from the one before",
    "checkpoint": "a checkpoint differs from the commits it stands for",
    "ref": "a tag or pin is damaged, or names a snapshot that is not there",
    "missing": "a pack or segment of the snapshot, or of a tagged one, is not on the volume",
    "file": "a pack or segment is not the file that its commit recorded",
    "rows": "the rows of a pack or segment are damaged, unsorted or impossible",
    "order": "runs of the offset index overlap, so the newest row of a path is not clear",
    "index": "the merged offset index and the packs' own rows disagree",
    "dangling": "a live row points into a pack that the snapshot does not have",
    "shadowed": "a path is a file and has paths below it",
    "payload": "the bytes of a file are not what was written",
}


@dataclass(frozen=True, slots=True)
class Counters:
    """How much was looked at. Orphans are files that no commit names: work for gc, no damage. Those
    packs among them that are `ahead` may be of commits behind the newest one that there is."""

    commits: int = 0
    checkpoints: int = 0
    packs: int = 0
    segments: int = 0
    rows: int = 0
    live_rows: int = 0
    payloads: int = 0
    payload_bytes: int = 0
    orphans: int = 0
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a check of one snapshot. `findings` holds the first of `findings_total`."""

    snapshot: int
    deep: bool
    findings: tuple[Finding, ...]
    findings_total: int
    counters: Counters

    @property
    def clean(self) -> bool:
        """True when nothing was found."""
        return not self.findings_total


class Collector:
    """Gathers findings and counts. Used by one thread."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self.total = 0
        self.kinds: set[str] = set()
        self._counts: Counter[str] = Counter()

    def add(
        self, kind: str, subject: str, expected: object, found: object, hint: str | None = None
    ) -> None:
        """Note one finding."""
        assert kind in KINDS, f"no such kind: {kind}"
        self.total += 1
        self.kinds.add(kind)
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(kind, subject, str(expected), str(found), hint))

    def add_error(self, kind: str, error: LakefeedError, hint: str | None = None) -> None:
        """Note what an error says as a finding."""
        expected = "to be readable" if error.expected is None else error.expected
        found = type(error).__name__ if error.found is None else error.found
        self.add(kind, error.subject, expected, found, hint)

    def more(self, kind: str, subject: str, count: int) -> None:
        """Note that there are `count` more findings like the last ones."""
        if count > 0:
            self.add(kind, subject, "none of the kind", f"{count} more like this")

    def count(self, name: str, amount: int = 1) -> None:
        """Add to one of the counters."""
        self._counts[name] += amount

    def report(self, snapshot: int, deep: bool) -> Report:
        """Return what was gathered."""
        counters = Counters(**self._counts)
        return Report(snapshot, deep, tuple(self._findings), self.total, counters)
