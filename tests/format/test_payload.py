"""A payload comes back as it went in, or not at all."""

from __future__ import annotations

import os
from array import array
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Corrupt
from lakefeed.format.payload import COMPRESS_BYTES_MAX, Payload, decode, encode
from lakefeed.format.rows import Codec

REPEATS = b"one line of text, again and again\n" * 20


def decoded(payload: Payload) -> bytes:
    return decode(bytes(payload.stored), payload.size, payload.codec, payload.crc32c, "test")


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=20).map(lambda part: part * 50)))
def test_bytes_come_back(data: bytes) -> None:
    for codec in Codec:
        for form in (data, bytearray(data), memoryview(data)):
            payload = encode(form, codec)
            assert payload.size == len(data)
            assert payload.crc32c == crc32c(data)
            assert decoded(payload) == data


def test_the_checksum_is_crc32c() -> None:
    """The check value of RFC 3720, so that other programs agree."""
    assert encode(b"123456789").crc32c == 0xE3069283


def test_compression_is_used_where_it_saves() -> None:
    assert encode(REPEATS, Codec.ZSTD).codec is Codec.ZSTD
    assert encode(REPEATS).codec is Codec.NONE
    assert encode(os.urandom(5000), Codec.ZSTD).codec is Codec.NONE
    assert encode(b"a" * 63, Codec.ZSTD).codec is Codec.NONE


@pytest.mark.slow
@pytest.mark.parametrize("codec", Codec)
def test_every_mutated_byte_is_noticed(codec: Codec) -> None:
    data = REPEATS[:70]
    payload = encode(REPEATS if codec else data, codec)
    assert payload.codec is codec
    stored = bytes(payload.stored)
    for position in range(len(stored)):
        for value in range(256):
            altered = stored[:position] + bytes([value]) + stored[position + 1 :]
            try:
                found = decoded(Payload(altered, payload.size, codec, payload.crc32c))
            except Corrupt:
                assert altered != stored
            else:
                # A zstd frame has bits that mean nothing; whatever they are, the bytes are right.
                assert found == (REPEATS if codec else data)


@pytest.mark.parametrize("codec", Codec)
def test_every_cut_is_noticed(codec: Codec) -> None:
    payload = encode(REPEATS, codec)
    for length in range(len(payload.stored)):
        with pytest.raises(Corrupt, match="test"):
            decoded(Payload(bytes(payload.stored)[:length], payload.size, codec, payload.crc32c))


@pytest.mark.parametrize(
    ("size", "codec", "checksum"),
    [
        (len(REPEATS) + 1, 1, None),
        (len(REPEATS) - 1, 1, None),
        (0, 1, None),
        (COMPRESS_BYTES_MAX + 1, 1, None),
        (1 << 62, 1, None),
        (len(REPEATS), 1, 0),
        (len(REPEATS), 0, None),
        (len(REPEATS), 2, None),
        (len(REPEATS), -1, None),
    ],
)
def test_a_row_that_lies_is_noticed(size: int, codec: int, checksum: int | None) -> None:
    payload = encode(REPEATS, Codec.ZSTD)
    checksum = payload.crc32c if checksum is None else checksum
    with pytest.raises(Corrupt, match="expected"):
        decode(bytes(payload.stored), size, codec, checksum, "test")


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize(
    "data",
    [
        array("i", range(1000)),
        memoryview(array("d", [1.5] * 100)),
        np.zeros((16, 16, 3), np.uint8),
        np.arange(500, dtype=">f4"),
        np.arange(1000, dtype=np.uint8),
        np.arange(1000, dtype=np.uint8)[::2],
        np.empty((0, 3), np.float32),
        np.float32(7),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_holds_more_than_single_bytes_is_its_bytes(data: Any, codec: Codec) -> None:
    payload = encode(data, codec)
    whole = memoryview(data).tobytes()
    assert (payload.size, len(payload.stored)) == (len(whole), memoryview(payload.stored).nbytes)
    assert decoded(payload) == whole
