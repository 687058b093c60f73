"""Commits and checkpoints come back whole, or are refused; and states follow from commits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format import envelope
from lakefeed.format.commit import (
    Changes,
    Commit,
    PackInfo,
    SegmentInfo,
    State,
    apply,
    decode_checkpoint,
    decode_commit,
    encode_checkpoint,
    encode_commit,
)
from lakefeed.format.pack import PackSealed
from tests.format.strategies import COMMIT, STATE

A, B, C, D = (f"{number:032x}" for number in range(10, 14))
SEALED = PackSealed(A, 900, 100, 700, 3, 1, "a", "z", (B,))
SEGMENT = SegmentInfo(C, 800, 600, 9, 0, "a", "ä", 1, 4)
CHANGES = Changes((SEALED,), (B,), (D,), (SEGMENT,), (D,), {B: 5}, 2)
SAMPLE_COMMIT = Commit(5, A, B, 123, "write", "host/1", CHANGES, "why", {"offset": "7"})
SAMPLE_STATE = State(5, A, 123, 2, {A: PackInfo(SEALED, 5, True, 44)}, {C: SEGMENT})

Case = tuple[bytes, Callable[[bytes, str], object], Callable[[Any], bytes]]
CASES: dict[str, Case] = {
    "commit": (encode_commit(SAMPLE_COMMIT), decode_commit, encode_commit),
    "checkpoint": (encode_checkpoint(SAMPLE_STATE), decode_checkpoint, encode_checkpoint),
}
both = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def body_of(data: bytes) -> dict[str, Any]:
    """Return the body by plain JSON: that is what other programs do."""
    return dict(json.loads(data)["body"])


@pytest.mark.slow
@given(COMMIT)
def test_a_commit_comes_back(commit: Commit) -> None:
    data = encode_commit(commit)
    assert decode_commit(data, "test") == commit
    assert json.loads(data)["lakefeed"] == 1


@pytest.mark.slow
@given(STATE)
def test_a_checkpoint_comes_back(state: State) -> None:
    assert decode_checkpoint(encode_checkpoint(state), "test") == state


@both
def test_a_file_cut_at_any_byte_is_corrupt(case: Case) -> None:
    data, decode, _ = case
    for length in range(len(data)):
        with pytest.raises(Corrupt, match="test"):
            decode(data[:length], "test")


@both
def test_a_byte_too_many_is_corrupt(case: Case) -> None:
    data, decode, _ = case
    for position in range(len(data) + 1):
        for more in (b"0", b"1", b" ", b"\n", b"\0"):
            with pytest.raises(Corrupt, match="test"):
                decode(data[:position] + more + data[position:], "test")


@pytest.mark.slow
@both
def test_every_mutated_byte_is_corrupt(case: Case) -> None:
    data, decode, _ = case
    seeded = random.Random(3)
    head = data.index(b'"body"')
    for position in range(len(data)):
        everything = position < head or position > len(data) - 4
        for value in range(256) if everything else seeded.choices(range(256), k=8):
            if value != data[position]:
                with pytest.raises(Corrupt, match="test"):
                    decode(data[:position] + bytes([value]) + data[position + 1 :], "test")


@both
def test_an_unknown_version_is_invalid_and_says_what_to_do(case: Case) -> None:
    decode = case[1]
    for version in (0, 2, 999_999_999):
        newer = envelope.seal({"what": "nobody knows"}, version)
        with pytest.raises(Invalid, match=f"expected version 1, found {version}; upgrade lakefeed"):
            decode(newer, "test")
        with pytest.raises(Corrupt):
            decode(newer.replace(b"nobody", b"Nobody"), "test")


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}", b"null", b"\0" * 300, b"\xff" * 300, b"[" * 99]
)
@both
def test_other_files_are_corrupt(case: Case, data: bytes) -> None:
    with pytest.raises(Corrupt, match="a lakefeed envelope"):
        case[1](data, "test")


@both
def test_another_kind_of_envelope_is_corrupt(case: Case) -> None:
    for body in ({"type": "hint", "number": 1}, {"type": 1}, {}):
        with pytest.raises(Corrupt):
            case[1](envelope.seal(body), "test")


def sealed_raw(body: bytes) -> bytes:
    """Return an envelope around bytes that no writer of ours would make."""
    sample = envelope.seal({})
    assert sample.endswith(b'"bytes":2,"body":{}}\n')
    checksum = crc32c(body, crc32c(b"1:"))
    return b'{"lakefeed":1,"crc32c":"%08x","bytes":%d,"body":%s}\n' % (checksum, len(body), body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b"[" * 200_000, b"9" * 9999]
)
@both
def test_a_sealed_body_that_is_no_object_is_corrupt(case: Case, body: bytes) -> None:
    assert sealed_raw(b"{}") == envelope.seal({})
    with pytest.raises(Corrupt, match="test"):
        case[1](sealed_raw(body), "test")


WRONG: list[Any] = [
    None, True, False, -1, 1 << 63, 1 << 400, 0, 7, 1.5, "", "x", "../../etc/passwd", A.upper(),
    [], ["x"], [None], [[]], [A, 3], {}, {"x": 1}, {A: "x"}, {A: -1}, {A: None}, [{}],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value inside a body."""
    if path:
        yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, child in value.items() if isinstance(value, dict) else ():
        yield from places(child, (*path, key))


def changed(body: dict[str, Any], path: tuple[Any, ...], *new: Any) -> dict[str, Any]:
    """Return the body with the value at `path` replaced, or taken out."""
    copy = json.loads(json.dumps(body))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    if new:
        parent[path[-1]] = new[0]
    else:
        del parent[path[-1]]
    return dict(copy)


@pytest.mark.slow
@both
def test_a_wrong_value_anywhere_is_corrupt_or_kept_as_it_is(case: Case) -> None:
    """Nothing is coerced: what decodes encodes to the same body again."""
    data, decode, encode = case
    body = body_of(data)
    refused = 0
    for path in places(body):
        for wrong in WRONG:
            altered = changed(body, path, wrong)
            try:
                value = decode(envelope.seal(altered), "test")
            except Corrupt as error:
                refused += 1
                assert "test" in str(error)
                continue
            # As text, because True equals 1 in Python.
            assert json.dumps(body_of(encode(value))) == json.dumps(altered)
    assert refused > 500


@both
def test_a_missing_field_is_corrupt_or_was_optional(case: Case) -> None:
    data, decode, encode = case
    body = body_of(data)
    optional = {"parent", "message", "horizon", "live_bytes"}
    for path in places(body):
        altered = changed(body, path)
        try:
            value = decode(envelope.seal(altered), "test")
        except Corrupt:
            continue
        again = body_of(encode(value))
        if altered != again:
            assert path[-1] in optional
            assert again == changed(body, path, None)


def test_an_id_is_once_in_a_checkpoint() -> None:
    body = body_of(CASES["checkpoint"][0])
    for key in ("packs", "segments"):
        twice = {**body, key: body[key] * 2}
        with pytest.raises(Corrupt, match="of that id already"):
            decode_checkpoint(envelope.seal(twice), "test")


def test_text_that_no_file_can_hold_is_invalid() -> None:
    with pytest.raises(Invalid, match="commit, expected valid UTF-8"):
        encode_commit(replace(SAMPLE_COMMIT, message="\ud800"))


# what follows from what


def child(state: State, changes: Changes) -> Commit:
    number = state.number + 1
    return Commit(number, f"{number:032x}", state.commit_id, number * 10, "test", "me", changes)


def pack(number: int) -> PackSealed:
    return replace(SEALED, id=f"{number:032x}")


STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), unique=True, max_size=2),
        st.lists(st.integers(0, 5), unique=True, max_size=2),
        st.lists(st.integers(0, 5), unique=True, max_size=2),
        st.none() | st.integers(0, 9),
    ),
    max_size=8,
)


@pytest.mark.slow
@settings(max_examples=200)
@given(STEPS)
def test_a_state_is_the_sum_of_its_commits(
    steps: list[tuple[list[int], list[int], list[int], int | None]],
) -> None:
    state = State()
    model: dict[int, tuple[int, bool]] = {}
    horizon = 0
    for add, remove, index, least in steps:
        changes = Changes(
            add_packs=tuple(map(pack, add)),
            remove_packs=tuple(pack(number).id for number in remove),
            index_packs=tuple(pack(number).id for number in index),
            live_bytes={pack(number).id: number for number in index},
            horizon=least,
        )
        commit = child(state, changes)
        before = replace(state, packs=dict(state.packs))
        fits = {*remove} <= {*model} and not {*add} & ({*model} - {*remove})
        if not fits:
            with pytest.raises(Corrupt, match=f"commit {commit.number}"):
                apply(state, commit)
            assert state == before
            continue
        after = apply(state, commit)
        assert state == before
        model = {number: old for number, old in model.items() if number not in remove}
        model |= dict.fromkeys(add, (commit.number, False))
        model |= {number: (model[number][0], True) for number in index if number in model}
        horizon = max(horizon, least or 0)
        assert {
            int(key, 16): (info.seq, info.indexed) for key, info in after.packs.items()
        } == model
        assert (after.number, after.commit_id, after.horizon) == (commit.number, commit.id, horizon)
        assert decode_checkpoint(encode_checkpoint(after), "test") == after
        decoded = decode_commit(encode_commit(commit), "test")
        assert apply(state, decoded) == after
        state = after


def test_only_a_child_is_applied() -> None:
    state = apply(State(), child(State(), Changes()))
    good = child(state, Changes())
    assert apply(state, good).number == 2
    for wrong in (
        replace(good, number=3), replace(good, number=1), replace(good, parent=None),
        replace(good, parent=A),
    ):  # fmt: skip
        with pytest.raises(Corrupt, match="a child of commit 1"):
            apply(state, wrong)


def test_segments_come_and_go_like_packs() -> None:
    state = apply(State(), child(State(), Changes(add_segments=(SEGMENT,))))
    with pytest.raises(Corrupt, match="of that id already"):
        apply(state, child(state, Changes(add_segments=(SEGMENT,))))
    gone = apply(state, child(state, Changes(remove_segments=(SEGMENT.id,))))
    assert gone.segments == {}
    with pytest.raises(Corrupt, match="none of that id"):
        apply(gone, child(gone, Changes(remove_segments=(SEGMENT.id,))))
    swapped = child(state, Changes(add_segments=(SEGMENT,), remove_segments=(SEGMENT.id,)))
    assert apply(state, swapped).segments == {SEGMENT.id: SEGMENT}
