"""Fingerprints: what the formula says, for arrays and for single paths alike."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from lakefeed.format.fingerprint import Fingerprints

ODD = ["", "a", "ab", "abc", "abcd", "abcde", "\0", "\0\0", "é" * 5, "x" * 4095, "x" * 4096]


def by_the_book(prints: Fingerprints, path: str) -> tuple[int, int]:
    """Return place and mark of a path, word by word."""
    text = path.encode()
    words = [int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4)]
    halves = []
    for factors in prints._factors[:, :, 0].T.tolist():
        products = [a * b for a, b in zip(factors, [len(text), *words], strict=False)]
        halves.append(sum(products) % (1 << 64) >> 32)
    return halves[0], halves[1] << 32 | halves[2]


def some_paths() -> list[str]:
    rng = random.Random(5)
    return ODD + ["".join(rng.choices("abé/", k=rng.randrange(90))) for _ in range(300)]


def test_arrays_single_paths_and_the_formula_agree() -> None:
    prints, paths = Fingerprints(), some_paths()
    many = prints.of(pa.array(paths))
    for number, path in enumerate(paths):
        expected = by_the_book(prints, path)
        assert (int(many.place[number]), int(many.mark[number])) == expected
        one = prints.one(path)
        assert (int(one.place[0]), int(one.mark[0])) == expected


def test_slices_and_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prints, paths = Fingerprints(), some_paths()
    whole = prints.of(pa.array(paths))
    monkeypatch.setattr("lakefeed.format.fingerprint._STEP", 7)
    part = prints.of(pa.array(paths)[3:200])
    assert part.mark.tolist() == whole.mark[3:200].tolist()
    assert part.place.tolist() == whole.place[3:200].tolist()
    assert len(prints.of(pa.array([], pa.string())).mark) == 0


def test_near_paths_differ_and_each_drawing_is_its_own() -> None:
    # Zeros at the end are padding, too: only the length tells these apart.
    near = [*dict.fromkeys(some_paths()), *(f"cameras/{n:07d}.jpg" for n in range(20_000))]
    near = list(dict.fromkeys(near))
    marks = Fingerprints().of(pa.array(near)).mark.tolist()
    assert len(set(marks)) == len(near)
    assert Fingerprints().of(pa.array(near)).mark.tolist() != marks
