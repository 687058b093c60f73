"""What every handler shares: the wall, the counters, attributes and extended attributes.

The wall: pyfuse3 ends its main loop, and with it the mount, when a handler raises anything but
FUSEError. So every handler is wrapped: an error of ours becomes its errno, anything unforeseen
becomes EIO and is logged with its traceback. One object is used for all attribute replies, because
pyfuse3 copies it before anything else can run.
"""

from __future__ import annotations

import base64
import errno
import functools
import logging
import stat
import time
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pyfuse3

from lakefeed.adapters.fuse.nodes import Directory, Node
from lakefeed.errors import LakefeedError, NotFound, SnapshotExpired
from lakefeed.format.rows import ATTRS_BYTES_MAX, Kind, attrs_bytes

# A year: nothing changes behind the kernel's back without it being told.
FOREVER_SECONDS = 365 * 86400.0
# Tags come, move and go, and nobody is told; each look-up of one is a file or two of the lake.
TAG_SECONDS = 1.0
XATTR_PREFIX = "user.lakefeed."
ATTRS_PREFIX = "user.lakefeed.attrs."
# Values that are no text are kept as text; real values that look like it are too.
_BINARY = "base64:"
# What Linux passes on (XATTR_NAME_MAX, XATTR_SIZE_MAX).
_NAME_BYTES_MAX = 255
_VALUE_BYTES_MAX = 1 << 16

TYPES = {
    int(Kind.FILE): stat.S_IFREG,
    int(Kind.DIR): stat.S_IFDIR,
    int(Kind.SYMLINK): stat.S_IFLNK,
}

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class OpStats:
    """Counts of one kind of request; `seconds` includes waiting for volume and commit."""

    done: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Stats:
    """What a mount did so far; read by the metrics."""

    ops: dict[str, OpStats] = field(default_factory=dict)
    unforeseen: int = 0
    open_handles: int = 0


_Handler = TypeVar("_Handler", bound=Callable[..., Awaitable[Any]])


def walled(handler: _Handler) -> _Handler:
    """Return the handler with a wall around it, counted under its name."""
    name = handler.__name__

    @functools.wraps(handler)
    async def inside(self: Any, *arguments: Any) -> Any:
        stats = self.counters[name]
        began = time.perf_counter()
        try:
            result = await handler(self, *arguments)
            stats.done += 1
            return result
        except pyfuse3.FUSEError:
            stats.failed += 1
            raise
        except (LakefeedError, OSError) as error:
            stats.failed += 1
            raise self.refusal(name, error) from error
        except Exception as error:
            stats.failed += 1
            self.stats.unforeseen += 1
            _logger.exception("%s failed in a way nobody foresaw", name)
            raise pyfuse3.FUSEError(errno.EIO) from error
        finally:
            stats.seconds += time.perf_counter() - began

    return cast(_Handler, inside)


def errno_of(error: LakefeedError | OSError) -> int:
    """Return what a program shall see of an error."""
    if isinstance(error, SnapshotExpired):
        return errno.ESTALE
    if isinstance(error, NotFound):
        # Of the lake itself. "No such file" would tell a program that what it asked for is gone.
        return errno.EIO
    return error.errno or errno.EIO


class Answers:
    """Builds replies; the owner of everything is `uid` and `gid`."""

    def __init__(self, uid: int, gid: int) -> None:
        self.stats = Stats()
        self.counters: dict[str, OpStats] = _Counters()
        self.stats.ops = self.counters
        self._attr = _fixed(uid, gid)
        self._nothing = _fixed(uid, gid)
        self._nothing.st_ino = 0

    def refusal(self, name: str, error: LakefeedError | OSError) -> pyfuse3.FUSEError:
        """Log an error of the lake's or the machine's, and return what the caller gets."""
        number = errno_of(error)
        level = logging.INFO if number in _ORDINARY else logging.WARNING
        _logger.log(level, "%s: %s", name, error)
        return pyfuse3.FUSEError(number)

    def attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        """Return a node's attributes; valid until the next call."""
        attr = self._attr
        kind = node.kind
        attr.st_ino = node.ino
        attr.st_mode = TYPES[kind] | node.mode
        attr.st_size = node.size
        attr.st_blocks = (node.size + 511) // 512
        mtime_ns = node.mtime_ns
        attr.st_mtime_ns = mtime_ns
        attr.st_atime_ns = mtime_ns
        draft = node.draft
        attr.st_ctime_ns = mtime_ns if draft is None else draft.ctime_ns or mtime_ns
        # 1 for a directory says, as on btrfs, that links do not count its subdirectories.
        attr.st_nlink = 0 if draft is not None and draft.removed else 1
        return attr

    def passing(self, node: Node | None) -> pyfuse3.EntryAttributes:
        """Return the attributes of what a tag stands for; the kernel asks again after a while."""
        attr = copy(self._nothing if node is None else self.attributes(node))
        attr.entry_timeout = TAG_SECONDS
        return attr

    def nothing(self) -> pyfuse3.EntryAttributes:
        """Return what tells the kernel to remember that a name is not there."""
        return self._nothing


_ORDINARY = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENODATA, errno.ENOTEMPTY, errno.EINVAL, errno.ESTALE}
)


class _Counters(dict[str, OpStats]):
    def __missing__(self, name: str) -> OpStats:
        made = self[name] = OpStats()
        return made


def _fixed(uid: int, gid: int) -> pyfuse3.EntryAttributes:
    attr = pyfuse3.EntryAttributes()
    attr.generation = 0
    attr.entry_timeout = attr.attr_timeout = FOREVER_SECONDS
    attr.st_uid, attr.st_gid = uid, gid
    attr.st_nlink = 1
    # What programs copy with at a time; reads of this size are one request each.
    attr.st_blksize = 1 << 17
    return attr


# -- extended attributes ---------------------------------------------------------------------------


def attrs_of(node: Node) -> dict[str, str]:
    """Return the attributes that the lake keeps with a node, changes of this mount included."""
    draft = node.draft
    if draft is not None and draft.attrs is not None:
        return draft.attrs
    row = node.row
    return {} if row is None or row.attrs is None else row.attrs


def attrs_with(node: Node, key: str, value: str) -> dict[str, str]:
    """Return a node's attributes and one more; ENOSPC where a lake keeps no more of a file."""
    attrs = {**attrs_of(node), key: value}
    if attrs_bytes(attrs) > ATTRS_BYTES_MAX:
        raise pyfuse3.FUSEError(errno.ENOSPC)
    return attrs


def listed_xattrs_of(node: Node) -> list[str]:
    """Return the names that `getfattr -d` shows of a node: attributes that can be copied.

    Facts are told by name only: programs that copy attributes would set and remove them. The kernel
    lets nobody ask for a symbolic link's, so none is listed; nor is what it cannot pass on, at
    which programs end.
    """
    if node.kind == Kind.SYMLINK:
        return []
    return sorted(
        name
        for name, value in _given(node).items()
        if attr_key(name) is not None
        and "\0" not in name
        and len(name.encode()) <= _NAME_BYTES_MAX
        and len(to_bytes(value)) <= _VALUE_BYTES_MAX
    )


def _given(node: Node) -> dict[str, str]:
    return {
        key if key.startswith("user.") else f"{ATTRS_PREFIX}{key}": value
        for key, value in attrs_of(node).items()
    }


def xattrs_of(node: Node) -> dict[str, str]:
    """Return everything that can be asked of a node by name, as the lake keeps it."""
    shown = _given(node)
    row = None if node.dirty else node.row
    if row is not None and row.kind is not Kind.DIR:
        shown |= {
            f"{XATTR_PREFIX}crc32c": f"{row.crc32c:08x}",
            f"{XATTR_PREFIX}extent": f"{row.pack}:{row.offset}:{row.length}",
            f"{XATTR_PREFIX}codec": row.codec.name.lower(),
        }
    if row is not None:
        shown[f"{XATTR_PREFIX}seq"] = str(row.seq)
    if isinstance(node, Directory) and node.parent is None:
        shown[f"{XATTR_PREFIX}lake"] = node.view.snapshot.name
        shown[f"{XATTR_PREFIX}snapshot"] = str(node.view.snapshot.number)
    return shown


def attr_key(name: str) -> str | None:
    """Return the key under which the lake keeps what a program calls `name`; None: it may not."""
    if name.startswith(ATTRS_PREFIX):
        return name.removeprefix(ATTRS_PREFIX) or None
    if name.startswith(XATTR_PREFIX) or not name.startswith("user."):
        return None
    return name


def to_text(value: bytes) -> str:
    """Return an attribute's value as the lake keeps it."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = None
    if text is None or "\0" in text or text.startswith(_BINARY):
        return _BINARY + base64.b64encode(value).decode()
    return text


def to_bytes(text: str) -> bytes:
    """Return an attribute's value as the program gave it."""
    if not text.startswith(_BINARY):
        return text.encode("utf-8", "surrogateescape")  # a lake's directory may be no UTF-8
    try:
        return base64.b64decode(text.removeprefix(_BINARY), validate=True)
    except ValueError:
        return text.encode()  # put there by somebody else, who meant it as it is
