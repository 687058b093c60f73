"""NFS as the kernel counts it: operations of one mount from /proc/self/mountstats.

Linux writes, for each NFS mount, a line for each operation: calls, transmissions, time-outs, bytes
sent and received, then milliseconds in the queue, on the wire and altogether, then errors (since
5.3). The format has a version and grew at its end, so unknown trailing numbers are passed over and
missing ones are 0. The difference of two moments says what a measurement really asked of the
server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lakefeed.volume.mountinfo import unescape

MOUNTSTATS = Path("/proc/self/mountstats")


@dataclass(frozen=True, slots=True)
class Operation:
    """What was done of one NFS operation; times are sums in milliseconds."""

    calls: int = 0
    transmissions: int = 0
    timeouts: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    queue_ms: int = 0
    round_trip_ms: int = 0
    execute_ms: int = 0
    errors: int = 0

    def __sub__(self, before: Operation) -> Operation:
        names = [field.name for field in fields(self)]
        return Operation(*(getattr(self, name) - getattr(before, name) for name in names))


@dataclass(frozen=True, slots=True)
class NfsMount:
    """One NFS mount: where, how long mounted, its operations by name."""

    point: str
    version: str
    age_seconds: int
    options: str
    operations: Mapping[str, Operation]


def parse(text: str) -> list[NfsMount]:
    """Return the NFS mounts in a mountstats text; other file systems are passed over."""
    return [_mount(lines) for lines in _blocks(text)]


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in text.splitlines():
        if line.startswith("device "):
            if block:
                yield block
            words = line.split()
            block = [line] if "nfs" in words or "nfs4" in words else []
        elif block:
            block.append(line)
    if block:
        yield block


def _mount(lines: list[str]) -> NfsMount:
    words = lines[0].split()
    point = unescape(words[words.index("on") + 1]) if "on" in words else "?"
    options, age_seconds, operations = "", 0, {}
    within = False
    for line in (line.strip() for line in lines[1:]):
        name, _, rest = line.partition(":")
        if name == "opts":
            options = rest.strip()
        elif name == "age":
            age_seconds = int(rest.split()[0])
        elif name == "per-op statistics":
            within = True
        elif within and rest:
            numbers = [int(word) for word in rest.split() if word.lstrip("-").isdecimal()]
            operations[name] = Operation(*numbers[: len(fields(Operation))])
    version = next((o.partition("=")[2] for o in options.split(",") if o.startswith("vers=")), "?")
    return NfsMount(point, version, age_seconds, options, operations)


def read(point: str, path: Path = MOUNTSTATS) -> NfsMount | None:
    """Return the NFS mount at a mount point, or None where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return next((mount for mount in reversed(parse(text)) if mount.point == point), None)


def between(before: NfsMount, after: NfsMount, seconds: float) -> list[dict[str, Any]]:
    """Return what happened between two moments, the busiest operation first."""
    rows = []
    for name, operation in after.operations.items():
        done = operation - before.operations.get(name, Operation())
        if done.calls <= 0:
            continue
        rows.append(
            {
                "operation": name,
                "calls": done.calls,
                "calls_per_second": done.calls / seconds if seconds else 0.0,
                "round_trip_seconds": done.round_trip_ms / done.calls / 1e3,
                "queue_seconds": done.queue_ms / done.calls / 1e3,
                "execute_seconds": done.execute_ms / done.calls / 1e3,
                "retransmissions": max(0, done.transmissions - done.calls),
                "timeouts": done.timeouts,
                "sent_bytes": done.sent_bytes,
                "received_bytes": done.received_bytes,
                "errors": done.errors,
            }
        )
    return sorted(rows, key=lambda row: -int(row["calls"]))
