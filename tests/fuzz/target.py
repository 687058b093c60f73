"""One fuzz target for all decoders: `check(data)` returns or a bug has been found.

The first byte picks the decoder, the rest is its input: a pack, the list of groups or the Parquet
footer of one (sealed again, so that the checksum does not stop it), a payload, an envelope, the
body of one (sealed again too), a path. Whatever the bytes, a decoder may raise Corrupt or Invalid,
or give a value; a value must survive being written and read again. Anything else, a read outside
the file included, is a bug.
"""

from __future__ import annotations

from collections.abc import Callable

from crc32c import crc32c

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format import commit as commits
from lakefeed.format.columns import MAGIC, SEAL, SEAL_MAGIC
from lakefeed.format.pack import open_pack, row_bounds
from lakefeed.format.paths import check_path
from lakefeed.format.payload import decode, encode
from lakefeed.format.rows import Codec, Kind, from_file, rows_from_table
from tests.format.samples import PACK_ID, reader_of, small_pack
from tests.format.test_commit import SAMPLE_COMMIT, SAMPLE_STATE, sealed_raw

SMALL_PACK = small_pack()
SEAL_AT = SMALL_PACK.rindex(SEAL_MAGIC)
LARGEST_PAYLOAD_BYTES = 1 << 20


def pack(data: bytes) -> None:
    reader = reader_of(data)
    payload_end = open_pack(reader, PACK_ID, "fuzz")
    rows = rows_from_table(from_file(reader.read(0, len(reader.groups)), PACK_ID, 1, "fuzz"))
    for row in rows:
        here = row.pack == PACK_ID and row.kind is not Kind.TOMBSTONE
        if here and row.size <= LARGEST_PAYLOAD_BYTES:
            row_bounds(row.offset, row.length, payload_end, "fuzz")
            stored = data[row.offset : row.offset + row.length]
            decode(stored, row.size, row.codec, row.crc32c, "fuzz")


def group_list(data: bytes) -> None:
    """A footer whose list of groups was replaced, byte for byte, and sealed again."""
    start = SMALL_PACK.index(b'{"offset"', SEAL_AT)
    end = SMALL_PACK.index(b"}", start) + 1
    text = data[: end - start].ljust(end - start)
    footer = SMALL_PACK[SEAL_AT + SEAL.size : start] + text + SMALL_PACK[end:]
    pack(SMALL_PACK[:SEAL_AT] + SEAL.pack(SEAL_MAGIC, crc32c(footer), len(footer)) + footer)


def footer(data: bytes) -> None:
    """A footer whose Thrift part was replaced, sealed again: what Parquet code is then given."""
    tail = data + len(data).to_bytes(4, "little") + MAGIC
    pack(SMALL_PACK[:SEAL_AT] + SEAL.pack(SEAL_MAGIC, crc32c(tail), len(tail)) + tail)


def payload(data: bytes) -> None:
    stored = encode(data, Codec.ZSTD)
    assert decode(bytes(stored.stored), len(data), stored.codec, stored.crc32c, "fuzz") == data
    decode(data, min(len(data) * 3, LARGEST_PAYLOAD_BYTES), Codec.ZSTD, 0, "fuzz")


def commit(data: bytes) -> None:
    value = commits.decode_commit(data, "fuzz")
    assert commits.decode_commit(commits.encode_commit(value), "fuzz") == value


def checkpoint(data: bytes) -> None:
    value = commits.decode_checkpoint(data, "fuzz")
    assert commits.decode_checkpoint(commits.encode_checkpoint(value), "fuzz") == value


def path(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    assert check_path(text).encode() == data


TARGETS: tuple[Callable[[bytes], None], ...] = (
    pack, group_list, payload, commit, lambda data: commit(sealed_raw(data)), checkpoint,
    lambda data: checkpoint(sealed_raw(data)), path, footer,
)  # fmt: skip

# What a fuzzer starts from: one good input for each target.
SEEDS: tuple[bytes, ...] = (
    SMALL_PACK,
    SMALL_PACK[SMALL_PACK.index(b'{"offset"', SEAL_AT) : SMALL_PACK.rindex(b'"}') + 2],
    bytes(encode(b"again and " * 30, Codec.ZSTD).stored),
    commits.encode_commit(SAMPLE_COMMIT),
    commits.encode_commit(SAMPLE_COMMIT).partition(b'"body":')[2][:-2],
    commits.encode_checkpoint(SAMPLE_STATE),
    commits.encode_checkpoint(SAMPLE_STATE).partition(b'"body":')[2][:-2],
    "photos/katze-ä.jpg".encode(),
    SMALL_PACK[SEAL_AT + SEAL.size : -8],
)


def check(data: bytes) -> bool:
    """Tell whether the decoder that the first byte picks took the rest."""
    if not data:
        return False
    try:
        TARGETS[data[0] % len(TARGETS)](data[1:])
    except (Corrupt, Invalid):
        return False
    return True
