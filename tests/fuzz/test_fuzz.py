"""The fuzz target on seeded mutations of good inputs: a bounded stretch of what atheris does."""

from __future__ import annotations

import random

import pytest

from lakefeed.format import commit as commits
from tests.fuzz.target import SEEDS, TARGETS, check

MUTANTS = 1500


def mutant(good: bytes, seeded: random.Random) -> bytes:
    """One to four small changes, of the sorts that disks, programs and people make."""
    data = bytearray(good)
    for _ in range(seeded.randint(1, 4)):
        at = seeded.randrange(len(data) + 1)
        size = seeded.choice((1, 1, 1, 2, 4, 8, 64))
        match seeded.randrange(6):
            case 0:
                data[at : at + size] = seeded.randbytes(size)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = seeded.choice((b"0", b"-", b"9" * 30, b"null", b"[", b'"', b"\0"))
            case 3:
                if at < len(data):
                    data[at] ^= 1 << seeded.randrange(8)
            case 4:
                other = seeded.randrange(len(data) + 1)
                data[at : at + size] = data[other : other + size]
            case _:
                data[at : at + size] = bytes(size)
    return bytes(data)


@pytest.mark.parametrize("number", range(len(TARGETS)))
def test_every_target_takes_its_seed(number: int) -> None:
    if number != 2:  # a frame is data there, so that its checksum is another's
        assert check(bytes([number]) + SEEDS[number])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(TARGETS)))
def test_no_mutant_gets_past_the_five_errors(number: int) -> None:
    for seed in range(MUTANTS):
        data = bytes([number]) + mutant(SEEDS[number], random.Random(seed))
        try:
            check(data)
        except Exception as error:
            raise AssertionError(f"target {number}, seed {seed}: {data!r}") from error


def test_the_target_notices_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(data: bytes, subject: str) -> object:
        return data[999999]

    monkeypatch.setattr(commits, "decode_commit", careless)
    with pytest.raises(IndexError):
        check(bytes([3]) + SEEDS[3])
