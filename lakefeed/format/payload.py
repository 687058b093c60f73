"""A file's bytes as stored: compressed or not, and verified when read back.

`encode` gives the stored bytes and their CRC-32C (RFC 3720, over the logical bytes); `decode` turns
stored bytes back and returns them only if the checksum agrees. Keeps I7: a payload is verified or
refused, never wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import Codec

Buffer = bytes | bytearray | memoryview  # a memoryview is of single bytes (format "B")

# Bigger payloads are stored as they are: a compressed one can only be read whole. So a row that
# says more is not one of ours, and its size never becomes an allocation.
COMPRESS_BYTES_MAX = 64 << 20


class Payload(NamedTuple):
    """Stored bytes, and what the row must say of them. A tuple: one is made for each file."""

    stored: Buffer
    size: int
    codec: Codec
    crc32c: int


def encode(data: Buffer, codec: Codec = Codec.NONE) -> Payload:
    """Return the payload of `data`; compression that saves under 1/8 is not used.

    Whatever shows its memory, an array of numbers for instance, counts as the bytes it takes.
    """
    if not isinstance(data, bytes | bytearray):
        data = _single_bytes(data)
    size = len(data)
    checksum = crc32c(data)
    if codec is Codec.ZSTD and 64 <= size <= COMPRESS_BYTES_MAX:
        packed = pa.compress(data, codec="zstd", asbytes=True)
        if len(packed) <= size - size // 8:
            return Payload(packed, size, Codec.ZSTD, checksum)
    return Payload(data, size, Codec.NONE, checksum)


def _single_bytes(data: Buffer) -> Buffer:
    # Everybody from here on takes `len` for the size, and a slice for a part.
    try:
        view = memoryview(data)
    except TypeError as error:
        raise Invalid("data of a file", expected="bytes", found=type(data).__name__) from error
    plain = view.ndim == 1 and view.itemsize == 1 and view.c_contiguous
    return view if plain else view.tobytes()


def decode(stored: bytes, size: int, codec: int, checksum: int, subject: str) -> bytes:
    """Return the logical bytes, or raise Corrupt naming `subject`."""
    data = stored if codec == Codec.NONE else _expand(stored, size, codec, subject)
    found = crc32c(data)
    if found != checksum or len(data) != size:
        raise Corrupt(
            subject,
            expected=f"{size} bytes with checksum {checksum:08x}",
            found=f"{len(data)} bytes with checksum {found:08x}",
            hint='run "lakefeed fsck --deep" to find every damaged file',
        )
    return data


def _expand(stored: bytes, size: int, codec: int, subject: str) -> bytes:
    if codec != Codec.ZSTD:
        raise Corrupt(subject, expected="codec none or zstd", found=f"codec {codec}")
    if size > COMPRESS_BYTES_MAX:
        raise Corrupt(subject, expected=f"at most {COMPRESS_BYTES_MAX} bytes", found=size)
    try:
        expanded: bytes = pa.decompress(stored, decompressed_size=size, codec="zstd", asbytes=True)
    except (OSError, ValueError) as error:
        raise Corrupt(subject, expected="a zstd frame", found=str(error)) from error
    return expanded
