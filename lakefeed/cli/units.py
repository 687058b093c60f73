"""Sizes, durations and times as people write and read them: pure functions, nothing else.

`256MiB` is 256 * 2**20 bytes and `1GB` is 10**9; a plain number is bytes, `k`, `M`, `G`, `T` alone
are powers of 1024. `90s`, `15m`, `12h`, `7d`, `2w` are durations, of at most a hundred years. A
time is ISO 8601 (`2026-01-31`, `2026-01-31T12:00`, with a zone or else local), `@1767225600`
(seconds since the epoch), or a duration with "ago".
The `*_option` functions raise a usage error that says what was expected.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal

import typer

# More digits than anybody means; Python refuses, or takes for infinite, what has far more.
_NUMBER = r"(\d{1,30}(?:\.\d{1,30})?)"
_SIZE = re.compile(rf"{_NUMBER}\s*([kmgtp]?)(i?)(b?)", re.IGNORECASE)
_DURATION = re.compile(rf"{_NUMBER}\s*(ms|s|m|h|d|w)")
_EPOCH = re.compile(r"@(\d{1,30})")
_ADDRESS = re.compile(r"(.*):(\d{1,5})")
_PORT_MAX = 65_535
_POWERS = "kmgtp"
# Sizes and times of files have 64 bits, one of them for the sign: times end in 2262.
INTEGER_MAX = (1 << 63) - 1
# A hundred years: from now on they end before 2262, and no thread can wait for more than 292.
DURATION_MAX_SECONDS = 36525 * 86400
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MODES = ((0o400, "r"), (0o200, "w"), (0o100, "x"))


# -- reading ---------------------------------------------------------------------------------------


def parse_size(text: str) -> int | None:
    """Return bytes from '256MiB', '1.5GB', '4k' or '100', or None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    number, letter, binary, byte = match.groups()
    power = _POWERS.index(letter.lower()) + 1 if letter else 0
    if binary and not letter:
        return None
    base = 1000 if byte and not binary else 1024
    return int(float(number) * base**power) if "." in number else int(number) * base**power


def parse_rate(text: str) -> int | None:
    """Return bytes a second from '200MB/s' or '200MB', or None for anything else."""
    return parse_size(text.strip().removesuffix("/s"))


def parse_duration(text: str) -> float | None:
    """Return seconds from '90s', '1h30m' or '7d', or None for anything else, or above 100 years."""
    text = text.strip()
    found = list(_DURATION.finditer(text))
    if not found or "".join(match[0] for match in found) != text:
        return None
    seconds = sum(float(match[1]) * _SECONDS[match[2]] for match in found)
    return seconds if seconds <= DURATION_MAX_SECONDS else None


def parse_address(text: str) -> tuple[str, int] | None:
    """Return host and port from '127.0.0.1:9464', '[::1]:80' or ':80' (at every address of this
    machine), or None for anything else."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > _PORT_MAX:
        return None
    return match[1].strip("[]") or "0.0.0.0", int(match[2])


def parse_time(text: str, now_ns: Callable[[], int] = time.time_ns) -> int | None:
    """Return nanoseconds since the epoch from a time or '2h ago', or None for anything else.

    `now_ns` is asked for the second only.
    """
    text = text.strip()
    if epoch := _EPOCH.fullmatch(text):
        return int(epoch[1]) * 10**9
    if text.endswith("ago"):
        ago = parse_duration(text[: -len("ago")])
        return None if ago is None else now_ns() - int(ago * 1e9)
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return math.floor(when.timestamp()) * 10**9 + when.microsecond * 1000
    except (ValueError, OverflowError):
        return None


def size_option(text: str) -> int:
    """Return bytes, or raise a usage error; usable as Typer's `parser`."""
    size = parse_size(text)
    if size is None or size > INTEGER_MAX:
        raise typer.BadParameter(f"{text!r} is no size; write 4096, 256KiB, 64MiB, 1GB")
    return size


def rate_option(text: str) -> int:
    """Return bytes a second, or raise a usage error; usable as Typer's `parser`."""
    size = parse_rate(text)
    if not size or size > INTEGER_MAX:
        raise typer.BadParameter(f"{text!r} is no rate; write 200MB/s, 64MiB/s")
    return size


def duration_option(text: str) -> float:
    """Return seconds, or raise a usage error; usable as Typer's `parser`."""
    seconds = parse_duration(text)
    if seconds is None:
        raise typer.BadParameter(f"{text!r} is no duration up to 100 years; write 90s, 12h, 7d")
    return seconds


def time_option(text: str) -> int:
    """Return nanoseconds since the epoch, or raise a usage error. A duration counts from now."""
    ago = parse_duration(text)
    time_ns = parse_time(text) if ago is None else time.time_ns() - int(ago * 1e9)
    if time_ns is None or abs(time_ns) > INTEGER_MAX:
        raise typer.BadParameter(f"{text!r} is no time; write 2026-01-31T12:00, 7d or @1767225600")
    return time_ns


# -- writing ---------------------------------------------------------------------------------------


def human_size(size_bytes: float) -> str:
    """Return '0 B', '1.5 KiB', '64.0 MiB', ..."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size_bytes /= 1024
        if size_bytes < 1023.95:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} PiB"


def human_count(count: int) -> str:
    """Return '1,234,567'."""
    return f"{count:,}"


def human_time(time_ns: int) -> str:
    """Return a time in the local zone, to the second."""
    return datetime.fromtimestamp(time_ns // 10**9).isoformat(" ")


def iso_time(time_ns: int) -> str:
    """Return a time in UTC as ISO 8601, to the microsecond; for JSON."""
    seconds, rest_ns = divmod(time_ns, 10**9)
    whole = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{whole.isoformat()[:19]}.{rest_ns // 1000:06d}Z"


def human_seconds(seconds: float) -> str:
    """Return '0.3 s', '12 s', '3 min 20 s', '2 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def exact_seconds(seconds: float) -> str:
    """Return a duration as `parse_duration` reads it, to the last digit."""
    return f"{Decimal(str(seconds)):f}s"


def human_mode(kind: str, mode: int) -> str:
    """Return '-rw-r--r--' from a kind (file, dir, symlink) and permission bits."""
    letters = [
        letter if mode & (bit >> shift) else "-" for shift in (0, 3, 6) for bit, letter in _MODES
    ]
    return {"dir": "d", "symlink": "l"}.get(kind, "-") + "".join(letters)
