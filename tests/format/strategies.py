"""Hypothesis strategies: rows, commits and states as the product could make them."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from lakefeed.format.commit import Changes, Commit, PackInfo, SegmentInfo, State
from lakefeed.format.pack import PackSealed
from lakefeed.format.rows import Codec, Kind, Row

T = TypeVar("T")

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
PATH = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0."), min_size=1, max_size=6
).flatmap(lambda name: st.sampled_from([name, f"d/{name}", f"d/e/{name}"]))
NUMBER = st.one_of(st.integers(0, 300), st.integers(0, (1 << 63) - 1))
U64 = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
IDS = st.integers(0, (1 << 128) - 1).map(lambda number: f"{number:032x}")
ATTRS = st.none() | st.dictionaries(TEXT, TEXT, max_size=3)


@st.composite
def row(draw: st.DrawFn, path: str | None = None) -> Row:
    """A row as a file may hold it; raw rows have no length of their own."""
    size = draw(U64)
    return Row(
        path=draw(PATH) if path is None else path,
        kind=draw(st.sampled_from(Kind)),
        pack=draw(st.one_of(st.just(""), IDS)),
        offset=draw(U64),
        length=draw(st.one_of(st.just(size), U64)),
        size=size,
        codec=draw(st.sampled_from(Codec)),
        crc32c=draw(st.integers(0, (1 << 32) - 1)),
        mtime_ns=draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        mode=draw(st.integers(0, (1 << 32) - 1)),
        attrs=draw(ATTRS),
        seq=draw(st.integers(1, (1 << 63) - 1)),
    )


ROWS = st.lists(row(), max_size=20, unique_by=lambda found: found.path).map(
    lambda rows: sorted(rows, key=lambda found: found.path)
)

SEALED = st.builds(
    PackSealed,
    id=IDS, bytes=NUMBER, payload_end=NUMBER, footer_bytes=NUMBER, rows=NUMBER, tombstones=NUMBER,
    first=TEXT, last=TEXT, refs=st.lists(IDS, max_size=3).map(tuple),
)  # fmt: skip
SEGMENT = st.builds(
    SegmentInfo,
    id=IDS, bytes=NUMBER, footer_bytes=NUMBER, rows=NUMBER, tombstones=NUMBER, first=TEXT,
    last=TEXT, seq_min=NUMBER, seq_max=NUMBER, level=NUMBER,
)  # fmt: skip


def tuples(elements: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    """Tuples of a few."""
    return st.lists(elements, max_size=3).map(lambda found: tuple(found))


CHANGES = st.builds(
    Changes,
    add_packs=tuples(SEALED), remove_packs=tuples(IDS), index_packs=tuples(IDS),
    add_segments=tuples(SEGMENT), remove_segments=tuples(IDS),
    live_bytes=st.dictionaries(IDS, NUMBER, max_size=3), horizon=st.none() | NUMBER,
    swept_ns=st.none() | NUMBER,
)  # fmt: skip
COMMIT = st.builds(
    Commit,
    number=NUMBER, id=IDS, parent=st.none() | IDS, time_ns=NUMBER, operation=TEXT, author=TEXT,
    changes=CHANGES, message=st.none() | TEXT, app=st.dictionaries(TEXT, TEXT, max_size=3),
)  # fmt: skip
INFO = st.builds(
    PackInfo, sealed=SEALED, seq=NUMBER, indexed=st.booleans(), live_bytes=st.none() | NUMBER
)
STATE = st.builds(
    State,
    number=NUMBER, commit_id=IDS, time_ns=NUMBER, horizon=NUMBER,
    packs=st.lists(INFO, max_size=3).map(lambda infos: {i.sealed.id: i for i in infos}),
    segments=st.lists(SEGMENT, max_size=3).map(lambda found: {s.id: s for s in found}),
    swept_ns=NUMBER,
)  # fmt: skip
