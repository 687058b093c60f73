"""What the service is told: frozen values, checked by whoever reads flags and files (`cli`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.garbage import Retention
from lakefeed.service.window import Window

# A service runs often, so it may wait until several small packs make a big one: fewer rewrites.
PACKS_MIN = 16


@dataclass(frozen=True, slots=True)
class InboxOptions:
    """A directory whose files are taken in below `prefix`.

    A pack is written at `pack_files`, at `pack_bytes`, or when the oldest file has waited for
    `pack_age_seconds`. Files above `big_bytes` get a pack of their own. `threads` read at once. Of
    what is left, `names_max` are named and the others counted: more lines than anybody reads, where
    a wrong permission concerns a million files.
    """

    directory: str
    prefix: str = ""
    quiet_seconds: float = 5.0
    pack_files: int = 10_000
    pack_bytes: int = 64 << 20
    pack_age_seconds: float = 30.0
    big_bytes: int = 64 << 20
    keep: bool = False
    threads: int = 16
    names_max: int = 1000


@dataclass(frozen=True, slots=True)
class LakeOptions:
    """One lake to look after, and its inboxes."""

    path: str
    inboxes: tuple[InboxOptions, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What a daemon does, for how many lakes, how often. An interval of 0 leaves a job out."""

    lakes: tuple[LakeOptions, ...]
    name: str
    interval_seconds: float = 30.0
    compaction: CompactionOptions = field(
        default_factory=lambda: CompactionOptions(packs_min=PACKS_MIN)
    )
    rate_bytes: float | None = None
    window: Window | None = None
    gc_interval_seconds: float = 3600.0
    retention: Retention = field(default_factory=Retention)
    scrub_interval_seconds: float = 24 * 3600.0
    scrub_seconds: float = 3600.0
    lease_seconds: float = 30.0
    timeout_seconds: float = 600.0
    listen: tuple[str, int] | None = ("127.0.0.1", 9464)
