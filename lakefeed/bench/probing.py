"""What `lakefeed doctor` tries on a volume, beyond reading options: small, real, cleaned up.

Each probe makes a file or two in a directory of its own below the one asked about, and says what
came out as a `Verdict`. A probe that is refused is a finding, not a failure; a volume that cannot
even be written to is told by the first of them.
"""

from __future__ import annotations

import errno
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lakefeed.bench import mountstats
from lakefeed.bench.mounts import (
    BAD,
    OK,
    WARNING,
    Verdict,
    judge_options,
    judge_read_ahead,
    mount_of,
    read_ahead_bytes,
)
from lakefeed.errors import NotFound
from lakefeed.volume.deadline import DeadlineVolume
from lakefeed.volume.posix import PosixVolume

# NTP keeps clocks within milliseconds; leases and grace periods tolerate a few seconds.
SKEW_SECONDS_MAX = 2.0
INODES_FREE_MIN = 0.05
INODES_COUNT_MIN = 100_000
FSYNC_TRIALS = 5
NO_DIRECTORY = "name a directory that is there, on the volume in question"


def examine_in_time(directory: str, timeout_seconds: float) -> dict[str, Any]:
    """Return what `examine` does; VolumeFailed if that takes longer, 0 waits for ever."""
    if not timeout_seconds:
        return examine(directory)
    volume = DeadlineVolume(PosixVolume(directory), timeout_seconds)
    return volume.run("examination", "", lambda: examine(directory))


def examine(directory: str) -> dict[str, Any]:
    """Return mount facts and verdicts for a directory; NotFound if it is none."""
    if not os.path.isdir(directory):
        raise NotFound(f"directory {directory}", hint=NO_DIRECTORY)
    mount = mount_of(directory)
    found: list[Verdict] = []
    if mount is not None:
        found += judge_options(mount)
        found.append(judge_read_ahead(mount, read_ahead_bytes(mount)))
    found.append(judge_inodes(os.statvfs(directory)))
    found += probes(directory)
    found += _server(mount.point if mount is not None and mount.is_nfs else None)
    return {
        "directory": os.path.abspath(directory),
        "mount": None if mount is None else f"{mount.kind} {mount.source} at {mount.point}",
        "options": None if mount is None else mount.option_text,
        "verdicts": [
            {"name": v.name, "found": v.found, "level": v.level, "advice": v.advice} for v in found
        ],
    }


def probes(directory: str) -> list[Verdict]:
    """Return what came out of writing, linking, renaming and syncing a few small files."""
    try:
        with scratch(directory) as place:
            return [
                _attempt("link", lambda: _link(place)),
                _attempt("rename", lambda: _rename(place)),
                _attempt("exclusive create", lambda: _exclusive(place)),
                _attempt("clock", lambda: _clock(place)),
                _attempt("root_squash", lambda: _owner(place)),
                _attempt("fsync", lambda: _fsync(place)),
            ]
    except OSError as error:
        advice = "a lake needs a writer; whoever only reads one that is here already can do without"
        return [Verdict("write", _why(error), BAD, advice)]


@contextmanager
def scratch(directory: str) -> Iterator[Path]:
    """Lend a directory of its own on the volume, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".lakefeed-probe-", dir=directory) as name:
        yield Path(name)


def _attempt(name: str, probe: Callable[[], Verdict]) -> Verdict:
    try:
        return probe()
    except OSError as error:
        return Verdict(
            name, _why(error), BAD, "this call is refused here; ask the file server's log"
        )


def _why(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO).lower()


def _link(place: Path) -> Verdict:
    (place / "one").write_bytes(b"1")
    try:
        os.link(place / "one", place / "two")
    except OSError as error:
        advice = "lakefeed commits by link(2); this volume has no hard links and cannot hold a lake"
        return Verdict("link", _why(error), BAD, advice)
    try:
        os.link(place / "one", place / "two")
    except FileExistsError:
        return Verdict("link", "supported, and refuses a taken name", OK)
    return Verdict("link", "replaced a taken name", BAD, "two writers could overwrite each other")


def _rename(place: Path) -> Verdict:
    (place / "old").write_bytes(b"1")
    (place / "new").write_bytes(b"2")
    os.replace(place / "new", place / "old")
    same = (place / "old").read_bytes() == b"2"
    advice = "" if same else "tags are moved by renaming over the old one; they would be stale here"
    return Verdict(
        "rename", "replaces" if same else "old bytes remain", OK if same else BAD, advice
    )


def _exclusive(place: Path) -> Verdict:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(place / "mine", flags))
    try:
        os.close(os.open(place / "mine", flags))
    except FileExistsError:
        return Verdict("exclusive create", "refuses a taken name", OK)
    return Verdict("exclusive create", "opened twice", BAD, "packs could be overwritten")


def _clock(place: Path) -> Verdict:
    """Compare the server's time stamp of a new file with this machine's clock."""
    before = time.time()
    (place / "now").write_bytes(b"1")
    after = time.time()
    return judge_skew(os.stat(place / "now").st_mtime, before, after)


def judge_skew(stamp: float, before: float, after: float) -> Verdict:
    """Return what a server's time stamp says, given this machine's time around the write."""
    skew = stamp - after if stamp > after else min(0.0, stamp - before)
    # File servers stamp in steps of a tick, up to 10 ms behind.
    found = f"{skew:+.3f} s" if abs(skew) > 0.01 else "agrees with the server's"
    if abs(skew) <= SKEW_SECONDS_MAX:
        return Verdict("clock", found, OK)
    advice = (
        "run NTP on both: lakefeed uses the server's time throughout and stays right, but "
        "other programs, and people reading times, do not"
    )
    return Verdict("clock", found, WARNING, advice)


def _owner(place: Path) -> Verdict:
    (place / "owned").write_bytes(b"1")
    owner, me = os.stat(place / "owned").st_uid, os.geteuid()
    if owner == me:
        squashed = "root stays root" if me == 0 else f"files belong to us, uid {me}"
        return Verdict("root_squash", squashed, OK)
    advice = (
        f"files made as uid {me} belong to uid {owner}: run lakefeed as the owner of the data, "
        "so that every writer and the collector may read and remove each other's files"
    )
    return Verdict("root_squash", f"uid {me} becomes {owner}", WARNING, advice)


def _fsync(place: Path) -> Verdict:
    seconds = []
    for trial in range(FSYNC_TRIALS):
        descriptor = os.open(place / f"sync{trial}", os.O_CREAT | os.O_WRONLY)
        try:
            os.write(descriptor, b"x" * 4096)
            began = time.perf_counter()
            os.fsync(descriptor)
            seconds.append(time.perf_counter() - began)
        finally:
            os.close(descriptor)
    median = statistics.median(seconds)
    advice = "" if median < 0.1 else "every commit waits for three of these: gather more files"
    return Verdict("fsync", f"{median * 1e3:.1f} ms", OK if not advice else WARNING, advice)


def judge_inodes(space: os.statvfs_result) -> Verdict:
    """Return how many more files fit; plain small files run out of inodes before bytes."""
    if not space.f_files:
        return Verdict("inodes", "not limited", OK)
    free, share = space.f_favail, space.f_favail / space.f_files
    found = f"{free:,} of {space.f_files:,} free ({share:.0%})"
    if share >= INODES_FREE_MIN and free >= INODES_COUNT_MIN:
        return Verdict("inodes", found, OK)
    advice = "few inodes are left for plain files; a lake needs one for each pack, not each file"
    return Verdict("inodes", found, WARNING, advice)


def _server(point: str | None) -> list[Verdict]:
    """Return how the server answers, from the kernel's own counters."""
    if point is None:
        return []
    mount = mountstats.read(point)
    if mount is None:
        return []
    return judge_counters(mount)


def judge_counters(mount: mountstats.NfsMount) -> list[Verdict]:
    """Return retransmissions and the slowest common operations since the mount was made."""
    calls = sum(operation.calls for operation in mount.operations.values())
    again = sum(max(0, o.transmissions - o.calls) for o in mount.operations.values())
    level = WARNING if calls and again > calls / 1000 else OK
    advice = "more than one call in 1,000 is sent twice: look at the network" if level != OK else ""
    found = [Verdict("retransmissions", f"{again:,} of {calls:,} calls", level, advice)]
    for name in ("GETATTR", "LOOKUP", "OPEN", "READ", "WRITE"):
        operation = mount.operations.get(name)
        if operation is not None and operation.calls:
            each = operation.round_trip_ms / operation.calls
            text = f"{operation.calls:,} calls, {each:.2f} ms round trip"
            found.append(Verdict(f"NFS {name}", text, OK))
    return found


def worst(verdicts: list[dict[str, str]]) -> str:
    """Return the worst level among verdicts."""
    levels = {verdict["level"] for verdict in verdicts}
    return next((level for level in (BAD, WARNING) if level in levels), OK)
