"""Tar and TFRecord as targets of an export, streamed.

Tar: in the POSIX (pax) format, so names of any length and nanosecond times survive. Files whose
names differ only after the first dot of the last component ('1.jpg', '1.cls') belong together, as
WebDataset reads them, and are never parted by a shard's end.

TFRecord: each file is one `tf.train.Example` with the bytes features `path` and `data`. Directories
and symlinks have no bytes of their own and are skipped. Neither needs TensorFlow: the framing is a
length and two masked CRC-32C, the message three nested length-prefixed fields.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterable

from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import Kind, Row
from lakefeed.transfer.exporting import Refuse, Refused, Rows
from lakefeed.transfer.shards import Shards

# Protocol buffers end at 2 GiB; the rest is room for the path and the framing.
EXAMPLE_BYTES_MAX = (1 << 31) - (1 << 16)
_SECOND_NS = 10**9


class TarTarget:
    """Writes one tar, or several."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._tar: tarfile.TarFile | None = None
        self._group: str | None = None

    def wants(self, row: Row, name: str) -> bool:
        """Everything goes into a tar."""
        return True

    def put(self, row: Row, name: str, pieces: Iterable[bytes]) -> None:
        """Append one member."""
        group = sample_key(name)
        if self._tar is not None and self._shards.is_full() and group != self._group:
            self._close()
        self._group = group
        if self._tar is None:
            self._shards.open()
            self._tar = tarfile.open(  # noqa: SIM115 - `_close` closes it
                fileobj=_Output(self._shards), mode="w|", format=tarfile.PAX_FORMAT
            )
        member = _member(row, name)
        if row.kind is Kind.SYMLINK:
            member.linkname = b"".join(pieces).decode("utf-8", "surrogateescape")
        self._tar.addfile(member, _Pieces(pieces) if member.isreg() else None)

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            self._shards.close()

    def finish(self, rows: Rows, refuse: Refuse) -> tuple[str, ...]:
        """Complete the last tar; a selection of nothing gives an empty one."""
        if self._tar is None and not self._shards.names:
            self._shards.open()
            self._tar = tarfile.open(fileobj=_Output(self._shards), mode="w|")  # noqa: SIM115
        self._close()
        return self._shards.finish()

    def abandon(self) -> None:
        """Remove the incomplete tar."""
        self._shards.abandon()
        if self._tar is not None:
            self._tar.close()
            self._tar = None


def sample_key(name: str) -> str:
    """Return what WebDataset takes for a sample's key: the path up to the last component's dot."""
    directory, _, last = name.rpartition("/")
    return f"{directory}/{last.split('.', 1)[0]}"


def _member(row: Row, name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = {Kind.DIR: tarfile.DIRTYPE, Kind.SYMLINK: tarfile.SYMTYPE}.get(
        row.kind, tarfile.REGTYPE
    )
    member.mode = row.mode
    member.size = row.size if row.kind is Kind.FILE else 0
    seconds, rest_ns = divmod(row.mtime_ns, _SECOND_NS)
    member.mtime = seconds
    if rest_ns:
        # A float has no room for nanoseconds, so the extended header gets the digits.
        sign, whole_ns = ("-", -row.mtime_ns) if row.mtime_ns < 0 else ("", row.mtime_ns)
        digits = f"{sign}{whole_ns // _SECOND_NS}.{whole_ns % _SECOND_NS:09d}"
        member.pax_headers = {"mtime": digits}
    return member


class _Output(io.RawIOBase):
    """What `tarfile` writes to."""

    def __init__(self, shards: Shards) -> None:
        super().__init__()
        self._shards = shards

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._shards.write(memoryview(data))  # type: ignore[arg-type]


class _Pieces(io.RawIOBase):
    """What `tarfile` reads from: pieces one after the other."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts = []
        wanted = size if size >= 0 else 1 << 62
        while wanted > 0:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            part = self._rest[:wanted]
            self._rest = self._rest[len(part) :]
            wanted -= len(part)
            parts.append(part)
        if size > 0 and not self._rest and not wanted:
            self._look_for_the_end()
        return b"".join(parts)

    def _look_for_the_end(self) -> None:
        """Let the pieces say that the file is damaged, which they know only after the last one."""
        piece = next(self._pieces, None)
        if piece is not None:
            self._rest = memoryview(piece)


class TfrecordTarget:
    """Writes one TFRecord file, or several."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._is_open = False

    def wants(self, row: Row, name: str) -> bool:
        """Files only, and none beyond what a protocol buffer can hold."""
        if row.kind is Kind.FILE and row.size > EXAMPLE_BYTES_MAX:
            raise Refused(f"{row.size} bytes do not fit into one Example (2 GiB)")
        return row.kind is Kind.FILE

    def put(self, row: Row, name: str, pieces: Iterable[bytes]) -> None:
        """Append one record."""
        if self._is_open and self._shards.is_full():
            self._close()
        if not self._is_open:
            self._shards.open()
            self._is_open = True
        head = example_head(name, row.size)
        length = struct.pack("<Q", len(head) + row.size)
        self._shards.write(length + struct.pack("<I", masked_crc32c(crc32c(length))) + head)
        checksum = crc32c(head)
        for piece in pieces:
            checksum = crc32c(piece, checksum)
            self._shards.write(piece)
        self._shards.write(struct.pack("<I", masked_crc32c(checksum)))

    def _close(self) -> None:
        self._is_open = False
        self._shards.close()

    def finish(self, rows: Rows, refuse: Refuse) -> tuple[str, ...]:
        """Complete the last file; a selection of nothing gives an empty one."""
        if not self._is_open and not self._shards.names:
            self._shards.open()
        self._close()
        return self._shards.finish()

    def abandon(self) -> None:
        """Remove the incomplete file."""
        self._shards.abandon()


def masked_crc32c(checksum: int) -> int:
    """Return a checksum the way TFRecord stores it."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def example_head(path: str, size: int) -> bytes:
    """Return what stands before `size` bytes of data in the Example of a file.

    Example.features(1) > Features.feature(1, a map) > key(1), value(2) > Feature.bytes_list(1) >
    BytesList.value(1). `data` comes last, so that nothing follows its bytes.
    """
    name = path.encode()
    path_entry = _entry(b"path", len(name)) + name
    data_entry = _entry(b"data", size)
    features = _field(1, len(path_entry)) + path_entry
    features += _field(1, len(data_entry) + size) + data_entry
    return _field(1, len(features) + size) + features


def _entry(key: bytes, size: int) -> bytes:
    """Return a map entry up to where the value's `size` bytes begin."""
    value = _field(1, size)
    values = _field(1, len(value) + size) + value
    return _field(1, len(key)) + key + _field(2, len(values) + size) + values


def _field(number: int, size: int) -> bytes:
    """Return the tag and length of a length-delimited field."""
    out = bytearray([number << 3 | 2])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)
