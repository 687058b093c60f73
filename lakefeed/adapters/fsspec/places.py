"""Where in which lake an fsspec path points, and which snapshot answers for it.

Without `lake` in the storage options a path starts with the directory of its lake. Where that ends
is found by looking: from the root down, the first directory that holds a `lake.json` is the lake,
and the rest is the path inside. A component that ends with `@tag` or `@number` and is no such
directory itself names a snapshot of the directory before the `@`. Answers are remembered. A lake is
opened under its real path, so that all ways to it through symbolic links are one lake.

A tag is resolved once and kept until `forget`, so a reader sees one snapshot throughout. Without a
snapshot in the path each call asks the volume for the newest one, at most once in
`refresh_seconds`. After a fork the child opens its lakes anew.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import dataclass

from lakefeed.errors import NotFound, VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot

# Spellings of roots (each tag is one) remembered before starting over.
ROOTS_MAX = 1000
# Each holds the list of its packs, so these are fewer.
SNAPSHOTS_MAX = 100
# What a component may say that is no directory, or none that we may look into.
_NO_LAKE_HERE = (errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Place:
    """A path inside a lake; `prefix` is what stands before it in the names that fsspec sees."""

    lake: Lake
    at: str | None
    prefix: str
    path: str

    def name(self, path: str) -> str:
        """Return the fsspec name of a path of the same lake."""
        return f"{self.prefix}{path}" if path else self.prefix.rstrip("/")


class Places:
    """The lakes of one filesystem. Safe for threads; the lock guards the tables."""

    def __init__(self, refresh_seconds: float = 0.0) -> None:
        self._refresh_seconds = refresh_seconds
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._lakes: dict[str, Lake] = {}
        self._roots: dict[str, tuple[str, str | None]] = {}
        self._kept: dict[tuple[str, str], Snapshot] = {}
        self._newest: dict[str, tuple[Snapshot, float]] = {}

    def find(self, path: str, at: str | None) -> Place:
        """Return what an absolute path means; `at` holds where the path names no snapshot."""
        self._follow_fork()
        spelled, (root, tag) = self._root(path)
        prefix = spelled.rstrip("/") + "/"
        return Place(self.lake(root), tag or at, prefix, path[len(prefix) :])

    def _root(self, path: str) -> tuple[str, tuple[str, str | None]]:
        pieces = path.split("/")
        prefixes = ["/".join(pieces[:count]) or "/" for count in range(1, len(pieces) + 1)]
        with self._lock:
            known = [(p, self._roots[p]) for p in prefixes if p in self._roots]
        if known:
            return known[0]
        for spelled in prefixes:
            found = self._look(spelled)
            if found is not None:
                with self._lock:
                    if len(self._roots) >= ROOTS_MAX:
                        self._roots.clear()
                    self._roots[spelled] = found
                return spelled, found
        raise NotFound(
            f"lake of {path!r}",
            expected=f"a directory with {layout.SUPERBLOCK} on the way",
            hint='write lakefeed:///mnt/lake/…, or create a lake with "lakefeed create"',
        )

    def _look(self, spelled: str) -> tuple[str, str | None] | None:
        root = self._open(spelled)
        if root is not None:
            return root, None
        above, mark, tag = spelled.rpartition("@")
        root = self._open(above) if mark and "/" not in tag else None
        if root is not None:
            return root, tag if tag.isdecimal() else layout.check_tag(tag)
        return None

    def _open(self, spelled: str) -> str | None:
        """Return the one name of a directory that is a lake, which is kept open; else None."""
        root = os.path.realpath(spelled)
        with self._lock:
            if root in self._lakes:
                return root
        try:
            lake = Lake.open(root)
        except NotFound:
            return None
        except VolumeFailed as error:
            if error.errno in _NO_LAKE_HERE:
                return None
            raise
        with self._lock:
            kept = self._lakes.setdefault(root, lake)
        if kept is not lake:
            lake.close()
        return root

    def lake(self, root: str) -> Lake:
        """Return the opened lake of a root that `find` has found."""
        with self._lock:
            lake = self._lakes.get(root)
        if lake is not None:
            return lake
        lake = Lake.open(root)
        with self._lock:
            return self._lakes.setdefault(root, lake)

    def snapshot(self, place: Place) -> Snapshot:
        """Return the snapshot that answers for a place."""
        self._follow_fork()
        name = place.lake.name
        if place.at is not None:
            with self._lock:
                kept = self._kept.get((name, place.at))
            if kept is not None:
                return kept
            snapshot = place.lake.snapshot(place.at)
            with self._lock:
                if len(self._kept) >= SNAPSHOTS_MAX:
                    self._kept.clear()
                return self._kept.setdefault((name, place.at), snapshot)
        now = time.monotonic()
        with self._lock:
            held = self._newest.get(name)
        if held is not None and now - held[1] < self._refresh_seconds:
            return held[0]
        snapshot = place.lake.snapshot()
        with self._lock:
            self._newest[name] = (snapshot, now)
        return snapshot

    def forget(self) -> None:
        """Forget which snapshots were found, so that tags and newest ones are looked up again."""
        with self._lock:
            self._kept.clear()
            self._newest.clear()

    def forget_newest(self) -> None:
        """Look for the newest snapshots again: something was just written."""
        with self._lock:
            self._newest.clear()

    def close(self) -> None:
        """Close the lakes; the next use opens them again. Works twice."""
        with self._lock:
            lakes = list(self._lakes.values())
            self._lakes.clear()
            self._kept.clear()
            self._newest.clear()
        for lake in lakes:
            lake.close()

    def _follow_fork(self) -> None:
        if self._pid == os.getpid():
            return
        # A lock held by another thread at the fork stays held here: nothing of it may be used.
        self._lock = threading.Lock()
        self._lakes, self._roots, self._kept, self._newest = {}, {}, {}, {}
        self._pid = os.getpid()
