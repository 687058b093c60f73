"""The checksum of a stretch, computed from its payloads' checksums, is that of its bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.format.checksum import crc32c
from lakefeed.format.joining import DISTANCE_MAX, joined, shift

PARTS = st.lists(st.binary(max_size=300), min_size=1)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_a_stretch_of_payloads_has_the_checksum_of_its_bytes(stretches: list[list[bytes]]) -> None:
    parts = [data for stretch in stretches for data in stretch]
    checksums = np.array([crc32c(data) for data in parts], np.uint32)
    ends = np.cumsum([len(data) for data in parts])
    first = np.cumsum([0, *map(len, stretches[:-1])])
    expected = [crc32c(b"".join(stretch)) for stretch in stretches]
    assert joined(checksums, ends, first).tolist() == expected


def test_distances_up_to_the_largest_stretch() -> None:
    data = b"some payload"
    distances = [0, 1, 127, 128, 16383, 16384, 1 << 20, (1 << 21) - 1, 1 << 21, 9 << 20]
    checksums = np.full(len(distances), crc32c(data), np.uint32)
    found = shift(checksums, np.array(distances))
    for distance, word in zip(distances, found.tolist(), strict=True):
        zeros = bytes(distance)
        assert word ^ crc32c(zeros) == crc32c(data + zeros)


def test_the_furthest_is_as_far_as_two_halves() -> None:
    checksums = np.array([crc32c(b"some payload")], np.uint32)
    halves = shift(shift(checksums, np.array([DISTANCE_MAX // 2])), np.array([DISTANCE_MAX // 2]))
    whole = shift(checksums, np.array([DISTANCE_MAX // 2 * 2]))
    assert halves.tolist() == whole.tolist()


def test_a_flipped_bit_changes_the_checksum_of_its_stretch() -> None:
    parts = [bytes([at]) * 50 for at in range(20)]
    ends = np.cumsum([50] * 20)
    checksums = np.array([crc32c(part) for part in parts], np.uint32)
    (expected,) = joined(checksums, ends, np.array([0])).tolist()
    whole = bytearray(b"".join(parts))
    assert crc32c(whole) == expected
    for bit in range(0, len(whole) * 8, 97):
        whole[bit // 8] ^= 1 << bit % 8
        assert crc32c(whole) != expected
        whole[bit // 8] ^= 1 << bit % 8
