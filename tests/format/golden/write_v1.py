"""What wrote the golden files of format version 1: `python -m tests.format.golden.write_v1`.

Ids, times and payloads are fixed. The files in `v1/` are never written again: they stand for every
lake written so far, and the tests compare what today's program reads and writes with them. Running
this module writes a fresh set elsewhere (the directory named as argument), to look at a difference.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lakefeed.format import rows as rows_format
from lakefeed.format.columns import MAGIC, ColumnsWriter
from lakefeed.format.commit import (
    Changes,
    Commit,
    PackInfo,
    SegmentInfo,
    State,
    encode_checkpoint,
    encode_commit,
)
from lakefeed.format.pack import Meta, PackSealed, PackWriter
from lakefeed.format.payload import Payload, encode
from lakefeed.format.rows import Codec, Kind, Row
from tests.format.samples import Sink, reader_of

V1 = Path(__file__).parent / "v1"
PACK_ID = "00112233445566778899aabbccddeeff"
OTHER_PACK_ID = "ffeeddccbbaa99887766554433221100"
SEGMENT_ID = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
COMMIT_ID = "aaaaaaaabbbbbbbbccccccccdddddddd"
PARENT_ID = "11111111222222223333333344444444"
SEQ = 2
TIME_NS = 1_700_000_000_000_000_000

HELLO = b"Hello, lake!\n"
PICTURE = bytes(range(256)) * 16
NOTES = b"one line of text, again and again\n" * 8
TARGET = b"hello.txt"


def fill(writer: PackWriter, notes: Payload) -> None:
    """Add three files, a symlink, a directory, a deletion, and a file that lies elsewhere."""
    writer.add("hello.txt", encode(HELLO), Meta(TIME_NS))
    picture = Meta(TIME_NS + 1, 0o600, {"label": "cat", "width": "64"})
    writer.add("photos/cat.raw", encode(PICTURE), picture)
    writer.add("latest", encode(TARGET), Meta(TIME_NS + 2, 0o777), Kind.SYMLINK)
    writer.add("photos/empty", encode(b""), Meta(TIME_NS + 3, 0o755), Kind.DIR)
    writer.add_row(
        Row("old.txt", Kind.TOMBSTONE, "", 0, 0, 0, Codec.NONE, 0, TIME_NS + 4, 0, None, 0)
    )
    writer.add_row(
        Row("kept.txt", Kind.FILE, OTHER_PACK_ID, 4, 5, 5, Codec.NONE, 0x9A71BB4C, TIME_NS - 9,
            0o644, None, 0)
    )  # fmt: skip
    writer.add("notes.txt", notes, Meta(TIME_NS + 5, 0o640))


def write_pack(notes: Payload) -> tuple[bytes, PackSealed]:
    """Return the golden pack; its one compressed payload, which depends on zstd, comes last."""
    sink = Sink()
    writer = PackWriter(sink, PACK_ID, SEQ - 1)
    fill(writer, notes)
    sealed = writer.seal()
    return bytes(sink.data), sealed


def write_segment(pack: bytes) -> bytes:
    """Return a segment of the pack's rows, the deletion included."""
    reader = reader_of(pack)
    rows = rows_format.from_file(reader.read(0, len(reader.groups)), PACK_ID, SEQ, "golden")
    sink = Sink()
    sink.write([MAGIC])
    writer = ColumnsWriter(sink.write, len(MAGIC), {"kind": "segment", "id": SEGMENT_ID})
    writer.add(rows_format.to_file(rows, "", None))
    writer.close()
    return bytes(sink.data)


def commit_of(sealed: PackSealed, segment: SegmentInfo) -> Commit:
    """Return a commit that uses every field."""
    changes = Changes(
        add_packs=(sealed,),
        remove_packs=(PARENT_ID,),
        index_packs=(PACK_ID,),
        add_segments=(segment,),
        remove_segments=(OTHER_PACK_ID,),
        live_bytes={OTHER_PACK_ID: 5},
        horizon=1,
    )
    return Commit(
        SEQ, COMMIT_ID, PARENT_ID, TIME_NS, "write", "host/42", changes, "grüße", {"offset": "7"}
    )


def state_of(sealed: PackSealed, segment: SegmentInfo) -> State:
    """Return a state that uses every field."""
    older = replace(sealed, id=OTHER_PACK_ID, refs=())
    packs = {
        OTHER_PACK_ID: PackInfo(older, 1, False, None),
        PACK_ID: PackInfo(sealed, SEQ, True, 4200),
    }
    return State(SEQ, COMMIT_ID, TIME_NS, 1, packs, {SEGMENT_ID: segment})


# What the commit and the checkpoint say of the two files. Written down here, because Parquet bytes
# (and so these sizes) may change with the library, and the golden envelopes must not.
GOLDEN_SEALED = PackSealed(
    PACK_ID, 7038, 4665, 1415, 7, 1, "hello.txt", "photos/empty", (OTHER_PACK_ID,)
)
GOLDEN_SEGMENT = SegmentInfo(SEGMENT_ID, 2354, 1366, 7, 1, "hello.txt", "photos/empty", 1, SEQ)


def main(directory: Path) -> None:
    """Write a fresh set."""
    directory.mkdir(parents=True, exist_ok=True)
    pack, sealed = write_pack(encode(NOTES, Codec.ZSTD))
    segment = write_segment(pack)
    print(sealed, f"segment of {len(segment)} bytes", sep="\n")
    (directory / "example.pack").write_bytes(pack)
    (directory / "example.parquet").write_bytes(segment)
    (directory / "commit.json").write_bytes(encode_commit(commit_of(GOLDEN_SEALED, GOLDEN_SEGMENT)))
    checkpoint = encode_checkpoint(state_of(GOLDEN_SEALED, GOLDEN_SEGMENT))
    (directory / "example.checkpoint").write_bytes(checkpoint)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
