"""Commits and checkpoints: what changed, and what the lake consists of afterwards.

A `Commit` names the packs and segments that came and went. A `State` is the sum of all commits up
to one number: everything a snapshot needs to find its files. `apply` adds one commit to a state and
refuses one that does not fit (Corrupt). Checkpoints are states written down, so that opening a lake
replays few commits. All of it is derived from nothing but the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lakefeed.errors import Corrupt
from lakefeed.format import envelope
from lakefeed.format.envelope import Fields
from lakefeed.format.pack import PackSealed


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A pack as a state knows it. `seq` is the number of the commit that added it; `indexed` packs
    have their rows in segments; `live_bytes` is what the last index merge counted (None: never)."""

    sealed: PackSealed
    seq: int
    indexed: bool = False
    live_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment of the merged offset index: rows of paths in [first, last], newest seq included.

    Segments of one `level` are one sorted run; the higher the level, the newer its rows. Level 0 is
    what was written before there were levels: there, a run is what has one range of seq.
    """

    id: str
    bytes: int
    footer_bytes: int
    rows: int
    tombstones: int
    first: str
    last: str
    seq_min: int
    seq_max: int
    level: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What a commit does to the state before it."""

    add_packs: tuple[PackSealed, ...] = ()
    remove_packs: tuple[str, ...] = ()
    index_packs: tuple[str, ...] = ()
    add_segments: tuple[SegmentInfo, ...] = ()
    remove_segments: tuple[str, ...] = ()
    live_bytes: dict[str, int] = field(default_factory=dict)
    horizon: int | None = None
    swept_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """One line of the lake's history."""

    number: int
    id: str
    parent: str | None
    time_ns: int
    operation: str
    author: str
    changes: Changes
    message: str | None = None
    app: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """Everything that snapshot `number` consists of. Snapshots below `horizon` were given up, and
    packs and segments that none names, last changed at `swept_ns` or before, are deleted."""

    number: int = 0
    commit_id: str | None = None
    time_ns: int = 0
    horizon: int = 0
    packs: dict[str, PackInfo] = field(default_factory=dict)
    segments: dict[str, SegmentInfo] = field(default_factory=dict)
    swept_ns: int = 0


def apply(state: State, commit: Commit) -> State:
    """Return the state after `commit`, or raise Corrupt if it does not follow from `state`."""
    changes = commit.changes
    subject = f"commit {commit.number}"
    if commit.number != state.number + 1 or commit.parent != state.commit_id:
        raise Corrupt(subject, expected=f"a child of commit {state.number}", found=commit.parent)
    packs = dict(state.packs)
    segments = dict(state.segments)
    _remove(packs, changes.remove_packs, subject)
    _remove(segments, changes.remove_segments, subject)
    for sealed in changes.add_packs:
        _add(packs, sealed.id, PackInfo(sealed, commit.number), subject)
    for segment in changes.add_segments:
        _add(segments, segment.id, segment, subject)
    for pack in changes.index_packs:
        if pack in packs:
            packs[pack] = replace(packs[pack], indexed=True)
    for pack, live in changes.live_bytes.items():
        if pack in packs:
            packs[pack] = replace(packs[pack], live_bytes=live)
    horizon = max(state.horizon, changes.horizon or 0)
    swept_ns = max(state.swept_ns, changes.swept_ns or 0)
    return State(commit.number, commit.id, commit.time_ns, horizon, packs, segments, swept_ns)


def _remove(table: dict[str, Any], ids: tuple[str, ...], subject: str) -> None:
    for key in ids:
        if table.pop(key, None) is None:
            raise Corrupt(subject, expected=f"{key} to remove", found="none of that id")


def _add(table: dict[str, Any], key: str, value: object, subject: str) -> None:
    if key in table:
        raise Corrupt(subject, expected=f"a new {key}", found="one of that id already")
    table[key] = value


def encode_commit(commit: Commit) -> bytes:
    """Return the file of a commit."""
    changes = _plain(commit.changes)
    changes["add_packs"] = [_plain(pack) for pack in commit.changes.add_packs]
    changes["add_segments"] = [_plain_segment(one) for one in commit.changes.add_segments]
    if changes["swept_ns"] is None:
        del changes["swept_ns"]
    return envelope.seal({"type": "commit", **_plain(commit), "changes": changes})


def decode_commit(data: bytes, subject: str) -> Commit:
    """Return the commit in a file, every field checked."""
    fields = envelope.unseal(data, "commit", subject)
    inner = fields.object("changes")
    changes = Changes(
        add_packs=tuple(_pack(item) for item in inner.objects("add_packs")),
        remove_packs=inner.ids("remove_packs"),
        index_packs=inner.ids("index_packs"),
        add_segments=tuple(_segment(item) for item in inner.objects("add_segments")),
        remove_segments=inner.ids("remove_segments"),
        live_bytes=inner.numbers("live_bytes"),
        horizon=inner.optional_number("horizon"),
        swept_ns=inner.optional_number("swept_ns"),
    )
    parent = fields.optional_text("parent")
    return Commit(
        number=fields.number("number"),
        id=fields.id("id"),
        parent=None if parent is None else fields.id("parent"),
        time_ns=fields.number("time_ns"),
        operation=fields.text("operation"),
        author=fields.text("author"),
        changes=changes,
        message=fields.optional_text("message"),
        app=fields.texts("app"),
    )


def encode_checkpoint(state: State) -> bytes:
    """Return the file of a checkpoint."""
    body = _plain(state)
    body["packs"] = [
        {**_plain(info.sealed), "seq": info.seq, "indexed": int(info.indexed),
         "live_bytes": info.live_bytes}
        for info in state.packs.values()
    ]  # fmt: skip
    body["segments"] = [_plain_segment(segment) for segment in state.segments.values()]
    if not state.swept_ns:
        del body["swept_ns"]
    return envelope.seal({"type": "checkpoint", **body})


def decode_checkpoint(data: bytes, subject: str) -> State:
    """Return the state in a checkpoint, every field checked."""
    fields = envelope.unseal(data, "checkpoint", subject)
    packs: dict[str, PackInfo] = {}
    segments: dict[str, SegmentInfo] = {}
    for item in fields.objects("packs"):
        live = item.optional_number("live_bytes")
        info = PackInfo(_pack(item), item.number("seq"), item.flag("indexed"), live)
        _add(packs, info.sealed.id, info, subject)
    for item in fields.objects("segments"):
        segment = _segment(item)
        _add(segments, segment.id, segment, subject)
    return State(
        number=fields.number("number"),
        commit_id=fields.id("commit_id"),
        time_ns=fields.number("time_ns"),
        horizon=fields.number("horizon"),
        packs=packs,
        segments=segments,
        swept_ns=fields.optional_number("swept_ns") or 0,
    )


def _plain(value: Any) -> dict[str, Any]:
    # dataclasses.asdict copies recursively, 30 times slower: a state may hold 100,000 packs.
    return {name: getattr(value, name) for name in value.__slots__}


def _plain_segment(segment: SegmentInfo) -> dict[str, Any]:
    plain = _plain(segment)
    if not segment.level:
        del plain["level"]
    return plain


def _pack(fields: Fields) -> PackSealed:
    return PackSealed(
        id=fields.id("id"),
        bytes=fields.number("bytes"),
        payload_end=fields.number("payload_end"),
        footer_bytes=fields.number("footer_bytes"),
        rows=fields.number("rows"),
        tombstones=fields.number("tombstones"),
        first=fields.text("first"),
        last=fields.text("last"),
        refs=fields.ids("refs"),
    )


def _segment(fields: Fields) -> SegmentInfo:
    return SegmentInfo(
        id=fields.id("id"),
        bytes=fields.number("bytes"),
        footer_bytes=fields.number("footer_bytes"),
        rows=fields.number("rows"),
        tombstones=fields.number("tombstones"),
        first=fields.text("first"),
        last=fields.text("last"),
        seq_min=fields.number("seq_min"),
        seq_max=fields.number("seq_max"),
        level=fields.optional_number("level") or 0,
    )
