"""Which mount a directory is on, its options, and what they mean for a lake: facts and verdicts.

Reading is `mount_of` (from /proc/self/mountinfo); judging is pure. NFS options are judged by the
rules that nfs(5) and the field give: what loses data is bad, what costs speed or freshness is a
warning, each with what to do instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lakefeed.volume.mountinfo import Mount, parse_mountinfo

OK = "ok"
WARNING = "warning"
BAD = "bad"

MIB = 1 << 20
# The client's own maximum; smaller means more round trips for the same bytes.
RSIZE_WANTED = MIB
# Azure NetApp: 128 KiB (the default of RHEL 8.3+ and Ubuntu 18.04+) gave 300 MB/s, 2.5 MiB 850.
READ_AHEAD_WANTED = MIB


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing looked at: what was found, what that is worth, and what to do."""

    name: str
    found: str
    level: str
    advice: str = ""


def mount_of(where: str | os.PathLike[str], mountinfo: str | None = None) -> Mount | None:
    """Return the mount that a directory is on, or None where the kernel does not say."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    path = os.path.realpath(where)
    best = None
    for mount in parse_mountinfo(mountinfo):
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # Of two mounts on one point the later one is on top.
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def judge_options(mount: Mount) -> list[Verdict]:
    """Return what the mount options mean; only NFS has options that matter here."""
    if not mount.is_nfs:
        return [
            Verdict("mount", f"{mount.kind} at {mount.point}", OK, "not NFS: no options to judge")
        ]
    options = mount.options
    return [
        Verdict("mount", f"{mount.kind} {mount.source} at {mount.point}", OK),
        _version(options),
        _hard(options),
        _rsize(options),
        _nconnect(options),
        _lookupcache(options),
        _attributes(options),
    ]


def _version(options: Mapping[str, str]) -> Verdict:
    version = options.get("vers", "?")
    advice = (
        ""
        if version in ("4.1", "4.2")
        else ("vers=4.1 or 4.2 has sessions: a repeated call is answered from the server's memory")
    )
    return Verdict("vers", version, OK if not advice else WARNING, advice)


def _hard(options: Mapping[str, str]) -> Verdict:
    if "soft" in options or "softerr" in options:
        found = "soft" if "soft" in options else "softerr"
        advice = "mount hard: a soft mount gives up on writes and can lose data silently (nfs(5))"
        return Verdict("soft", found, BAD, advice)
    return Verdict("soft", "hard", OK)


def _rsize(options: Mapping[str, str]) -> Verdict:
    size = int(options.get("rsize", "0") or 0)
    if size >= RSIZE_WANTED:
        return Verdict("rsize", f"{size:,} bytes", OK)
    advice = "mount with rsize=1048576,wsize=1048576; the server may lower it"
    return Verdict("rsize", f"{size:,} bytes", WARNING, advice)


def _nconnect(options: Mapping[str, str]) -> Verdict:
    count = int(options.get("nconnect", "1") or 1)
    if count >= 4:
        return Verdict("nconnect", str(count), OK)
    advice = "nconnect=8 spreads requests over several connections (at most 16, Linux 5.3 or newer)"
    return Verdict("nconnect", str(count), WARNING, advice)


def _lookupcache(options: Mapping[str, str]) -> Verdict:
    value = options.get("lookupcache", "all")
    if value in ("pos", "positive", "none"):
        return Verdict("lookupcache", value, OK)
    advice = (
        "lookupcache=positive: other programs see new names at once, not after up to 60 s "
        "(lakefeed itself opens the directory first and is not affected)"
    )
    return Verdict("lookupcache", value, WARNING, advice)


def _attributes(options: Mapping[str, str]) -> Verdict:
    # The kernel shows actimeo=0 as the four that it stands for.
    times = {options.get(name) for name in ("acregmin", "acregmax", "acdirmin", "acdirmax")}
    if "noac" in options or options.get("actimeo") == "0" or times == {"0"}:
        advice = "leave noac out: every call then asks the server, and nothing here needs it"
        return Verdict("attribute cache", "off", WARNING, advice)
    return Verdict("attribute cache", "on", OK)


def judge_read_ahead(mount: Mount, read_ahead_bytes: int | None) -> Verdict:
    """Return what the kernel's read-ahead means for readers that go front to back."""
    if read_ahead_bytes is None:
        return Verdict("read-ahead", "unknown", OK, "the kernel shows none for this mount")
    found = f"{read_ahead_bytes // 1024:,} KiB"
    if not mount.is_nfs or read_ahead_bytes >= READ_AHEAD_WANTED:
        return Verdict("read-ahead", found, OK)
    advice = (
        f"echo 4096 > /sys/class/bdi/{mount.device}/read_ahead_kb (or nfsrahead): sequential "
        "readers wait otherwise; lakefeed's own reads are large and parallel and do not need it"
    )
    return Verdict("read-ahead", found, WARNING, advice)


def read_ahead_bytes(mount: Mount, sysfs: Path = Path("/sys/class/bdi")) -> int | None:
    """Return the read-ahead of a mount's backing device, or None."""
    try:
        text = (sysfs / mount.device / "read_ahead_kb").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text) * 1024
