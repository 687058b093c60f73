"""The members of a tar archive, read once from beginning to end, whoever wrote it.

Compression (gzip, bzip2, xz, zstd) is told by the first bytes. Memory does not grow with the
archive. What is damaged, cut short or made to mislead raises Damaged at the byte of the tar (as it
is without compression) where reading ended: Python's `tarfile` takes a header that makes no sense
for the archive's end, and a size beyond all bounds for something to be skipped bit by bit. So
headers and sizes are checked here, and behind the end mark there may be nothing but zeros.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from typing import IO, BinaryIO, NamedTuple, Protocol, cast

import pyarrow as pa

from lakefeed.closing import Closing
from lakefeed.format.rows import TIMES_NS, Kind

# What a header may say of the member behind it: far more than a path and attributes take.
_EXTENDED_BYTES_MAX = 1 << 20
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
             tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)  # fmt: skip
# Arrow loses that much in front of a zstd stream's damage.
_READ_BYTES = 64 << 10
_SECOND_NS = 10**9
_TIME = re.compile(r"(-?)(\d{1,12})(?:\.(\d*))?")
# What Python's decompressors and header parsers raise for bytes that are none of theirs.
_NONSENSE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError,
             ArithmeticError, LookupError, RecursionError)  # fmt: skip


class Damaged(Exception):
    """The archive cannot be read any further; one that `is_none` begins with no header."""

    def __init__(self, at_bytes: int, reason: str, *, is_none: bool = False) -> None:
        super().__init__(f"{reason} at byte {at_bytes}")
        self.is_none = is_none
        self.reason = reason
        where = f"damaged at byte {at_bytes} of the tar; what comes before that is taken"
        self.text = f"{'not a tar archive' if self.is_none else where}: {reason}"


class Member(NamedTuple):
    """A member as a lake can hold it; `linked` is the name that a hard link leads to."""

    path: str
    kind: Kind
    size: int
    mtime_ns: int
    mode: int
    target: str = ""
    linked: str | None = None


class Unfit(Exception):
    """A member that no lake can hold; `special` are devices and pipes."""

    def __init__(self, reason: str, *, special: bool = False) -> None:
        super().__init__(reason)
        self.special = special


class _Readable(Protocol):
    def read1(self, size: int = -1, /) -> bytes: ...


class Archive(Closing):
    """An archive opened for reading; close it, or use it in a `with` block."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._closes = ExitStack()
        self._source: _Readable
        self._tar: tarfile.TarFile | None = None

    def close(self) -> None:
        """Close the file. Works twice."""
        self._closes.close()

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Yield what the headers say, in order, once; Damaged where they end before the archive."""
        with self._damage(0):
            file = open(self._name, "rb")  # noqa: SIM115 - `close` closes it
            self._closes.callback(file.close)
            self._source = _plain(file, self._closes)
            self._tar = tar = tarfile.open(  # noqa: SIM115 - it holds nothing of its own
                fileobj=cast("IO[bytes]", self), mode="r|", tarinfo=_Info, bufsize=_READ_BYTES,
                encoding="utf-8", errors="surrogateescape",
            )  # fmt: skip
        while tar.offset:  # else there is no member, and Python 3.10 would seek back to look again
            with self._damage(tar.offset):
                info = tar.next()  # the first one was read by `open`
            if info is None:
                break
            vars(tar)["members"] = []  # it keeps all of them, for a second look
            yield info
            with self._damage(tar.offset):
                self._skip(tar.offset)
        self._check_end(tar.offset)

    def read(self, size: int = -1) -> bytes:
        """Return some bytes of the tar: what `tarfile` reads from."""
        try:
            # Not more than is there: what comes before the damage comes out before it.
            return self._source.read1(size)
        except (*_NONSENSE, pa.ArrowException) as error:
            raise Damaged(self._position(), _said(error)) from error

    def content(self, info: tarfile.TarInfo) -> BinaryIO:
        """Return the bytes of the member that was yielded last, to be read in a `reading` block."""
        assert self._tar is not None
        stream = self._tar.extractfile(info)
        assert stream is not None
        return cast("BinaryIO", stream)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise Damaged where a member's bytes are not there."""
        try:
            yield
        except tarfile.TarError as error:
            raise Damaged(self._position(), _said(error)) from error

    @contextmanager
    def _damage(self, at_bytes: int) -> Iterator[None]:
        try:
            yield
        except (*_NONSENSE, _BadHeader) as error:
            raise Damaged(at_bytes, _said(error), is_none=at_bytes == 0) from error

    def _stream(self) -> IO[bytes]:
        assert self._tar is not None
        return cast("IO[bytes]", self._tar.fileobj)

    def _position(self) -> int:
        return 0 if self._tar is None else self._stream().tell()

    def _skip(self, end: int) -> None:
        stream = self._stream()
        while (left := end - stream.tell()) > 0:
            if not stream.read(min(left, _READ_BYTES)):
                raise Damaged(stream.tell(), "it ends inside a member")

    def _check_end(self, at_bytes: int) -> None:
        """Let the decompressor check its sums, and nobody miss what an end mark hides."""
        while data := self._stream().read(_READ_BYTES):
            if data.count(0) != len(data):
                raise Damaged(at_bytes, "there is more behind an end mark")


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).rstrip(".") or type(error).__name__


def _plain(file: BufferedReader, closes: ExitStack) -> _Readable:
    """Return the tar in a file, whatever it is compressed with."""
    magic = file.read(10)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return closes.enter_context(gzip.GzipFile(fileobj=file))
    if magic.startswith(b"BZh") and magic[4:] == b"1AY&SY":
        return closes.enter_context(bz2.BZ2File(file))
    if magic.startswith(b"\xfd7zXZ\0"):
        return closes.enter_context(lzma.LZMAFile(file))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return cast("_Readable", closes.enter_context(pa.CompressedInputStream(file, "zstd")))
    return file


_Pieces = list[tuple[int, int]]


class _BadHeader(Exception):
    """A header that `tarfile` would take for the end, or believe: no error of its own kind."""


class _Info(tarfile.TarInfo):
    """A header that is checked before anything is done with its figures."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        """Return what one block says."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _EXTENDED and info.size > _EXTENDED_BYTES_MAX):
            raise _BadHeader(f"a header with a size of {info.size}")
        return info

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Info:
        """Return the next header together with those that only add to it."""
        try:
            info = super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise _BadHeader("it ends without an end mark") from error
        except tarfile.HeaderError as error:
            raise _BadHeader(_said(error)) from error
        if info.sparse is not None:
            # The size of what is stored may be said behind that of the file, and taken for it.
            size = info.pax_headers.get("GNU.sparse.size", info.size)
            info.size = int(info.pax_headers.get("GNU.sparse.realsize", size))
            # GNU's own format fills its lists up with pieces of nothing.
            pieces = [piece for piece in cast("_Pieces", info.sparse) if piece[1]]
            info.sparse = pieces  # type: ignore[assignment]  # no bytes, whatever the stubs say
        if not _is_sound(info, tarfile_.offset - info.offset_data):
            raise _BadHeader("a header with impossible sizes")
        return info


def _is_sound(info: tarfile.TarInfo, held_bytes: int) -> bool:
    """Tell whether the pieces of a sparse file follow one another inside it, and are all held."""
    end = pieces_bytes = 0
    for offset, size in cast("_Pieces", info.sparse or []):
        if offset < end or size < 0:
            return False
        end = offset + size
        pieces_bytes += size
    return end <= info.size and pieces_bytes <= held_bytes


def member_of(info: tarfile.TarInfo) -> Member:
    """Return what a header says of a file, directory or link; Unfit where it is none of them."""
    path = inside(info.name)
    if info.isreg() or info.islnk():
        kind = Kind.FILE
    elif info.isdir() or info.issym():
        kind = Kind.DIR if info.isdir() else Kind.SYMLINK
    else:
        special = info.ischr() or info.isblk() or info.isfifo()
        raise Unfit("a pipe or device, not a file" if special else "of an unknown kind",
                    special=special)  # fmt: skip
    target = info.linkname if kind is Kind.SYMLINK else ""
    size = info.size if info.isreg() else len(os.fsencode(target))
    linked = inside(info.linkname) if info.islnk() else None
    return Member(path, kind, size, _mtime_ns(info), info.mode & 0o7777, target, linked)


def inside(name: str) -> str:
    """Return a name without the './' and '/' that say nothing; what leads out stays as it is."""
    if name.startswith("/"):
        return name
    return "/".join([part for part in name.split("/") if part not in ("", ".")])


def _mtime_ns(info: tarfile.TarInfo) -> int:
    """Return a member's time; a float has no room for nanoseconds, so the digits are read."""
    text = info.pax_headers.get("mtime", str(info.mtime))
    found = _TIME.fullmatch(text)
    if found is not None:
        sign, seconds, rest = found.groups(default="")
        time_ns = int(seconds) * _SECOND_NS + int(rest[:9].ljust(9, "0"))
        if (time_ns := -time_ns if sign else time_ns) in TIMES_NS:
            return time_ns
    raise Unfit("its time cannot be kept: it is not between 1677 and 2262")
