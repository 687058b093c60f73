"""Bytes that say which path they belong to, so that any reader can tell right bytes from wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from lakefeed.errors import LakefeedError
from lakefeed.lake.snapshot import Snapshot

SIZE_MAX = 20_000


def content(path: str, version: str = "") -> bytes:
    """Return the bytes of a path: some hundred to some thousand, all different."""
    head = f"{path}\n{version}\n".encode()
    digest = hashlib.sha256(head).digest()
    size = int.from_bytes(digest[:4], "little") % SIZE_MAX
    return head + digest * (size // len(digest) + 1)


def is_right(path: str, data: bytes) -> bool:
    """Say whether these are bytes that somebody wrote under that path."""
    name, _, rest = data.partition(b"\n")
    version = rest.partition(b"\n")[0]
    return name.decode() == path and data == content(path, version.decode())


def read_all(paths: Iterable[str], snapshot: Snapshot, version: str) -> str:
    """Return "right" if a snapshot has this version of all paths, "wrong", or an error's name."""
    for path in paths:
        try:
            data = snapshot.get(path)
        except LakefeedError as error:
            return type(error).__name__
        if data != content(path, version):
            return "wrong"
    return "right"
