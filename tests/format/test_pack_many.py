"""Many payloads added at once make the very pack that they make one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.format.pack import Meta, PackWriter
from lakefeed.format.payload import encode
from lakefeed.format.rows import Codec, Kind
from tests.format.samples import packed

SIZES = st.one_of(st.integers(0, 600), st.sampled_from([4095, 4096, 4097, 10_000]))
PIECE = st.tuples(SIZES, st.sampled_from(Codec), st.sampled_from([Kind.FILE, Kind.SYMLINK]))


@given(pieces=st.lists(PIECE, max_size=30), cut=st.integers(0, 30))
def test_a_pack_is_the_same_however_it_is_filled(
    pieces: list[tuple[int, Codec, Kind]], cut: int
) -> None:
    paths = [f"d/{at}" for at in range(len(pieces))]
    payloads = [encode(bytes([at]) * size, codec) for at, (size, codec, _) in enumerate(pieces)]
    metas = [Meta(at, 0o600 + at, {"at": str(at)} if at % 3 else None) for at in range(len(pieces))]
    kinds = [kind for _, _, kind in pieces]

    def one_by_one(writer: PackWriter) -> None:
        for added in zip(paths, payloads, metas, kinds, strict=True):
            writer.add(*added)

    def at_once(writer: PackWriter) -> None:
        for part in (slice(0, cut), slice(cut, None)):
            writer.add_all(paths[part], payloads[part], metas[part], kinds[part])
        assert writer.rows == len(pieces)

    assert packed(at_once) == packed(one_by_one)


def test_a_path_is_refused_the_second_time() -> None:
    twice = [encode(b"a"), encode(b"b")]
    with pytest.raises(Invalid, match="found twice"):
        packed(lambda writer: writer.add_all(["a", "a"], twice, [Meta(0)] * 2, [Kind.FILE] * 2))
